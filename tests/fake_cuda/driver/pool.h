// Memory pools.
#pragma once

#include "api.h"

#include <map>
#include <memory>

namespace fakecuda {

struct Pool {
  bool is_host = false;  // pinned host memory
  int device = 0;        // ordinal
  unsigned handle_types = 0;
  bool is_imported = false;
  std::uint32_t writable = 0, readable = 0;  // a bit for each ordinal
  std::map<CUmemPool_attribute, std::uint64_t> attributes;
  std::uint64_t used = 0, used_peak = 0;
  std::shared_ptr<Physical> token;  // what its descriptor leads to: no data, only who it is
  bool is_exported = false;
};

CUmemoryPool add_pool(Driver& driver, int device, unsigned handle_types);
// The one that a device has from the beginning.
CUmemoryPool default_pool(Driver& driver, int ordinal);
CUmemoryPool default_host_pool(Driver& driver);
bool is_default_pool(const Driver& driver, CUmemoryPool pool);
// Device memory at an address of its own, for the devices that the pool lets in.
CUresult map_pooled(Call& call, const Pool& pool, CUmemoryPool handle,
                    std::shared_ptr<Physical> physical, std::uint64_t size, CUdeviceptr* pointer);

}  // namespace fakecuda
