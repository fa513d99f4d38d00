// Spans as NVTX ranges. Where the build had no NVTX header there are none.
#pragma once

#include <tensorferry/transport/trace.h>

#include <cstdint>

namespace tensorferry::nvtx_sink {

bool is_built() noexcept;
// Once, before all else: whether a tool listens.
bool start() noexcept;

// On the calling thread; these nest.
void push(Phase phase, std::uint64_t number) noexcept;
void pop() noexcept;
// From any thread to any thread; returns what end() takes.
std::uint64_t begin(Phase phase, std::uint64_t number) noexcept;
void end(std::uint64_t range) noexcept;

void mark_host_wait(const char* reason, std::uint64_t number) noexcept;

}  // namespace tensorferry::nvtx_sink
