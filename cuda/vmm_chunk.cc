#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <optional>

#include "chunk_kinds.h"
#include "driver_call.h"
#include "memory_error.h"
#include "owned.h"

namespace tensorferry::cuda {
namespace {

struct Range {
  DevicePtr at = 0;
  std::size_t bytes = 0;
  friend bool operator==(const Range&, const Range&) = default;
};
struct ReleaseAllocation {
  void operator()(AllocationHandle handle) const noexcept {
    (void)raw_call<"cuMemRelease">(handle);
  }
};
struct FreeAddresses {
  void operator()(Range range) const noexcept {
    (void)raw_call<"cuMemAddressFree">(range.at, range.bytes);
  }
};
struct Unmap {
  void operator()(Range range) const noexcept {
    (void)raw_call<"cuMemUnmap">(range.at, range.bytes);
  }
};
using Allocation = Owned<AllocationHandle, ReleaseAllocation>;

// Physical memory, mapped whole at addresses of its own. Never assigned to: members have to go in
// the reverse order, unmapped first.
struct Mapping {
  Mapping() = default;
  Mapping(Mapping&&) = default;
  Mapping& operator=(Mapping&&) = delete;

  Owned<Range, FreeAddresses> addresses;
  Allocation allocation;
  Owned<Range, Unmap> mapped;
};

Result<Mapping> map(Allocation allocation, std::size_t bytes, const PrimaryContext& context) {
  Mapping made;
  made.allocation = std::move(allocation);
  DevicePtr at = 0;
  if (int code = raw_call<"cuMemAddressReserve">(&at, bytes, std::size_t{0}, DevicePtr{0}, 0ULL))
    return memory_failure("cuMemAddressReserve", code, bytes, context);
  made.addresses = Owned<Range, FreeAddresses>({at, bytes});
  if (int code = raw_call<"cuMemMap">(at, bytes, std::size_t{0}, made.allocation.get(), 0ULL))
    return memory_failure("cuMemMap", code, bytes, context);
  made.mapped = Owned<Range, Unmap>({at, bytes});
  abi::AccessDesc access;
  access.location.id = context.device().ordinal;
  if (int code = raw_call<"cuMemSetAccess">(at, bytes, &access, std::size_t{1}))
    return memory_failure("cuMemSetAccess", code, bytes, context);
  return made;
}

class VmmChunk final : public Chunk {
 public:
  VmmChunk(ContextPtr context, Mapping mapping, std::size_t bytes) noexcept
      : Chunk(std::move(context), ShareMode::Vmm, mapping.mapped.get().at, bytes),
        mapping_(std::move(mapping)) {}
  ~VmmChunk() override {
    const RelaxedCapture relaxed;
    mapping_.reset();
  }

  Result<ChunkHandle> export_handle() const override {
    int fd = -1;
    if (auto done = call<"cuMemExportToShareableHandle">(
            static_cast<void*>(&fd), mapping_->allocation.get(), abi::kHandlePosixFd, 0ULL);
        !done)
      return std::unexpected(done.error());
    UniqueFd owned(fd);
    // Nobody says whether the driver does it: a child of ours must not get it by accident.
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return system_failure("fcntl(F_SETFD)", errno);
    return owned;
  }

 private:
  std::optional<Mapping> mapping_;  // gone while the destructor's guard lives
};

Result<std::shared_ptr<Chunk>> chunk_of(ContextPtr context, Allocation allocation,
                                        std::size_t bytes) {
  auto mapping = map(std::move(allocation), bytes, *context);
  if (!mapping) return std::unexpected(mapping.error());
  return std::make_shared<VmmChunk>(std::move(context), std::move(*mapping), bytes);
}

}  // namespace

Result<std::shared_ptr<Chunk>> create_vmm_chunk(ContextPtr context, std::size_t bytes) {
  abi::AllocationProp prop;
  prop.requested_handle_types = abi::kHandlePosixFd;
  prop.location.id = context->device().ordinal;
  std::size_t granularity = 0;
  if (auto done =
          call<"cuMemGetAllocationGranularity">(&granularity, &prop, abi::kGranularityMinimum);
      !done)
    return std::unexpected(done.error());
  expects(granularity > 0, "the driver's granularity is a size");
  const std::size_t rounded = (bytes + granularity - 1) / granularity * granularity;
  AllocationHandle handle = 0;
  if (int code = raw_call<"cuMemCreate">(&handle, rounded, &prop, 0ULL))
    return memory_failure("cuMemCreate", code, rounded, *context);
  return chunk_of(std::move(context), Allocation(handle), rounded);
}

Result<std::shared_ptr<Chunk>> open_vmm_chunk(ContextPtr context, UniqueFd fd, std::size_t bytes) {
  AllocationHandle handle = 0;
  // The driver takes a descriptor in a pointer's place.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  auto* os_handle = reinterpret_cast<void*>(static_cast<std::uintptr_t>(fd.get()));
  if (auto done = call<"cuMemImportFromShareableHandle">(&handle, os_handle, abi::kHandlePosixFd);
      !done)
    return std::unexpected(done.error());
  return chunk_of(std::move(context), Allocation(handle), bytes);
}

}  // namespace tensorferry::cuda
