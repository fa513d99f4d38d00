// A stub's model wants an input on a GPU where the CPU can read it: we copy it to the host arena.
// The completion poller tells when it is there, and the supervisor answers; only where the arena
// isn't pinned does the supervisor wait for the GPU.
#include <unistd.h>

#include "device_copies.h"
#include "stub_link.h"

namespace tensorferry::server {
namespace {

constexpr std::chrono::seconds kAnswerPatience{10};

}  // namespace

Result<void> StubLink::on_read_device(const protocol::ReadDevice& request) {
  std::optional<LeaseBook::Range> lent;
  std::shared_ptr<DeviceLane> lane;
  {
    std::scoped_lock lock(mutex_);
    lent = lent_.find(request.memory.lease);
    auto loan = device_loans_.find(request.memory.lease);
    if (loan != device_loans_.end()) lane = loan->second.lane;
  }
  const protocol::MemoryRef& memory = request.memory;
  if (!lane || !lent || !lent->contains(memory.place, memory.offset, memory.bytes))
    return std::unexpected(violation("it asks for device memory that it doesn't hold"));
  std::byte* from = lent->data + (memory.offset - lent->offset);
  auto target = host_->allocate(memory.bytes);
  if (!target) {
    read_done(request.number, std::unexpected(target.error()));
    return {};
  }
  const std::span<std::byte> to = target->bytes();
  const bool pinned = host_->is_pinned(*target);
  // Both ends are held until it is done: the stub may die first.
  copy_to_host(lane->gpu(), to, from, pinned,
               [link = weak_from_this(), number = request.number,
                source = lane->arena().hold(lent->block, from, memory.bytes),
                copy = std::move(*target)](Result<void> how) mutable {
                 auto self = link.lock();
                 if (!self) return;
                 if (how)
                   self->read_done(number, std::move(copy));
                 else
                   self->read_done(number, std::unexpected(std::move(how.error())));
               });
  return {};
}

// On any thread, which must not block: the supervisor sends it.
void StubLink::read_done(std::uint64_t number, Result<Buffer> copy) {
  {
    std::scoped_lock lock(mutex_);
    if (closed_) return;
    reads_done_.push_back({number, std::move(copy)});
  }
  wake_supervisor();
}

Result<protocol::MemoryRef> StubLink::lend_read(const Result<Buffer>& copy) {
  if (!copy) return std::unexpected(copy.error());
  const Block block = host_->arena().lookup(HostBlock::of(*copy, *host_)->block()).value();
  std::scoped_lock lock(mutex_);
  const std::uint64_t lease =
      lent_.lend({block.id, block.segment, block.offset, copy->size(), block.data});
  return protocol::MemoryRef{protocol::MemoryKind::Segment, block.segment, block.offset,
                             copy->size(), lease};
}

void StubLink::on_woken() {
  std::uint64_t times = 0;
  (void)!::read(woken_.get(), &times, sizeof times);
  std::vector<DoneRead> done;
  {
    std::scoped_lock lock(mutex_);
    done.swap(reads_done_);
  }
  for (const DoneRead& read : done) {
    auto memory = lend_read(read.copy);
    protocol::DeviceRead answer;
    answer.reply_to = read.number;
    if (memory) {
      answer.memory = *memory;
    } else {
      answer.failed = true;
      answer.code = memory.error().code;
      answer.error = memory.error().message;
    }
    if (auto sent = socket_->send(answer, -1, Clock::now() + kAnswerPatience); !sent)
      channel_->close(sent.error());
  }
}

}  // namespace tensorferry::server
