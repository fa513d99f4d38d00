// Just the transport: one end of a connection that moves tensors both ways between two processes,
// without server, repository or pb_utils.
//
//   parent                                   child (inherits or is sent the descriptor)
//   auto [end, fd] = Endpoint::create()      auto end = Endpoint::connect(fd)
//   auto loan = end.allocate(bytes) …fill…   auto message = end.receive()
//   end.send(1, {tensor over loan})          end.send(2, {message.tensors[0] …passed back})
//
// Each end has an arena of its own. What is sent from it moves to the receiver without a copy, and
// comes home when the receiver lets go; what lies elsewhere crosses by one counted copy. When the
// peer is gone its holds are void at once; since it may only have closed its end and still show
// what it held, this end then hands out nothing more.
//
// Device memory goes the same way, where an end is given `devices`. A tensor's bytes are then an
// address that only the driver may follow, and streams may be at work on them (use_on()). A message
// is received when all work on its device tensors is done: who receives them need not wait, and
// nobody's stream waits for a process that may end.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/device.h>
#include <tensorferry/transport/device_side.h>
#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace tensorferry {

struct EndpointOptions {
  std::size_t ring_capacity = 1 << 20;  // bytes of one direction, a power of two
  ArenaOptions arena;                   // of each end
  std::shared_ptr<DeviceSide> devices;  // of this end; none: it has no device tensors
  // On each device. Chunks are large: each is mapped by the peer.
  ArenaOptions device_arena = {64 << 20, 64 << 20, std::size_t{1} << 46, 64 << 20};
};

// Shared memory that one holder has: a block of this end's arena, or a range of the peer's that
// came in a message. Copies share it; the last one to go gives it back. Valid also when the peer is
// dead. Thread-safe.
class SharedBytes {
 public:
  SharedBytes() = default;
  std::span<std::byte> bytes() const noexcept { return bytes_; }
  // True while nobody else in this process holds the same memory: only then may it move.
  bool sole() const noexcept;
  explicit operator bool() const noexcept { return holder_ != nullptr; }
  const Device& device() const noexcept { return device_; }
  bool is_cpu() const noexcept { return device_.kind == DeviceKind::Cpu; }
  // Device memory: the stream works with it from now on. It is received by the peer, or used anew,
  // after what is on the stream when it is sent or let go of; until then the stream has to live.
  void use_on(DeviceStream stream);
  DeviceStreams streams() const;
  // Keeps the memory mapped, and nothing else: it may be reused once no SharedBytes holds it.
  std::shared_ptr<const void> mapping() const;

 private:
  friend class Endpoint;
  struct Holder;
  std::shared_ptr<Holder> holder_;
  std::span<std::byte> bytes_;
  Device device_;  // by this process's count
};

// A tensor in C order. `shared` says where the bytes lie; without it they are `plain`, which is
// copied when it is sent.
struct EndpointTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  SharedBytes shared;
  std::span<const std::byte> plain;
  std::vector<std::byte> small;  // of a received tensor below a page: its bytes

  std::span<const std::byte> bytes() const noexcept {
    if (shared) return shared.bytes();
    return small.empty() ? plain : std::span<const std::byte>(small);
  }
};

struct EndpointMessage {
  std::uint64_t tag = 0;
  std::vector<EndpointTensor> tensors;
};

// Thread-safe. After a fork the child's copy is void: its calls fail with Closed, and what it
// inherited keeps its values whatever the parent does.
class Endpoint {
 public:
  // This end, and the descriptor for the other one (close-on-exec; hand it to one process). This
  // process creates all segments, the peer's too.
  static Result<std::pair<std::unique_ptr<Endpoint>, UniqueFd>> create(
      const EndpointOptions& options = {});
  // The same on a socket (SOCK_SEQPACKET) whose other end somebody else has already.
  static Result<std::unique_ptr<Endpoint>> create_on(UniqueFd fd,
                                                     const EndpointOptions& options = {});
  // The other end, with devices of its own process. Blocks up to the deadline for the first end's
  // greeting. Errors: DeadlineExceeded, Closed, Protocol (also when the first end is another build
  // of tensorferry).
  static Result<std::unique_ptr<Endpoint>> connect(UniqueFd fd, const Deadline& deadline = {},
                                                   std::shared_ptr<DeviceSide> devices = {});
  // close(). A call that is under way in another thread ends with Closed; none may begin any more.
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // Memory of this end's arena, to be filled and sent. Blocks only while the arena grows: the
  // second end asks the first one's process for that, and waits for it half a minute at most.
  // Errors: OutOfSharedMemory, Closed.
  Result<SharedBytes> allocate(std::size_t bytes);
  // The same on the device of that ordinal: may make its context, and makes a chunk where none has
  // room. Errors also: Unsupported, and what the device says (gpu_...).
  Result<SharedBytes> allocate_on(int ordinal, std::size_t bytes);
  // Sends one message. A tensor's shared memory moves when it is `sole()` here (the message is the
  // only one that holds it); else it is copied once. When this returns without an error the
  // tensors' `shared` is empty. On an error nothing was sent and nothing is lost: each tensor still
  // holds its memory, or the copy that was made of it, so that trying again copies no more. Blocks
  // while the peer's ring is full, up to the deadline, and as allocate() does. Waits for no device,
  // but for work on device tensors that the peer has not offered events for yet. Errors: Closed,
  // DeadlineExceeded, OutOfSharedMemory, InvalidArgument; of device tensors also why the peer can't
  // have them.
  Result<void> send(std::uint64_t tag, std::vector<EndpointTensor>& tensors,
                    const Deadline& deadline = {});
  Result<void> send(std::uint64_t tag, std::vector<EndpointTensor>&& tensors,
                    const Deadline& deadline = {}) {
    return send(tag, tensors, deadline);
  }
  // The next message; nullopt when the deadline passed. What arrives while nobody receives waits in
  // private memory. Errors: Closed when the peer is gone and all that it sent was received;
  // Protocol when it broke the protocol; InvalidArgument while another thread is receiving. Of
  // device tensors also: StubDied when the peer's process ended before its work on them was done,
  // and why this process can't reach them; that message is lost then, and the next call gives the
  // next one.
  Result<std::optional<EndpointMessage>> receive(const Deadline& deadline = {});
  // True for memory that may move by this end: of its arena, or received by it.
  bool knows(const SharedBytes& memory) const noexcept;
  // Gives segments of this end's arena that are wholly idle back to the system, but for
  // `keep_idle_bytes`; returns how many bytes went.
  std::size_t trim(std::size_t keep_idle_bytes = 0);

  ArenaStatistics statistics() const;
  // Of this end's arenas on devices: blocks handed out, as reserved.
  std::size_t device_bytes_in_use() const;
  // Lets the peer know, and fails what waits. What was received stays valid.
  void close();

 private:
  struct Impl;
  friend struct SharedBytes::Holder;
  explicit Endpoint(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tensorferry
