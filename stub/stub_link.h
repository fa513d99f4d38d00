// The stub's side of the conversation: handshake, segments, the arena, leases, batches in and
// answers out. Knows nothing of Python.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/lease_book.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "devices.h"
#include "inbound.h"
#include "memory_pins.h"
#include "replies.h"

namespace tensorferry::stub {

struct Command {
  protocol::ControlKind kind{};
  std::string first, second;
};

using Event = std::variant<InboundBatch, Command>;

// What runs the model, as it says itself.
struct Interpreter {
  std::string_view implementation;  // "cpython"
  std::string_view version;         // "3.11.7"
  std::string_view executable;
};

class StubLink {
 public:
  // Shakes hands over the inherited control socket. On a mismatch: a message for stderr.
  static Result<std::unique_ptr<StubLink>> open(int control_fd, const Interpreter& interpreter);
  ~StubLink();

  // Waits for the next thing to do, up to the deadline. The GIL must not be held.
  std::optional<Event> wait(const Deadline& deadline);
  Result<void> reply(protocol::ControlKind to, bool failed, std::string_view text);
  Result<void> log(protocol::LogLevel level, std::string_view file, std::uint32_t line,
                   std::string_view text);
  Result<void> respond(const protocol::Responses& message);

  Arena& arena() noexcept { return *arena_; }
  Devices& devices() noexcept { return *devices_; }
  MemoryPins& pins() noexcept { return *pins_; }
  // Lends a held block of that arena of ours to the server; its hold becomes the lease's.
  std::uint64_t lend(Arena& arena, const Block& block, std::byte* data, std::size_t bytes);
  // The opposite, for a lease that no message has named.
  void take_back(std::uint64_t lease);
  // Gives an input's lease back; from any thread.
  void release_input(std::uint64_t lease);
  // A copy in host memory of what an input on a device holds, made by the server: a lease of its
  // own. Waits for it; without the GIL.
  Result<InputMemory> read_device(const InputMemory& input);
  void take_releases(GivenBack& out) { channel_->take_releases(out); }
  const std::string& instance() const noexcept { return instance_; }
  // Whether the server said that nobody waits for this request any more. From any thread.
  bool is_cancelled(std::uint64_t request) const;

 private:
  explicit StubLink(UniqueFd fd) : socket_(std::move(fd)) {}
  Result<void> start(const Interpreter& interpreter);
  void make_channel(std::shared_ptr<Segment> ring, std::size_t capacity);
  void make_devices();
  void make_pins();
  Result<void> ask_for_device(const cuda::Uuid& uuid);
  Result<std::shared_ptr<Segment>> grow(std::size_t bytes);
  // Drops idle segments and tells the server so. The waiting thread's.
  void trim();
  Result<SegmentMap::Range> resolve(SegmentId place, std::uint64_t offset, std::uint64_t bytes);
  Result<void> on_message(const Received& message);
  Result<void> on_execute(const protocol::Execute& message);
  Result<void> on_releases(std::span<const protocol::LeaseRelease> releases);
  void on_cancel(std::uint64_t request);
  void serve_control();
  Result<void> on_control(ControlMessage message, Scratch& scratch);
  Result<void> on_memory(ControlMessage& message, Scratch& scratch);
  Result<void> on_segment(const protocol::Segment& segment, UniqueFd fd);
  Result<void> on_offer(const protocol::DeviceOffer& offer);
  Result<ProbeTrial> report_probe(Device device, const std::optional<TrialOutcome>& outcome);
  Result<void> on_probe_step(const protocol::ProbeStep& step, UniqueFd fd);
  Result<void> on_device_segment(const protocol::DeviceSegment& segment, UniqueFd fd);
  void push(Command command);

  ControlSocket socket_;
  std::string instance_;
  SegmentMap host_segments_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<LeaseBook> lent_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<Devices> devices_;
  std::unique_ptr<MemoryPins> pins_;
  Replies replies_;
  std::mutex asked_mutex_;
  std::optional<std::pair<std::uint64_t, cuda::Uuid>> asked_device_;  // under asked_mutex_
  std::thread control_;
  std::thread background_;

  mutable std::mutex mutex_;             // guards what follows
  std::deque<std::uint64_t> cancelled_;  // the last ones
  std::vector<Event> events_;            // oldest first; few, and its memory is reused
  bool trim_wanted_ = false;
  Completion arrived_;
  std::condition_variable segments_changed_;
  std::mutex lent_mutex_;
};

}  // namespace tensorferry::stub
