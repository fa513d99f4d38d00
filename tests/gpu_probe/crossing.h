// A chunk and an event that go to a helper and back, as between server and stub.
#pragma once

#include "answer.h"
#include "gpu.h"
#include "helper.h"

namespace tensorferry::gpu_probe {

inline constexpr std::size_t kBlock = 4096;  // bytes that are written and read
inline constexpr std::size_t kChunk = 2 << 20;

// A block of the pattern that a seed stands for, and its checksum.
std::vector<std::byte> block(std::uint64_t seed);
std::uint64_t block_checksum(std::uint64_t seed);

// What happened to each: "" where it works.
struct Crossing {
  std::string memory, event;
};
// The helper, which plays the role "map", maps our memory, and opens and records our event.
Result<Crossing> cross(const Gpu& gpu, const Helper& helper);
// "memory yes, event yes"; yes to both, or the memory's answer first.
Answer answer_of(const Crossing& crossing);

}  // namespace tensorferry::gpu_probe
