// A tensor's description, against a reference that computes in 128 bits, element by element of the
// shape.
#include <tensorferry/transport/codec.h>

#include <cstdlib>
#include <vector>

#include "fuzz/fuzz_input.h"

namespace {

using namespace tensorferry;
using Wide = __int128;
constexpr Wide kMost = INT64_MAX;

// Dimensions that are plausible, and some that are not.
std::int64_t dimension(FuzzInput& input) {
  const std::uint8_t choice = input.byte();
  if (choice < 224) return choice % 8;
  if (choice < 240) return std::int64_t{1} << (choice % 64);
  return input.number<std::int64_t>();
}

// False where a dimension is negative, or the product of those that are not zero is too large.
bool reference_count(std::span<const std::int64_t> shape, Wide& count) {
  Wide product = 1;
  bool empty = false;
  for (std::int64_t dim : shape) {
    if (dim < 0) return false;
    empty |= dim == 0;
    if (dim > 0) product *= dim;
    if (product > kMost) return false;
  }
  count = empty ? 0 : product;
  return true;
}

bool reference(const protocol::TensorRecord& tensor) {
  Wide count = 0;
  if (tensor.shape.size() > protocol::kMaxRank || !reference_count(tensor.shape, count))
    return false;
  const Wide bytes = tensor.memory.bytes;
  const bool is_inline = tensor.memory.kind == protocol::MemoryKind::Inline;
  if (is_inline ? static_cast<Wide>(tensor.inline_bytes.size()) != bytes
                : !tensor.inline_bytes.empty())
    return false;
  const bool in_a_chunk = tensor.memory.kind == protocol::MemoryKind::DeviceChunk;
  if (in_a_chunk && tensor.device.kind != DeviceKind::Cuda) return false;
  if (tensor.dtype.is_bytes()) return tensor.strides.empty();
  const Wide element = static_cast<Wide>(element_bytes(tensor.dtype));
  if (tensor.strides.empty()) return count * element == bytes && count * element <= kMost;
  if (tensor.strides.size() != tensor.shape.size()) return false;
  if (count == 0) return true;
  Wide last = 0;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.strides[i] < 0) return false;
    last += Wide{tensor.shape[i] - 1} * tensor.strides[i];
    if (last > kMost) return false;
  }
  return (last + 1) * element <= kMost && (last + 1) * element <= bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static constexpr DType kTypes[] = {kBool, kInt16, kFloat32, kFloat64, kBytes};
  FuzzInput input(data, size);
  protocol::TensorRecord tensor;
  tensor.dtype = kTypes[input.byte() % std::size(kTypes)];
  tensor.memory.kind = static_cast<protocol::MemoryKind>(input.byte() % 3);
  std::vector<std::int64_t> shape(input.byte() % 68), strides(input.byte() % 2 ? shape.size() : 0);
  if (input.byte() % 16 == 0) strides.resize(input.byte() % 68);
  for (std::int64_t& dim : shape) dim = dimension(input);
  for (std::int64_t& stride : strides) stride = dimension(input);
  tensor.shape = shape;
  tensor.strides = strides;
  const std::uint8_t choice = input.byte();
  if (choice < 128) {  // what its shape takes, if that can be said
    Wide count = 0;
    if (reference_count(shape, count))
      tensor.memory.bytes = static_cast<std::uint64_t>(count) * element_bytes(tensor.dtype);
  } else {
    tensor.memory.bytes =
        choice < 224 ? input.number<std::uint16_t>() : input.number<std::uint64_t>();
  }
  std::vector<std::byte> bytes(input.byte() % 4 ? std::min<std::uint64_t>(tensor.memory.bytes, 4096)
                                                : input.byte());
  if (tensor.memory.kind == protocol::MemoryKind::Inline || input.byte() % 8 == 0)
    tensor.inline_bytes = bytes;
  // Mostly where memory of that kind is.
  const bool in_a_chunk = tensor.memory.kind == protocol::MemoryKind::DeviceChunk;
  tensor.device.kind = in_a_chunk ? DeviceKind::Cuda : DeviceKind::Cpu;
  if (const std::uint8_t other = input.byte(); other % 8 == 7)
    tensor.device.kind = static_cast<DeviceKind>(1 + other / 8 % 3);
  if (validate(tensor).has_value() != reference(tensor)) std::abort();
  return 0;
}
