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
// peer dies its holds are void at once.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/deadline.h>
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
};

// Shared memory that one holder has: a block of this end's arena, or a range of the peer's that
// came in a message. Copies share it; the last one to go gives it back. Valid also when the peer is
// dead. Thread-safe.
class SharedBytes {
 public:
  SharedBytes() = default;
  std::span<std::byte> bytes() const noexcept { return bytes_; }
  // True while nobody else in this process holds the same memory: only then may it move.
  bool sole() const noexcept { return holder_.use_count() == 1; }
  explicit operator bool() const noexcept { return holder_ != nullptr; }
  // Keeps the memory mapped, and nothing else: it may be reused once no SharedBytes holds it.
  std::shared_ptr<const void> mapping() const;

 private:
  friend class Endpoint;
  struct Holder;
  std::shared_ptr<Holder> holder_;
  std::span<std::byte> bytes_;
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

// Thread-safe. After a fork the child's copy is void: its calls fail with Closed.
class Endpoint {
 public:
  // This end, and the descriptor for the other one (close-on-exec; hand it to one process). This
  // process creates all segments, the peer's too.
  static Result<std::pair<std::unique_ptr<Endpoint>, UniqueFd>> create(
      const EndpointOptions& options = {});
  // The same on a socket (SOCK_SEQPACKET) whose other end somebody else has already.
  static Result<std::unique_ptr<Endpoint>> create_on(UniqueFd fd,
                                                     const EndpointOptions& options = {});
  // The other end. Blocks up to the deadline for the first end's greeting.
  static Result<std::unique_ptr<Endpoint>> connect(UniqueFd fd, const Deadline& deadline = {});
  ~Endpoint();  // close()
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // Memory of this end's arena, to be filled and sent.
  Result<SharedBytes> allocate(std::size_t bytes);
  // Sends one message. A tensor's shared memory moves when it is `sole()` here (the message is the
  // only one that holds it); else it is copied once. Blocks only while the peer's ring is full.
  // Errors: Closed, DeadlineExceeded, OutOfSharedMemory, InvalidArgument.
  Result<void> send(std::uint64_t tag, std::vector<EndpointTensor> tensors,
                    const Deadline& deadline = {});
  // The next message; nullopt when the deadline passed. Errors: Closed when the peer is gone and
  // all that it sent was received; Protocol when it broke the protocol. One thread at a time.
  Result<std::optional<EndpointMessage>> receive(const Deadline& deadline = {});

  ArenaStatistics statistics() const;
  // Lets the peer know, and fails what waits. What was received stays valid.
  void close();

 private:
  struct Impl;
  friend struct SharedBytes::Holder;
  explicit Endpoint(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tensorferry
