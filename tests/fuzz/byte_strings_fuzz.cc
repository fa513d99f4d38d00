// Any bytes as a BYTES tensor: the walk gives elements that lie inside, one behind the other, and
// says how it ended.
#include <tensorferry/transport/byte_strings.h>

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tensorferry;
  const auto bytes = std::as_bytes(std::span(data, size));
  ByteStringReader reader(bytes);
  std::size_t used = 0, elements = 0;
  bool cut = false;
  while (used < size && !cut) {
    const bool whole_length = size - used >= kStringLengthBytes;
    auto element = reader.next();
    cut = !element;
    if (cut) break;
    if (!whole_length) std::abort();
    used += kStringLengthBytes;
    if (element->data() != bytes.data() + used || element->size() > size - used) std::abort();
    used += element->size();
    ++elements;
  }
  if (!cut && !reader.finish()) std::abort();
  if (!ByteStringReader(bytes).may_hold(elements)) std::abort();
  return 0;
}
