// Any bytes as any message, each kind of them: decoding gives an error or a message that encodes to
// the same bytes. The first byte says which kind.
#include <tensorferry/transport/codec.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "all_messages.h"

namespace {

using namespace tensorferry;

template <class Message>
void try_one(std::span<const std::byte> bytes) {
  static Scratch scratch;
  scratch.reset();
  auto message = decode<Message>(bytes, scratch);
  if (!message) return;
  std::vector<std::byte> again(encoded_bytes(*message));
  if (encode(*message, again) != bytes.size() || !std::ranges::equal(again, bytes)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  std::size_t kind = 0;
  for_each_message([&]<class Message>() {
    if (kind++ == data[0] % kMessageCount) try_one<Message>(bytes);
  });
  return 0;
}
