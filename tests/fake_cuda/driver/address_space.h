// Device addresses of this process: numbers in a range that no thread can touch, and what lies
// behind them. Guarded by the driver's lock.
#pragma once

#include "physical.h"
#include "stream.h"

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace fakecuda {

enum class MappingKind : std::uint8_t { Allocated, Vmm, Imported, Pooled };

struct Mapping {
  CUdeviceptr base = 0;
  std::uint64_t size = 0;
  std::shared_ptr<Physical> physical;
  std::uint64_t offset = 0;  // of `base` in the physical memory
  MappingKind kind = MappingKind::Allocated;
  std::uint32_t readable = 0, writable = 0;  // by which devices, a bit for each ordinal
  std::uint64_t buffer_id = 0;
  CUcontext context = nullptr;
  int device = 0;  // ordinal, as the pointer attribute says it
  CUmemoryPool pool = nullptr;
  CUmemGenericAllocationHandle handle = 0;
  bool is_freed = false;  // a free is enqueued
};

// Memory as the emulator itself reaches it, kept alive.
struct Piece {
  char* data = nullptr;
  std::uint64_t size = 0;
  std::shared_ptr<Physical> keep;
};

class AddressSpace {
 public:
  // Reserves the range; false where the kernel doesn't give it.
  bool open();
  bool contains(std::uint64_t address) const { return address >= first_ && address < end_; }

  // A range with a gap after it; 0: none left. The lowest that fits, so that addresses come again
  // soon after a free.
  CUdeviceptr take(std::uint64_t size, std::uint64_t alignment);
  // false: no such range begins there.
  bool give_back(CUdeviceptr base);
  // Size of the taken range that `address` lies in, and its base; 0: none.
  std::uint64_t taken(CUdeviceptr address, CUdeviceptr& base) const;

  Mapping& map(Mapping mapping);
  bool unmap(CUdeviceptr base);
  Mapping* find(CUdeviceptr address);
  std::vector<Mapping*> within(CUdeviceptr base, std::uint64_t size);
  const std::map<CUdeviceptr, Mapping>& mappings() const { return mappings_; }

  std::uint64_t mapped(MappingKind kind) const { return counts_[static_cast<std::size_t>(kind)]; }
  // Ranges taken for the caller himself.
  std::uint64_t reservations() const { return reservations_; }
  void note_reservation(bool made) { made ? ++reservations_ : --reservations_; }

  // The memory behind a range, device or host, in pieces; ILLEGAL_ADDRESS where a part isn't mapped
  // or `device` may not.
  CUresult reach(const Touch& touch, int device, std::vector<Piece>& pieces);

 private:
  struct Taken {
    std::uint64_t size;  // asked for
    std::uint64_t end;   // with the gap
  };

  CUdeviceptr first_ = 0, end_ = 0;
  std::map<CUdeviceptr, Taken> taken_;
  std::map<CUdeviceptr, Mapping> mappings_;
  std::uint64_t buffer_ids_ = 0;
  std::array<std::uint64_t, 4> counts_{};
  std::uint64_t reservations_ = 0;
};

}  // namespace fakecuda
