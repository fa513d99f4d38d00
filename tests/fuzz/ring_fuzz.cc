// Any bytes as a ring that the peer wrote: the reader gives records inside the ring, or an error,
// and ends.
#include <tensorferry/transport/ring.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tensorferry;
  constexpr std::size_t kCapacity = 4096;
  struct alignas(4096) Memory {
    std::byte bytes[ring_bytes(kCapacity)];
  };
  static auto memory = std::make_unique<Memory>();
  std::memset(memory->bytes, 0, sizeof memory->bytes);
  if (size < 8) return 0;
  auto* header = reinterpret_cast<protocol::RingHeader*>(memory->bytes);
  std::uint64_t tail = 0;
  std::memcpy(&tail, data, sizeof tail);
  header->tail.store(tail % (2 * kCapacity));
  std::memcpy(memory->bytes + protocol::kRingDataAt, data + 8, std::min(size - 8, kCapacity));
  RingReader reader(memory->bytes, kCapacity);
  unsigned sum = 0;
  for (std::size_t records = 0;; ++records) {
    if (records > kCapacity / 8) std::abort();  // more records than the ring has room for
    auto record = reader.peek();
    if (!record || !*record) break;
    for (std::byte byte : (*record)->body) sum += static_cast<unsigned>(byte);
    reader.consume();
  }
  return sum == 0xFFFFFFFF;
}
