// Messages to bytes and back. encode() walks a message's fields(); decode() copies the bytes once
// to private memory, checks everything (lengths, counts, enum values, dtypes, ranks, nothing left
// over) and only then hands out the message, whose views lie in the Scratch.
//
// Sources: the format is protocol.h's own. Cost: encode and decode allocate nothing once a Scratch
// or buffer has grown to its working size.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/protocol.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace tensorferry {

// Memory for one decoded message; reset() makes it ready for the next and keeps what it has. One
// thread at a time. Move-only.
class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&&) noexcept = default;
  Scratch& operator=(Scratch&&) noexcept = default;

  void reset() noexcept;
  // `bytes` uninitialised bytes aligned to `alignment` (a power of two, at most 64), valid until
  // reset().
  std::byte* take(std::size_t bytes, std::size_t alignment = 8);
  // Blocks obtained from the heap so far; constant once warm.
  std::size_t heap_blocks() const noexcept { return blocks_.size(); }

 private:
  struct Block {
    std::unique_ptr<std::byte[]> data;
    std::size_t bytes = 0;
  };
  std::vector<Block> blocks_;
  std::size_t block_ = 0;
  std::size_t used_ = 0;
};

// Bytes that `message` takes when encoded.
template <class Message>
std::size_t encoded_bytes(const Message& message);

// Writes `message` to `out`, which has at least encoded_bytes(message) bytes; returns how many it
// wrote.
template <class Message>
std::size_t encode(const Message& message, std::span<std::byte> out);

// Reads a message out of `bytes`, which may lie in memory that the peer still writes: they are
// copied first. Errors have ErrorCode::Protocol and say which message and what was wrong with it.
template <class Message>
Result<Message> decode(std::span<const std::byte> bytes, Scratch& scratch);

// The same for bytes that are private already and outlive the message's use.
template <class Message>
Result<Message> decode_private(std::span<const std::byte> bytes, Scratch& scratch);

// Checks beyond single fields, for a tensor that a peer described: element count and byte size
// agree and do not overflow, strides (none: C order) stay inside the bytes, inline size matches.
Result<void> validate(const protocol::TensorRecord& tensor);

// Product of the dimensions; an error when one is negative or the product of those that are not
// zero overflows int64 (NumPy makes no such array either).
Result<std::int64_t> element_count(std::span<const std::int64_t> shape);

}  // namespace tensorferry
