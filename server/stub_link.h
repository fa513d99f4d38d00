// The conversation with one stub, from Welcome to its end: sends batches, turns what comes back
// into responses, and keeps the books of what is lent to whom. Knows no process, no queue and no
// Python.
#pragma once

#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/countdown.h>
#include <tensorferry/transport/lease_book.h>
#include <tensorferry/transport/log.h>
#include <tensorferry/transport/range_table.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "device_lane.h"
#include "execution.h"
#include "gpu_arenas.h"
#include "host_arena.h"
#include "stub_segments.h"

namespace tensorferry::server {

struct LinkOptions {
  std::string model;
  std::string instance;
  std::size_t index = 0;  // of the instance in its model
  std::size_t ring_capacity = 1 << 20;
  ArenaOptions arena;                   // of the stub
  int gpu = 0;                          // the instance's, our ordinal
  std::vector<std::string> gpu_inputs;  // those that are copied there when they lie in CPU memory
};

// The arenas of one model, which every stub of it maps.
struct ModelMemory {
  std::shared_ptr<HostArena> host;
  std::shared_ptr<GpuArenas> gpus;
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
                                                ModelMemory memory, InstanceEvents& events,
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
  // The stub's model made a tensor on a GPU / wants one of its inputs where the CPU can read it.
  // Error Protocol: it asks for what it doesn't hold.
  Result<void> on_device_request(const protocol::DeviceRequest& request);
  Result<void> on_read_device(const protocol::ReadDevice& request);
  // What it saw of the rung that it was told to try; that waits for the GPU. Error Protocol: it was
  // not told so.
  Result<void> on_probe_report(const protocol::ProbeReport& report);

  // Ends the link: what the stub has answered already is read, the batch that it was at fails with
  // `why`, those that it had not begun go back by give_back() in their order, all its leases are
  // void. Waits for the background reader to end. Idempotent; by the supervisor, once the stub is
  // dead.
  void close(const Error& why);
  bool closed() const;
  // True once the inbox found the stub's messages invalid: whoever supervises it must kill it.
  bool broken() const noexcept { return channel_->inbox().stopped(); }
  // Becomes readable then, and when the supervisor is to call on_woken().
  int woken_fd() const noexcept { return woken_.get(); }
  void wake_supervisor() const noexcept;
  // Sends the stub what others have ready for it. The supervisor's.
  void on_woken();
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
  struct ReadyEvents;
  struct RunningBatch {
    std::uint64_t number = 0;
    std::chrono::steady_clock::time_point since;
    std::vector<std::size_t> slots;
  };

  StubLink(LinkOptions options, std::shared_ptr<ControlSocket> socket,
           std::shared_ptr<SegmentAuthority> segments, ModelMemory memory, InstanceEvents& events,
           std::shared_ptr<Logger> logger);
  Result<void> start();
  // What callers hold of the stub's arena is theirs in a forked child too.
  void before_fork() noexcept override { mutex_.lock(); }
  void collect(std::vector<Mapping>& mappings) override;
  void after_fork_parent() noexcept override { mutex_.unlock(); }
  void after_fork_child() noexcept override { mutex_.unlock(); }
  void on_segment(const HostArena& arena, const Segment& segment) override;
  void on_segment_dropped(SegmentId id) override;

  // Encoding of a batch; under send_mutex_.
  Result<void> send_batch(std::uint64_t number, const ReadyEvents& ready, const Batch& batch,
                          const Deadline& deadline);
  // Under mutex_: the batch as a message has it, with what it lends.
  void describe(const Batch& batch, std::span<const std::size_t> slots, const ReadyEvents& ready);
  void describe(const Request& request, std::uint64_t number, const ReadyEvents& ready);
  protocol::TensorRecord lend(const Tensor& input, const ReadyEvents& ready);

  // Handling of what the stub says, by the reading thread.
  Result<void> on_message(const Received& message);
  Result<void> on_responses(const protocol::Responses& message);
  Result<void> on_response(const protocol::ResponseRecord& record);
  Result<void> fill_response(Response& response, const protocol::ResponseRecord& record);
  Result<Buffer> take_memory(const protocol::TensorRecord& tensor);
  Result<Buffer> take_loan(const protocol::TensorRecord& tensor, const LeaseBook::Range& lent);
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
  StubSegments* segments_with(SegmentId id);
  StubSegments::Use arena_use(const Device& device) const;
  Result<std::shared_ptr<Segment>> make_stub_segment(const protocol::SegmentRequest& request);

  // ---- inputs that are placed on a GPU (stub_link_placement.cc)
  struct PlacedInput {
    const Tensor* input = nullptr;
    Buffer data;
  };
  Result<void> place_on_gpu(const Batch& batch);
  Result<void> copy_placed(Gpu& gpu);
  // What is sent of an input.
  const Buffer& data_of(const Tensor& input) const noexcept;

  // ---- GPUs (stub_link_devices.cc)
  // An event that somebody looks at: one of ours, with a holder, or one that the stub recorded.
  struct Awaited {
    std::shared_ptr<DeviceLane> lane;
    protocol::EventSlot event;
    bool ours = false;
  };
  // Device memory that the stub holds, and what stands for our own writing of it.
  struct DeviceLoan {
    std::shared_ptr<DeviceLane> lane;
    std::optional<protocol::EventSlot> ready;
  };
  // A response with device outputs, until they are there.
  struct Late {
    std::shared_ptr<Execution> execution;
    Response response;
    bool empty = false;
    bool final = false;
    std::vector<Buffer> staged;  // in host memory, which is read until then
  };
  // Our events of one message, held until it is sent: its loans hold them then.
  struct ReadyEvents {
    ReadyEvents() = default;
    ReadyEvents(const ReadyEvents&) = delete;
    ReadyEvents& operator=(const ReadyEvents&) = delete;
    ReadyEvents(ReadyEvents&&) = default;
    ~ReadyEvents() {
      for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i]->drop(events[i]);
    }
    std::vector<std::shared_ptr<DeviceLane>> lanes;
    std::vector<protocol::EventSlot> events;   // each of the lane at the same place
    std::vector<std::shared_ptr<Gpu>> waited;  // where there is none: our stream is done
    // Inputs for a stub that maps no device memory, by the tensor, and who copies them. They stay
    // where they are.
    std::list<std::pair<const Tensor*, Buffer>> staged;
    std::vector<std::shared_ptr<Gpu>> staging;
    std::optional<Error> failure;
  };
  std::shared_ptr<DeviceLane> find_lane(const Device& device) const;
  Result<std::shared_ptr<DeviceLane>> open_lane(int ordinal);
  void close_lanes(const Error& why);
  void note_rung(const DeviceLane& lane, const cuda::RungChoice& choice);
  ReadyEvents record_ready(const Batch& batch);
  Result<void> make_ready(const Tensor& input, ReadyEvents& ready);
  Result<void> record_event(const std::shared_ptr<DeviceLane>& lane, ReadyEvents& ready);
  Result<void> stage_input(DeviceLane& lane, const Tensor& input, ReadyEvents& ready);
  static Result<void> await_staging(const ReadyEvents& ready);
  Result<void> unstage(const protocol::ResponseRecord& record, Response& response,
                       std::vector<Buffer>& staged);
  Result<void> await_unstaged(const std::shared_ptr<DeviceLane>& lane);
  void lend_device(const Buffer& data, const ReadyEvents& ready, protocol::TensorRecord& record);
  // Under mutex_: a loan that the stub was never told of.
  void take_back_loan(std::uint64_t lease);
  Result<std::vector<Awaited>> take_events(std::span<const protocol::EventSlot> events);
  void when_complete(const std::vector<Awaited>& events,
                     std::move_only_function<void(Result<void>)> done);
  void watch_stubs(const Awaited& one, const std::shared_ptr<Countdown>& all);
  void release_after(std::shared_ptr<DeviceLane> lane, const std::vector<Awaited>& events,
                     BlockId block);
  Result<void> release_device(const protocol::LeaseRelease& release);
  Buffer hold_device(const protocol::MemoryRef& memory, const LeaseBook::Range& lent);
  Result<Buffer> take_device_memory(const protocol::TensorRecord& tensor);
  void respond_when_complete(std::uint64_t batch);

  // ---- inputs on a GPU that the stub reads on the CPU (stub_link_reads.cc)
  struct DoneRead {
    std::uint64_t number = 0;  // of what it asked
    Result<Buffer> copy;
  };
  void read_done(std::uint64_t number, Result<Buffer> copy);
  Result<protocol::MemoryRef> lend_read(const Result<Buffer>& copy);

  Error in_context(Error error, const std::string& request_id = {}) const;
  Error violation(const std::string& what) const;
  void log_failure(const Error& error);

  // Constant after construction.
  const LinkOptions options_;
  const std::shared_ptr<ControlSocket> socket_;
  const std::shared_ptr<SegmentAuthority> segments_;
  const std::shared_ptr<HostArena> host_;
  const std::shared_ptr<GpuArenas> gpus_;
  const std::uint64_t link_number_;  // of all links of this process; never 0
  InstanceEvents& events_;
  const std::shared_ptr<Logger> logger_;
  std::unique_ptr<Channel> channel_;
  UniqueFd woken_;  // an eventfd
  std::thread background_;

  StubSegments stub_segments_;
  std::mutex opening_mutex_;  // one lane is opened at a time

  mutable std::mutex mutex_;  // guards what follows
  bool closing_ = false;      // nothing more may be sent
  bool closed_ = false;       // nothing more may be read
  std::vector<InFlight> in_flight_;
  std::vector<std::size_t> free_slots_;
  std::vector<RunningBatch> running_;                  // oldest first
  std::vector<std::vector<std::size_t>> spare_slots_;  // of batches that ended, for the next
  std::map<int, std::shared_ptr<DeviceLane>> lanes_;   // by our ordinal
  LeaseBook lent_;                                     // of the model's arenas, to the stub
  std::unordered_map<std::uint64_t, DeviceLoan> device_loans_;  // by lease
  RangeTable out_;                                              // of the stub's arena, to callers
  RangeTable device_out_;                                       // of its arenas on GPUs
  std::vector<DoneRead> reads_done_;                            // for the supervisor to send
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
  std::vector<PlacedInput> placed_;  // of the batch that is sent

  // Used by the one thread that reads: of the message that it is at.
  RangeTable moved_;                       // parts of inputs that outputs name
  std::vector<std::uint64_t> given_back_;  // leases, sorted
  std::vector<Awaited> awaited_;
  std::vector<Late> late_;

  std::shared_ptr<void> fork_registration_;  // last: let go of first
};

}  // namespace tensorferry::server
