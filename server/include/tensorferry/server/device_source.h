// Device memory of a caller's that is to be copied.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

struct CUstream_st;

namespace tensorferry::server {

struct DeviceSource {
  int device = 0;  // our ordinal
  const std::byte* address = nullptr;
  std::size_t bytes = 0;  // in C order
  // The stream that its owner works on: the copy is put there (1: the legacy default stream, 2: the
  // per-thread one). None: nobody writes it while `keeper` is held.
  std::optional<CUstream_st*> stream;
  // Without a stream: who wrote it may not be done, so that the copy comes after all that this
  // process has put on the device. Else it is complete.
  bool after_all = false;
  std::shared_ptr<void> keeper;  // let go of when the copy is done
};

}  // namespace tensorferry::server
