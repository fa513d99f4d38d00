#include <fcntl.h>
#include <sys/mman.h>
#include <tensorferry/cuda/device.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/pinned_region.h>
#include <tensorferry/transport/deadline.h>
#include <unistd.h>

#include <cerrno>

#include "crossing.h"

namespace tensorferry::gpu_probe {
namespace {

using cuda::abi::AllocationHandle;

struct Mapped {
  cuda::DevicePtr at = 0;
  double map_us = 0, access_us = 0;
};

// As the library maps, with other access rights and with times. Never unmapped: the process ends.
Result<Mapped> map_raw(AllocationHandle handle, std::size_t bytes, int ordinal, int rights) {
  Mapped mapped;
  if (auto done = cuda::call<"cuMemAddressReserve">(&mapped.at, bytes, std::size_t{0},
                                                    cuda::DevicePtr{0}, 0ULL);
      !done)
    return std::unexpected(done.error());
  auto start = Clock::now();
  if (auto done = cuda::call<"cuMemMap">(mapped.at, bytes, std::size_t{0}, handle, 0ULL); !done)
    return std::unexpected(done.error());
  mapped.map_us = microseconds_since(start);
  cuda::abi::AccessDesc access;
  access.location.id = ordinal;
  access.flags = rights;
  start = Clock::now();
  if (auto done = cuda::call<"cuMemSetAccess">(mapped.at, bytes, &access, std::size_t{1}); !done)
    return std::unexpected(done.error());
  mapped.access_us = microseconds_since(start);
  return mapped;
}

Result<AllocationHandle> import_raw(const UniqueFd& fd) {
  AllocationHandle handle = 0;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver takes a descriptor in a pointer's place
  auto* os_handle = reinterpret_cast<void*>(static_cast<std::uintptr_t>(fd.get()));
  if (auto done = cuda::call<"cuMemImportFromShareableHandle">(&handle, os_handle,
                                                               cuda::abi::kHandlePosixFd);
      !done)
    return std::unexpected(done.error());
  return handle;
}

// A chunk with block(1) at its start, and its descriptor.
struct Shared {
  std::shared_ptr<cuda::Chunk> chunk;
  UniqueFd fd;
};
Result<Shared> share(const Gpu& gpu, std::size_t bytes = kChunk) {
  auto chunk = cuda::Chunk::create(gpu.context(), bytes, cuda::ShareMode::Vmm);
  if (!chunk) return std::unexpected(chunk.error());
  if (auto put = gpu.write((*chunk)->base(), block(1)); !put) return std::unexpected(put.error());
  auto handle = (*chunk)->export_handle();
  if (!handle) return std::unexpected(handle.error());
  return Shared{*chunk, std::get<UniqueFd>(std::move(*handle))};
}

constexpr int kReadOnly = 1;  // CU_MEM_ACCESS_FLAGS_PROT_READ

}  // namespace

Result<Answer> read_only_mapping() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto shared = share(*gpu);
  if (!shared) return std::unexpected(shared.error());
  auto helper = Helper::start("map_read_only");
  if (!helper) return std::unexpected(helper.error());
  auto mapped = helper->ask({.numbers = {shared->chunk->bytes()}}, shared->fd.get());
  if (!mapped) return Answer{"no", mapped.error().message};
  const bool read = mapped->numbers[0] == block_checksum(1);
  const std::string reading = read ? "it is mapped and read; " : "it is mapped and can't be read; ";
  auto written = helper->ask({});
  const std::string writing =
      written ? "writing there is not refused" : "writing: " + written.error().message;
  auto seen = gpu->read(shared->chunk->base(), kBlock);
  if (!seen) return std::unexpected(seen.error());
  const bool intact = *seen == block(1);
  return Answer{read && intact ? "yes" : "no",
                reading + writing + (intact ? "; nothing has changed here" : "; it has changed")};
}

Result<void> map_read_only(const Link& link) {
  UniqueFd fd;
  auto asked = link.receive(&fd);
  if (!asked) return std::unexpected(asked.error());
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto handle = import_raw(fd);
  if (!handle) return std::unexpected(handle.error());
  auto mapped = map_raw(*handle, asked->numbers[0], 0, kReadOnly);
  if (!mapped) return std::unexpected(mapped.error());
  auto seen = gpu->read(mapped->at, kBlock);
  if (!seen) return std::unexpected(seen.error());
  std::uint64_t checksum = *seen == block(1) ? block_checksum(1) : 0;
  if (auto sent = link.send({.numbers = {checksum}}); !sent) return sent;
  if (auto again = link.receive(); !again) return {};
  if (auto put = gpu->write(mapped->at, block(2)); !put) return put;
  return link.send({});
}

Result<Answer> import_in_the_same_process() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto shared = share(*gpu);
  if (!shared) return std::unexpected(shared.error());
  auto second = cuda::Chunk::open(gpu->context(), std::move(shared->fd), shared->chunk->bytes());
  if (!second) return Answer{"no", second.error().message};
  if (auto put = gpu->write((*second)->base(), block(2)); !put) return std::unexpected(put.error());
  auto seen = gpu->read(shared->chunk->base(), kBlock);
  if (!seen) return std::unexpected(seen.error());
  const bool same = *seen == block(2);
  return Answer{same ? "yes" : "no", same ? "two mappings, the same memory" : "other memory"};
}

Result<Answer> import_without_the_home_device() {
  auto all = cuda::devices();
  if (!all) return std::unexpected(all.error());
  if (all->size() < 2) return not_tried("one device is visible; it takes two");
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto helper = Helper::start(
      "map", {.environment = {"CUDA_VISIBLE_DEVICES=" + cuda::to_string((*all)[1].uuid)},
              .new_pid_namespace = false});
  if (!helper) return std::unexpected(helper.error());
  auto crossing = cross(*gpu, *helper);
  if (!crossing) return std::unexpected(crossing.error());
  return answer_of(*crossing);
}

namespace {

// The pages of a descriptor, mapped and registered here.
struct Registered {
  void* at = MAP_FAILED;
  std::unique_ptr<cuda::PinnedRegion> region;
};
Result<Registered> map_and_register(const Gpu& gpu, int fd) {
  Registered made;
  made.at = ::mmap(nullptr, kChunk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (made.at == MAP_FAILED) return system_failure("mmap", errno);
  auto region =
      cuda::PinnedRegion::create(gpu.context(), {static_cast<std::byte*>(made.at), kChunk});
  if (!region) return std::unexpected(region.error());
  made.region = *std::move(region);
  return made;
}

}  // namespace

Result<Answer> registering_shared_pages_twice() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto memory = share(*gpu);
  if (!memory) return std::unexpected(memory.error());
  const UniqueFd pages(::memfd_create("gpu-probe", MFD_CLOEXEC));
  if (!pages || ::ftruncate(pages.get(), kChunk) != 0) return system_failure("memfd", errno);
  auto ours = map_and_register(*gpu, pages.get());
  if (!ours) return Answer{"no", "already in one process: " + ours.error().message};
  auto helper = Helper::start("register");
  if (!helper) return std::unexpected(helper.error());
  auto theirs = helper->ask({}, pages.get());
  if (!theirs) return Answer{"no", theirs.error().message};
  auto put = gpu->write(memory->chunk->base(), {static_cast<std::byte*>(ours->at), kBlock});
  if (!put) return std::unexpected(put.error());
  auto seen = gpu->read(memory->chunk->base(), kBlock);
  if (!seen) return std::unexpected(seen.error());
  const bool same = *seen == block(2);
  return Answer{same ? "yes" : "no", same ? "their device wrote the pages, ours read them"
                                          : "bytes that their device wrote did not come here"};
}

Result<void> register_pages(const Link& link) {
  UniqueFd fd;
  auto asked = link.receive(&fd);
  if (!asked) return std::unexpected(asked.error());
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto memory = share(*gpu);
  if (!memory) return std::unexpected(memory.error());
  auto pages = map_and_register(*gpu, fd.get());
  if (!pages) return std::unexpected(pages.error());
  if (auto put = gpu->write(memory->chunk->base(), block(2)); !put) return put;
  if (auto put = cuda::copy_async(cuda::device_ptr(pages->at), memory->chunk->base(), kBlock,
                                  gpu->stream(), CopyKind::DeviceToHost);
      !put)
    return put;
  if (auto done = gpu->finish(); !done) return done;
  return link.send({});
}

namespace {

constexpr std::size_t kMany = 16;

// What the helper saw, in nanoseconds: import, map, access of one chunk.
Result<std::string> times_of(const Gpu& gpu, const Helper& helper, std::size_t bytes,
                             std::vector<Shared>& kept) {
  const auto start = Clock::now();
  auto shared = share(gpu, bytes);
  if (!shared) return std::unexpected(shared.error());
  const double made = microseconds_since(start);
  auto seen = helper.ask({.numbers = {shared->chunk->bytes()}}, shared->fd.get());
  if (!seen) return std::unexpected(seen.error());
  kept.push_back(*std::move(shared));
  const auto part = [&](int index) {
    return time_text(static_cast<double>(seen->numbers[index]) / 1000);
  };
  return "made in " + time_text(made) + ", import " + part(0) + ", map " + part(1) + ", access " +
         part(2);
}

}  // namespace

Result<Answer> time_of_mapping() {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  auto helper = Helper::start("map_with_times");
  if (!helper) return std::unexpected(helper.error());
  const std::size_t unit = emulated() ? 1 << 20 : 64 << 20;
  std::vector<Shared> kept;
  auto first = times_of(*gpu, *helper, unit, kept);
  if (!first) return std::unexpected(first.error());
  auto large = times_of(*gpu, *helper, 16 * unit, kept);
  if (!large) return std::unexpected(large.error());
  Result<std::string> last;
  for (std::size_t i = 0; i < kMany && (last = times_of(*gpu, *helper, unit, kept)); ++i) continue;
  if (!last) return std::unexpected(last.error());
  if (emulated()) return Answer{"works", "not timed: the driver is emulated"};
  return Answer{"see detail", "64 MiB: " + *first + ". 1 GiB: " + *large + ". The " +
                                  std::to_string(kept.size()) + "th, 64 MiB: " + *last};
}

Result<void> map_with_times(const Link& link) {
  auto gpu = Gpu::open();
  if (!gpu) return std::unexpected(gpu.error());
  for (UniqueFd fd;;) {
    auto asked = link.receive(&fd);
    if (!asked) return {};
    const auto start = Clock::now();
    auto handle = import_raw(fd);
    if (!handle) return std::unexpected(handle.error());
    const double import_us = microseconds_since(start);
    auto mapped = map_raw(*handle, asked->numbers[0], 0, cuda::abi::kAccessReadWrite);
    if (!mapped) return std::unexpected(mapped.error());
    const auto nanoseconds = [](double us) { return static_cast<std::uint64_t>(us * 1000); };
    auto sent = link.send({.numbers = {nanoseconds(import_us), nanoseconds(mapped->map_us),
                                       nanoseconds(mapped->access_us)}});
    if (!sent) return sent;
  }
}

}  // namespace tensorferry::gpu_probe
