// The two kinds of chunk, as chunk.cc tells them apart.
#pragma once

#include <tensorferry/cuda/chunk.h>

namespace tensorferry::cuda {

Result<std::shared_ptr<Chunk>> create_vmm_chunk(ContextPtr context, std::size_t bytes);
Result<std::shared_ptr<Chunk>> open_vmm_chunk(ContextPtr context, UniqueFd fd, std::size_t bytes);
Result<std::shared_ptr<Chunk>> create_legacy_chunk(ContextPtr context, std::size_t bytes);
Result<std::shared_ptr<Chunk>> open_legacy_chunk(ContextPtr context, const IpcHandle& handle,
                                                 std::size_t bytes);

}  // namespace tensorferry::cuda
