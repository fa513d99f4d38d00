// Physical memory of a device: one memfd, so that the kernel counts who holds it, as a real driver
// does. After the data comes a page that says what it is, to whoever gets the descriptor.
#pragma once

#include "cuda_api.h"
#include "process.h"
#include "shadow.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

namespace fakecuda {

struct Driver;

inline constexpr int kMaxImporters = 32;

struct Trailer {
  std::uint64_t magic;
  std::uint64_t id;  // never the same twice on the machine
  std::uint64_t size;
  std::int32_t device;  // its number on the machine
  std::uint32_t handle_types;
  std::uint32_t is_pool;  // a pool's descriptor: no data
  // Processes that have it open by a legacy handle.
  std::array<std::atomic<std::uint32_t>, kMaxImporters> importers;
};

struct Physical {
  Physical() = default;
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;
  ~Physical();

  std::uint64_t id = 0;
  int fd = -1;
  std::uint64_t size = 0;
  int device = 0;  // its number on the machine
  unsigned handle_types = 0;
  bool is_owner = false;  // this process made it and pays for it
  bool poison_at_end = false;
  char* data = nullptr;  // where the emulator itself reads and writes it, writable whatever the
                         // program may do
  ShadowEntry* shadow = nullptr;
  Trailer* trailer = nullptr;
  unsigned references = 0;  // of its handle (VMM)
};

// OUT_OF_MEMORY where the device's quota or the machine is exhausted. Filled with 0xA5.
CUresult make_physical(Driver& driver, std::uint64_t size, int device, unsigned handle_types,
                       std::shared_ptr<Physical>& made);
// What `fd` holds; the descriptor remains the caller's. INVALID_VALUE where it isn't one of ours.
CUresult open_physical(int fd, std::shared_ptr<Physical>& opened);

// Fills all of a small range, and the ends of a large one: enough to be noticed, without taking
// gigabytes.
void poison(char* data, std::uint64_t size, unsigned char value);

}  // namespace fakecuda
