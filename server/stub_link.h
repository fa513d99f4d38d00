// The conversation with one stub, from Welcome to its end: sends batches, turns what comes back
// into responses, and keeps the books of what is lent to whom. Knows no process, no queue and no
// Python.
#pragma once

#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/lease_book.h>
#include <tensorferry/transport/log.h>
#include <tensorferry/transport/range_table.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "execution.h"
#include "host_arena.h"

namespace tensorferry::server {

struct LinkOptions {
  std::string model;
  std::string instance;
  std::size_t index = 0;  // of the instance in its model
  std::size_t ring_capacity = 1 << 20;
  ArenaOptions arena;  // of the stub
};

// Thread-safe. Held by shared_ptr: leases of answers refer to it weakly.
class StubLink : public std::enable_shared_from_this<StubLink>,
                 private HostArena::Subscriber,
                 private ForkParticipant {
 public:
  // `socket` is our end of the control socket, past the stub's Hello. Sends Welcome, the ring and
  // the host arena's segments, and starts the background reader.
  static Result<std::shared_ptr<StubLink>> open(LinkOptions options,
                                                std::shared_ptr<ControlSocket> socket,
                                                std::shared_ptr<SegmentAuthority> segments,
                                                std::shared_ptr<HostArena> host,
                                                InstanceEvents& events,
                                                std::shared_ptr<Logger> logger);
  ~StubLink() override;

  // Puts a batch on its way. An error leaves the batch to the caller, untouched: Unavailable when
  // the link is closed (other stubs may run it), anything else when this batch can't be sent (and
  // the link lives).
  Result<void> execute(Batch& batch);
  // Tells the stub that nobody waits for it any more. Never waits.
  void cancel(const Execution& execution);
  // Fails what is inside, which the stub may go on with: its answers reach nobody.
  void fail_requests(const Error& why);

  // The ring's reader: whoever waits for a response waits here.
  Inbox& inbox() noexcept { return channel_->inbox(); }

  // The stub asked for a segment of its arena / dropped one (from the control socket).
  // Error Protocol: it drops what it doesn't have or what callers hold.
  void on_segment_request(const protocol::SegmentRequest& request);
  Result<void> on_stub_dropped_segment(SegmentId id);

  // Ends the link: what the stub has answered already is read, the batch that it was at fails with
  // `why`, those that it had not begun go back by give_back() in their order, all its leases are
  // void. Waits for the background reader to end. Idempotent; by the supervisor, once the stub is
  // dead.
  void close(const Error& why);
  bool closed() const;
  // True once the inbox found the stub's messages invalid: whoever supervises it must kill it.
  bool broken() const noexcept { return channel_->inbox().stopped(); }
  // Becomes readable then.
  int ended_fd() const noexcept { return ended_.get(); }
  void wake_supervisor() const noexcept;
  Error why_broken() const { return channel_->inbox().error(); }

  std::size_t batches_inside() const;
  // Since when the oldest batch has been running; none while idle.
  std::optional<std::chrono::steady_clock::time_point> running_since() const;
  std::size_t answers_out_bytes() const;
  std::size_t stub_arena_bytes() const;
  std::size_t stub_arena_peak_bytes() const;
  // Gives back what callers let go of, reads what the stub has given back, and has it drop idle
  // segments. Never waits.
  void trim();

 private:
  friend class StubLease;
  struct InFlight {
    std::uint64_t number = 0;  // 0: free slot
    std::uint64_t batch = 0;
    std::shared_ptr<Execution> execution;
  };
  struct RunningBatch {
    std::uint64_t number = 0;
    std::chrono::steady_clock::time_point since;
    std::vector<std::size_t> slots;
  };

  StubLink(LinkOptions options, std::shared_ptr<ControlSocket> socket,
           std::shared_ptr<SegmentAuthority> segments, std::shared_ptr<HostArena> host,
           InstanceEvents& events, std::shared_ptr<Logger> logger);
  Result<void> start();
  // What callers hold of the stub's arena is theirs in a forked child too.
  void before_fork() noexcept override { mutex_.lock(); }
  void collect(std::vector<Mapping>& mappings) override;
  void after_fork_parent() noexcept override { mutex_.unlock(); }
  void after_fork_child() noexcept override { mutex_.unlock(); }
  void on_segment(const Segment& segment) override;
  void on_segment_dropped(SegmentId id) override;

  // Encoding of a batch; under send_mutex_.
  Result<void> send_batch(std::uint64_t number, const Batch& batch, const Deadline& deadline);
  // Under mutex_: the batch as a message has it, with what it lends.
  void describe(const Batch& batch, std::span<const std::size_t> slots);
  void describe(const Request& request, std::uint64_t number);
  protocol::TensorRecord lend(const Tensor& input);

  // Handling of what the stub says, by the reading thread.
  Result<void> on_message(const Received& message);
  Result<void> on_responses(const protocol::Responses& message);
  Result<void> on_response(const protocol::ResponseRecord& record);
  Result<Buffer> take_memory(const protocol::TensorRecord& tensor);
  Result<Buffer> take_stub_range(const protocol::MemoryRef& memory, std::size_t alignment);
  Result<void> on_releases(std::span<const protocol::LeaseRelease> releases);
  Result<void> finish_batch(const protocol::Responses& message);
  // Under mutex_.
  std::size_t take_slot();
  bool is_inside(const RunningBatch& batch, std::size_t slot) const;
  void take_all(std::vector<std::shared_ptr<Execution>>& begun, Batch& unbegun);
  RunningBatch new_batch();
  void forget_batch(std::vector<RunningBatch>::iterator batch);
  void free_slot(std::size_t slot);
  void release_stub_range(std::uint64_t lease);
  Error in_context(Error error, const std::string& request_id = {}) const;
  Error violation(const std::string& what) const;
  void log_failure(const Error& error);

  // Constant after construction.
  const LinkOptions options_;
  const std::shared_ptr<ControlSocket> socket_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const std::shared_ptr<HostArena> host_;
  InstanceEvents& events_;
  const std::shared_ptr<Logger> logger_;
  std::unique_ptr<Channel> channel_;
  UniqueFd ended_;  // an eventfd
  std::thread background_;

  SegmentMap stub_segments_;  // changed by the supervisor only

  mutable std::mutex mutex_;  // guards what follows
  bool closing_ = false;      // nothing more may be sent
  bool closed_ = false;       // nothing more may be read
  std::vector<InFlight> in_flight_;
  std::vector<std::size_t> free_slots_;
  std::vector<RunningBatch> running_;                  // oldest first
  std::vector<std::vector<std::size_t>> spare_slots_;  // of batches that ended, for the next
  LeaseBook lent_;                                     // of the host arena, to the stub
  RangeTable out_;                                     // of the stub's arena, to callers
  std::size_t stub_segment_count_ = 0;
  std::size_t stub_arena_bytes_ = 0;
  std::size_t stub_arena_peak_ = 0;
  std::uint64_t failures_logged_ = 0;
  std::uint64_t failures_silenced_ = 0;
  std::chrono::steady_clock::time_point failures_window_{};

  std::mutex send_mutex_;  // guards what follows: room to put a batch's message together
  std::vector<protocol::RequestRecord> requests_;
  std::vector<protocol::TensorRecord> tensors_;
  std::vector<protocol::Parameter> parameters_;
  std::vector<std::string_view> names_;
  GivenBack given_back_now_;
  std::vector<std::uint64_t> lent_now_;

  // Used by the one thread that reads: of the message that it is at.
  RangeTable moved_;                       // parts of inputs that outputs name
  std::vector<std::uint64_t> given_back_;  // leases, sorted

  std::shared_ptr<void> fork_registration_;  // last: let go of first
};

}  // namespace tensorferry::server
