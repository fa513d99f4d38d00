// What the stub asks of the server on the control socket, by number, and the answers that somebody
// waits for. Thread-safe.
#pragma once

#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/rung.h>
#include <tensorferry/transport/deadline.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>
#include <tensorferry/transport/segment.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <variant>

namespace tensorferry::stub {

// A piece of device memory that came and is not mapped: nothing of CUDA is needed to keep it.
struct ClosedChunk {
  SegmentId id = 0;
  cuda::ChunkHandle handle;
  std::size_t bytes = 0;
};

// Of ProbeStep: a rung to try, with the chunk to try it on; or the one that is chosen.
struct ProbeTrial {
  cuda::Rung rung = cuda::Rung::NoGpu;
  bool chosen = false;
  std::uint32_t slot = 0;
  std::uint64_t offset = 0;
  ClosedChunk chunk;
};

// A device was offered, as was asked.
struct Offered {};

class Replies {
 public:
  using Answer =
      std::variant<std::shared_ptr<Segment>, ClosedChunk, protocol::MemoryRef, Offered, ProbeTrial>;

  std::uint64_t next_number();
  void answer(std::uint64_t number, Result<Answer> answer);
  // The answer to that number, which is forgotten by it. Errors: the server's; Protocol for an
  // answer of another kind; DeadlineExceeded.
  template <class Kind>
  Result<Kind> wait(std::uint64_t number, const Deadline& deadline) {
    auto answer = wait_for_any(number, deadline);
    if (!answer) return std::unexpected(answer.error());
    if (auto* kind = std::get_if<Kind>(&*answer)) return std::move(*kind);
    return failure(ErrorCode::Protocol, "the server answered what was not asked");
  }

 private:
  Result<Answer> wait_for_any(std::uint64_t number, const Deadline& deadline);

  std::mutex mutex_;
  std::condition_variable came_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, Result<Answer>> answers_;
};

}  // namespace tensorferry::stub
