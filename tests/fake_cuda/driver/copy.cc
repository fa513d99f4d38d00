#include "copy.h"

#include "checker.h"
#include "faults.h"
#include "memory.h"

#include <algorithm>
#include <cstring>

namespace fakecuda {
namespace {

struct Kind {
  bool from_device, to_device, is_pinned, is_peer;
};

int home_of(Call& call, std::uint64_t address) {
  const Mapping* mapping = call.driver.space.find(address);
  return mapping != nullptr ? mapping->physical->device : -1;
}

Kind kind_of(Call& call, const Place& to, const Place& from, const Shape& shape) {
  Kind kind{};
  kind.from_device = call.driver.space.contains(from.address);
  kind.to_device = call.driver.space.contains(to.address);
  const Place& host = kind.from_device ? to : from;
  kind.is_pinned = call.driver.host.is_pinned(host.address, extent(host, shape));
  kind.is_peer = kind.from_device && kind.to_device &&
                 home_of(call, from.address) != home_of(call, to.address);
  return kind;
}

void count_copy(const Kind& kind, std::uint64_t bytes) {
  using Counters = fakecuda_counters;
  auto both = [bytes](std::uint64_t Counters::* copies, std::uint64_t Counters::* sum) {
    count(copies);
    count(sum, bytes);
  };
  if (kind.from_device && kind.to_device)
    kind.is_peer ? both(&Counters::copies_peer, &Counters::bytes_peer)
                 : both(&Counters::copies_d2d, &Counters::bytes_d2d);
  else if (kind.to_device)
    kind.is_pinned ? both(&Counters::copies_h2d_pinned, &Counters::bytes_h2d_pinned)
                   : both(&Counters::copies_h2d_pageable, &Counters::bytes_h2d_pageable);
  else if (kind.from_device)
    kind.is_pinned ? both(&Counters::copies_d2h_pinned, &Counters::bytes_d2h_pinned)
                   : both(&Counters::copies_d2h_pageable, &Counters::bytes_d2h_pageable);
  else
    both(&Counters::copies_h2h, &Counters::bytes_h2h);
}

// One row, piece by piece: a row may lie in several allocations on either side.
void copy_pieces(std::vector<Piece> to, std::vector<Piece> from) {
  std::size_t t = 0, f = 0;
  while (t < to.size() && f < from.size()) {
    const std::uint64_t size = std::min(to[t].size, from[f].size);
    std::memmove(to[t].data, from[f].data, size);
    for (Piece* piece : {&to[t], &from[f]}) {
      piece->data += size;
      piece->size -= size;
    }
    if (to[t].size == 0) ++t;
    if (f < from.size() && from[f].size == 0) ++f;
  }
}

struct Plan {
  Place to, from;
  Shape shape;
  int device = 0;
  std::uint64_t pinned_host = 0;  // must still be known to the driver when the copy runs; 0: none
  std::uint64_t pinned_size = 0;
  bool corrupts = false;
  std::shared_ptr<std::vector<char>> staged;  // of the source
};

CUresult copy_row(const Plan& plan, std::uint64_t row, std::uint64_t slice) {
  std::vector<Piece> to, from;
  {
    Lock lock(driver().mutex);
    if (plan.pinned_host != 0 && !driver().host.is_pinned(plan.pinned_host, plan.pinned_size))
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    const auto at = [&](const Place& place) {
      return place.address + slice * place.slice + row * place.pitch;
    };
    auto& space = driver().space;
    if (CUresult bad = space.reach({at(plan.to), plan.shape.width, true}, plan.device, to))
      return bad;
    if (CUresult bad = space.reach({at(plan.from), plan.shape.width, false}, plan.device, from))
      return bad;
  }
  copy_pieces(std::move(to), std::move(from));
  return CUDA_SUCCESS;
}

CUresult run(const Plan& plan) {
  for (std::uint64_t slice = 0; slice < plan.shape.depth; ++slice)
    for (std::uint64_t row = 0; row < plan.shape.height; ++row)
      if (CUresult bad = copy_row(plan, row, slice)) return bad;
  if (!plan.corrupts) return CUDA_SUCCESS;
  std::vector<Piece> first;
  Lock lock(driver().mutex);
  if (CUresult bad = driver().space.reach({plan.to.address, 1, true}, plan.device, first))
    return bad;
  *first[0].data = static_cast<char>(*first[0].data ^ 0x55);
  return CUDA_SUCCESS;
}

// Rows without gaps are one row.
void flatten(Place& to, Place& from, Shape& shape) {
  if (shape.height > 1 && to.pitch == shape.width && from.pitch == shape.width) {
    const std::uint64_t whole = shape.width * shape.height;
    if (shape.depth == 1 || (to.slice == whole && from.slice == whole))
      shape = {whole * shape.depth, 1, 1};
  }
}

// What a copy reads and writes, row by row where there are few enough.
void add_touches(Operation& operation, const Place& place, const Shape& shape, bool writes) {
  constexpr std::uint64_t kFew = 64;
  if (shape.height * shape.depth > kFew) {
    operation.touches.push_back({place.address, extent(place, shape), writes});
    return;
  }
  for (std::uint64_t slice = 0; slice < shape.depth; ++slice)
    for (std::uint64_t row = 0; row < shape.height; ++row)
      operation.touches.push_back(
          {place.address + slice * place.slice + row * place.pitch, shape.width, writes});
}

void stage(Plan& plan) {
  const std::uint64_t size = extent(plan.from, plan.shape);
  const auto* bytes = reinterpret_cast<const char*>(plan.from.address);
  plan.staged = std::make_shared<std::vector<char>>(bytes, bytes + size);
  plan.from.address = reinterpret_cast<std::uintptr_t>(plan.staged->data());
}

bool must_wait(const Kind& kind, Waits waits) {
  if (kind.from_device && kind.to_device) return false;
  if (!kind.from_device && !kind.to_device) return true;
  if (!kind.is_pinned) return kind.from_device;  // to the device: staged, so the caller may go on
  return waits == Waits::Always;
}

}  // namespace

std::uint64_t extent(const Place& place, const Shape& shape) {
  return (shape.depth - 1) * place.slice + (shape.height - 1) * place.pitch + shape.width;
}

bool is_valid(Call& call, std::uint64_t address, std::uint64_t size) {
  if (!call.driver.space.contains(address)) return address != 0;
  for (std::uint64_t at = address; at < address + size;) {
    const Mapping* mapping = call.driver.space.find(at);
    if (mapping == nullptr || mapping->is_freed) return false;
    at = mapping->base + mapping->size;
  }
  return true;
}

// A copy is refused at once where it would write what the device may only read: seen on a driver
// of CUDA 13.0 (gpu-probe, question 1).
static bool only_reads(Call& call, std::uint64_t address, int device) {
  const Mapping* mapping = call.driver.space.find(address);
  const std::uint32_t bit = 1U << device;
  return mapping != nullptr && (mapping->readable & bit) != 0 && (mapping->writable & bit) == 0;
}

CUresult copy(Call& call, const std::shared_ptr<Stream>& stream, Place to, Place from, Shape shape,
              Waits waits) {
  const bool corrupts = take_corruption();
  if (shape.width == 0 || shape.height == 0 || shape.depth == 0) return CUDA_SUCCESS;
  if (waits == Waits::Always)
    if (CUresult bad = refuse_while_capturing(call)) return bad;
  flatten(to, from, shape);
  if (!is_valid(call, to.address, extent(to, shape)) ||
      !is_valid(call, from.address, extent(from, shape)))
    return CUDA_ERROR_INVALID_VALUE;
  if (only_reads(call, to.address, stream->device)) return CUDA_ERROR_INVALID_VALUE;
  const Kind kind = kind_of(call, to, from, shape);
  count_copy(kind, shape.width * shape.height * shape.depth);
  Operation operation;
  operation.what = "copy";
  add_touches(operation, to, shape, true);
  add_touches(operation, from, shape, false);
  Plan plan{to, from, shape, stream->device, 0, 0, corrupts, nullptr};
  if (kind.is_pinned && kind.from_device != kind.to_device) {
    const Place& host = kind.from_device ? to : from;
    plan.pinned_host = host.address;
    plan.pinned_size = extent(host, shape);
  }
  if (kind.to_device && !kind.from_device && !kind.is_pinned && !stream->capture) stage(plan);
  operation.run = [plan = std::move(plan)] { return run(plan); };
  Point point;
  if (CUresult bad = enqueue(call, stream, std::move(operation), &point)) return bad;
  if (!point.stream || !must_wait(kind, waits)) return CUDA_SUCCESS;
  count(&fakecuda_counters::implicit_syncs);
  call.driver.engine.wait(call.lock, point);
  note_seen(call.driver, *stream);
  return context_error(stream->context);
}

}  // namespace fakecuda
