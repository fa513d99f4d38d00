// Device memory of cuMemAlloc, and what is freed with a context.
#pragma once

#include "api.h"

#include <memory>

namespace fakecuda {

inline constexpr std::uint32_t kAllDevices = 0xffff;

// Frees device and host memory that belongs to that context.
void free_memory_of(Driver& driver, CUcontext context);
void destroy_event(Driver& driver, const std::shared_ptr<Event>& event);

// Waits for what the device still does: some functions do so on their own, whoever calls them.
void wait_implicitly(Call& call);
std::string hex(std::uint64_t value);

}  // namespace fakecuda
