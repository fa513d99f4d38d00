// Another process that plays the stub: it opens what the test has made, and does one thing after
// another. The same program, started with kPeerArgument.
#pragma once

#include <sys/types.h>
#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tensorferry::cuda {

inline constexpr const char* kPeerArgument = "--peer";

enum class PeerVerb : std::uint32_t {
  OpenChunk,    // numbers: mode, bytes; with a descriptor or a handle
  AddEvent,     // one handle: kept for OpenEvents
  OpenEvents,   // → how many
  Fill,         // offset, bytes, seed, slot: waits for ready, writes the pattern, records done
  Copy,         // from, to, bytes, slot: the same with a copy within the chunk
  Checksum,     // offset, bytes, slot (or kNoSlot): waits for ready, reads → checksum
  AnswerProbe,  // offset, slot (or kNoSlot), seed → seen
  OpenAgain,    // as OpenChunk, while the first is open; both are closed one after the other
  Close,        // all that was opened: before its owner destroys it
  Reports,      // → the emulator's, as text
};
inline constexpr std::uint64_t kNoSlot = ~std::uint64_t{0};

struct PeerFrame {
  PeerVerb verb{};
  std::uint64_t numbers[4] = {};
  IpcHandle handles[3] = {};
  char text[512] = {};  // of an answer: the error; empty when all went well
};

// Does what the test says until it says no more. Returns the exit status.
int run_peer();

class Peer {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;
  explicit Peer(const Environment& environment = {});
  ~Peer();  // lets it end, and expects that it does so well
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // The answer. `fd` goes with the order.
  PeerFrame ask(PeerFrame order, int fd = -1);
  // The same, without waiting for the answer: hear() is for later.
  void tell(PeerFrame order, int fd = -1);
  PeerFrame hear();
  PeerFrame open(const Chunk& chunk, PeerVerb verb = PeerVerb::OpenChunk);
  PeerFrame open(const EventRing& ring);
  void kill();
  pid_t pid() const noexcept { return pid_; }

 private:
  UniqueFd socket_;
  pid_t pid_ = -1;
};

}  // namespace tensorferry::cuda
