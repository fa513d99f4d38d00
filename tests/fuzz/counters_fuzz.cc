// A page of counters as another process may have left it, against what a reader promises of its
// texts.
#include <tensorferry/transport/counters.h>
#include <tensorferry/transport/segment.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fuzz/fuzz_input.h"

namespace {

using namespace tensorferry;

bool is_clean(const std::string& text) {
  return text.size() <= kCounterTextBytes &&
         std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
}

// What is wrong with it is chosen now and then only, so that most pages are read to their end.
void fill(CounterPage& page, FuzzInput& input) {
  const std::uint8_t choice = input.byte();
  page.header.magic = choice & 1 ? input.number<std::uint64_t>() : kCounterPageMagic;
  page.header.version = choice & 2 ? input.number<std::uint32_t>() : kCounterPageVersion;
  page.header.slot_bytes = choice & 4 ? input.number<std::uint32_t>() : sizeof(CounterSlot);
  page.header.used = choice & 8 ? input.number<std::uint32_t>() : input.byte() % 8u;
  for (CounterSlot& slot : page.slots) {
    if (input.done()) return;
    slot.value = input.byte();
    slot.text_bytes = input.byte();
    const auto text = input.take(std::min<std::size_t>(slot.text_bytes, kCounterTextBytes));
    std::memcpy(slot.text, text.data(), text.size());
    if (choice & 16) slot.text_bytes = input.number<std::uint32_t>();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const auto memory = Segment::create(0, sizeof(CounterPage)).value();
  std::memset(memory->data(), 0, sizeof(CounterPage));
  FuzzInput input(data, size);
  fill(*new (memory->data()) CounterPage, input);
  const auto samples = read_counter_page(memory->fd());
  if (!samples) {
    if (samples.error().code != ErrorCode::Protocol) std::abort();
    return 0;
  }
  for (const CounterSample& sample : *samples) {
    if (!is_clean(sample.name)) std::abort();
    for (const auto& [key, value] : sample.labels)
      if (!is_clean(key) || !is_clean(value)) std::abort();
  }
  return 0;
}
