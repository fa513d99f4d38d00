// Where the outputs of a batch lie when they cross (docs/design.md, "Zero-copy both ways"): in two
// steps, so that "nobody holds it any more" is asked after Python has let go. Knows nothing of
// Python; the caller serialises.
#pragma once

#include <tensorferry/transport/arena.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "device_work.h"
#include "holdings.h"

namespace tensorferry::stub {

// An output on a device.
struct DeviceOutput {
  DeviceRange range;  // of an input that nobody has touched: no address
  std::shared_ptr<DeviceUse> use;
  const InputMemory* input = nullptr;  // when it is that input, as it came
  std::shared_ptr<void> kept;          // what the range lies in, if it is another library's
};

// Reused from batch to batch. The GIL guards it, as it guards Holdings.
class OutputPlan {
 public:
  explicit OutputPlan(Holdings& holdings) : holdings_(holdings) {}
  ~OutputPlan() { clear(); }
  OutputPlan(const OutputPlan&) = delete;
  OutputPlan& operator=(const OutputPlan&) = delete;

  // Forgets the last batch; what was freed while it was planned and never settled goes back, and so
  // does what was lent for outputs that were not sent.
  void clear();
  // An output's bytes, in C order: its place in the plan. Copies them now unless they lie in shared
  // memory that may move.
  Result<std::size_t> add(const std::byte* data, std::size_t bytes);
  // The same of an output on a device: a copy goes onto the stream that made it.
  Result<std::size_t> add(DeviceOutput output);
  // It is a tensor of that device, which lies in host memory.
  void name_device(std::size_t place, Device device) { outputs_[place].staged_for = device; }
  // Room for an output that the caller writes itself (and counts). The bytes are valid until the
  // next call.
  struct Room {
    std::size_t place = 0;
    std::span<std::byte> bytes;
  };
  Result<Room> reserve(std::size_t bytes);
  // This output is not sent after all.
  void drop(std::size_t place);
  // Python has dropped its references: decides, copies what is still held. Then memory(place) is
  // valid, or failure(place) says why there is none.
  void settle();
  const Error* failure(std::size_t place) const {
    return outputs_[place].failure ? &*outputs_[place].failure : nullptr;
  }
  // Records the events of what was done on devices, if anything was: then the outputs' work is done
  // when ready() is. May wait: without the GIL. On an error failure() says why, of each of them.
  bool has_device_work() const noexcept { return !work_.empty(); }
  void record();
  // The message is out: what it lends is the server's.
  void sent() noexcept;

  Device device(std::size_t place) const;
  const std::vector<protocol::EventSlot>& ready() const noexcept { return work_.ready(); }
  const protocol::MemoryRef& memory(std::size_t place) const { return outputs_[place].memory; }
  std::span<const std::byte> inline_bytes(std::size_t place) const { return outputs_[place].small; }
  // Leases of inputs that moved with their outputs.
  const std::vector<std::uint64_t>& releases() const noexcept { return releases_; }

 private:
  enum class Source : std::uint8_t { Done, Input, Block };
  struct Output {
    Source source = Source::Done;
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::uint64_t lease = 0;   // Input: the server's number
    tensorferry::Block block;  // Block
    std::optional<DeviceOutput> device;
    Device staged_for;                 // Cpu: nothing is staged
    std::shared_ptr<DeviceUse> owner;  // on a device: of the Input or Block that it lies in
    std::uint64_t lent = 0;            // ours, of what is lent for it until it is sent
    protocol::MemoryRef memory;
    std::vector<std::byte> small;
    std::optional<Error> failure;
  };
  std::size_t next_place();
  bool name(Output& output);
  bool name_input(Output& output);
  bool name_input(Output& output, const InputMemory& input);
  bool name_block(Output& output);
  bool may_move(const Output& output) const;
  void move_or_copy(Output& output);
  Result<void> copy_out(Output& output);
  Result<void> copy_on_device(Output& output, std::shared_ptr<void> kept = {});
  Result<void> copy_by_server(Output& output);
  bool is_out_of_reach(const DeviceOutput& device);
  Result<void> find_address(DeviceOutput& output);
  void work_is_the_messages(Output& output);
  Arena& arena_of(const Output& output);
  void lend(Output& output, const Block& block, std::byte* data);
  void take_back(Output& output);
  void take_back_after_work(Output& output, std::uint64_t lease);
  static protocol::MemoryKind kind_of(const Output& output);
  bool overlaps_a_candidate(const std::byte* data, std::size_t bytes) const;
  bool is_a_candidate(const InputMemory& input) const;

  Holdings& holdings_;
  std::vector<Output> outputs_;  // the first count_ are this batch's
  std::size_t count_ = 0;
  std::vector<std::uint64_t> releases_;
  DeviceWork work_;
};

}  // namespace tensorferry::stub
