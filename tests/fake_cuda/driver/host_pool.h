// Pools of pinned host memory.
#pragma once

#include "pool.h"

namespace fakecuda {

bool is_host_location(CUmemLocationType type);
CUmemoryPool add_host_pool(Driver& driver);
CUresult allocate_host(Call& call, const std::shared_ptr<Stream>& stream, CUdeviceptr* pointer,
                       std::uint64_t size, CUmemoryPool pool);
// nullptr: no such memory of a pool. Enqueues the free else.
CUresult free_host_async(Call& call, const std::shared_ptr<Stream>& stream, CUdeviceptr pointer);
bool is_pooled_host(const Driver& driver, CUdeviceptr pointer);

}  // namespace fakecuda
