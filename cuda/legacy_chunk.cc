#include <tensorferry/cuda/gpu_error.h>

#include <string>

#include "chunk_kinds.h"
#include "driver_call.h"
#include "memory_error.h"
#include "owned.h"

namespace tensorferry::cuda {
namespace {

// The driver puts smaller allocations together into blocks of this size and exports whole blocks.
constexpr std::size_t kDriverBlock = 2 << 20;

struct Free {
  void operator()(DevicePtr at) const noexcept { (void)raw_call<"cuMemFree_v2">(at); }
};
struct Close {
  void operator()(DevicePtr at) const noexcept { (void)raw_call<"cuIpcCloseMemHandle">(at); }
};

template <class GiveBack>
class LegacyChunk final : public Chunk {
 public:
  LegacyChunk(ContextPtr context, Owned<DevicePtr, GiveBack> memory, std::size_t bytes) noexcept
      : Chunk(std::move(context), ShareMode::LegacyIpc, memory.get(), bytes),
        memory_(std::move(memory)) {}
  ~LegacyChunk() override {
    const RelaxedCapture relaxed;
    // Where the context is gone its memory is, too.
    const auto guard = ContextGuard::enter(*Chunk::context());
    memory_.reset();
  }

  Result<ChunkHandle> export_handle() const override {
    auto guard = ContextGuard::enter(*Chunk::context());
    if (!guard) return std::unexpected(guard.error());
    IpcHandle handle{};
    if (auto done = call<"cuIpcGetMemHandle">(&handle, base()); !done)
      return std::unexpected(done.error());
    return handle;
  }

 private:
  Owned<DevicePtr, GiveBack> memory_;
};

}  // namespace

Result<std::shared_ptr<Chunk>> create_legacy_chunk(ContextPtr context, std::size_t bytes) {
  const std::size_t rounded = (bytes + kDriverBlock - 1) / kDriverBlock * kDriverBlock;
  DevicePtr at = 0;
  if (int code = raw_call<"cuMemAlloc_v2">(&at, rounded))
    return memory_failure("cuMemAlloc", code, rounded, *context);
  return std::make_shared<LegacyChunk<Free>>(std::move(context), Owned<DevicePtr, Free>(at),
                                             rounded);
}

Result<std::shared_ptr<Chunk>> open_legacy_chunk(ContextPtr context, const IpcHandle& handle,
                                                 std::size_t bytes) {
  DevicePtr at = 0;
  const int code = raw_call<"cuIpcOpenMemHandle_v2">(&at, handle, abi::kIpcLazyPeerAccess);
  if (code == abi::kInvalidContext)
    return gpu_failure(GpuErrorKind::PidnsMismatch,
                       "cuIpcOpenMemHandle: CUDA_ERROR_INVALID_CONTEXT (201): legacy IPC needs two "
                       "processes in one PID namespace (containers: --pid=host, or one of them)");
  if (code != abi::kSuccess) return driver_failure("cuIpcOpenMemHandle", code);
  Owned<DevicePtr, Close> memory(at);
  DevicePtr base = 0;
  std::size_t size = 0;
  if (auto done = call<"cuMemGetAddressRange_v2">(&base, &size, at); !done)
    return std::unexpected(done.error());
  if (base != at || size < bytes)
    return failure(ErrorCode::Protocol, "the peer's chunk is of " + std::to_string(size) +
                                            " bytes where " + std::to_string(bytes) +
                                            " were announced");
  return std::make_shared<LegacyChunk<Close>>(std::move(context), std::move(memory), bytes);
}

}  // namespace tensorferry::cuda
