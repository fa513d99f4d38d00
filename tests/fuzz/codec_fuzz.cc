// Any bytes as any message: decoding gives an error or a message that encodes to the same meaning.
#include <tensorferry/transport/codec.h>

#include <cstdlib>
#include <vector>

namespace {

using namespace tensorferry;

template <class Message>
void try_one(std::span<const std::byte> bytes) {
  Scratch scratch;
  auto message = decode<Message>(bytes, scratch);
  if (!message) return;
  std::vector<std::byte> again(encoded_bytes(*message));
  if (encode(*message, again) != bytes.size() ||
      !std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size == 0) return 0;
  auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  switch (data[0] % 8) {
    case 0:
      try_one<protocol::Execute>(bytes);
      break;
    case 1:
      try_one<protocol::Responses>(bytes);
      break;
    case 2:
      try_one<protocol::UserMessage>(bytes);
      break;
    case 3:
      try_one<protocol::Release>(bytes);
      break;
    case 4:
      try_one<protocol::Hello>(bytes);
      break;
    case 5:
      try_one<protocol::Reply>(bytes);
      break;
    case 6:
      try_one<protocol::Spill>(bytes);
      break;
    default:
      try_one<protocol::Log>(bytes);
      break;
  }
  return 0;
}
