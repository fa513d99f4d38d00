// Copies of up to three dimensions between any two places.
#pragma once

#include "capture.h"

namespace fakecuda {

// `depth` slices of `height` rows of `width` bytes.
struct Place {
  std::uint64_t address = 0;
  std::uint64_t pitch = 0;  // bytes from row to row
  std::uint64_t slice = 0;  // and from slice to slice
};

struct Shape {
  std::uint64_t width = 0, height = 1, depth = 1;
};

enum class Waits : bool { AsTheKindDemands, Always };

// `waits`: what the synchronous functions do: until the copy is done, except from device to device.
CUresult copy(Call& call, const std::shared_ptr<Stream>& stream, Place to, Place from, Shape shape,
              Waits waits);
// Bytes from the first to the last.
std::uint64_t extent(const Place& place, const Shape& shape);
// Mapped whole, if it is a device's; host memory isn't looked at.
bool is_valid(Call& call, std::uint64_t address, std::uint64_t size);

}  // namespace fakecuda
