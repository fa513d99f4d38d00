// Any valid message: fills the fields() of a message struct with random values, the way the codec
// walks them. Small sizes mostly, and the extremes often.
#pragma once

#include <tensorferry/transport/codec.h>
#include <tensorferry/transport/protocol.h>

#include <bit>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "wire_enums.h"

namespace tensorferry {

template <class T>
inline constexpr bool kIsListOf = false;
template <class T>
inline constexpr bool kIsListOf<std::span<const T>> = true;

class RandomMessage {
 public:
  explicit RandomMessage(std::uint64_t seed) : random_(seed) {}

  // What the message's views point at lives as long as this object.
  template <class Message>
  Message make() {
    Message message{};
    fill(message);
    return message;
  }

 private:
  std::uint64_t number(std::uint64_t below) {
    return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
  }
  bool one_in(std::uint64_t n) { return number(n) == 0; }

  template <class T>
  T* keep(std::size_t count) {
    auto& block = memory_.emplace_back(count * sizeof(T) + alignof(std::max_align_t));
    return new (block.data()) T[count]{};
  }

  template <class T>
  void fill(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      value = one_in(2);
    } else if constexpr (std::is_enum_v<T>) {
      using Number = std::underlying_type_t<T>;
      do {
        value = static_cast<T>(static_cast<Number>(number(256)));
      } while (!is_known(value));
    } else if constexpr (std::is_same_v<T, double>) {
      value = std::bit_cast<double>(random_());  // NaNs and infinities too
    } else if constexpr (std::is_integral_v<T>) {
      const T extremes[] = {T{0}, T{1}, std::numeric_limits<T>::min(),
                            std::numeric_limits<T>::max()};
      value = one_in(2) ? extremes[number(4)] : static_cast<T>(random_());
    } else if constexpr (std::is_same_v<T, std::string_view>) {
      const std::size_t size = text_size();
      char* text = keep<char>(size + 1);
      for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(random_());
      value = {text, size};
    } else if constexpr (kIsListOf<T>) {
      using Item = typename T::value_type;
      const std::size_t count = one_in(3) ? 0 : number(one_in(20) ? 200 : 4);
      Item* items = keep<Item>(count + 1);
      for (std::size_t i = 0; i < count; ++i) fill(items[i]);
      value = {items, count};
    } else {
      std::apply([&](auto... member) { (fill(value.*member), ...); }, T::fields());
    }
  }

  std::size_t text_size() {
    if (one_in(3)) return 0;
    return one_in(50) ? protocol::kMaxNameBytes : number(20);
  }

  void fill(Device& device) {
    fill(device.kind);
    fill(device.id);
  }

  void fill(DType& dtype) {
    do {
      dtype.code = static_cast<DTypeCode>(number(256));
      dtype.bits = static_cast<std::uint8_t>(dtype.code == DTypeCode::Bytes ? 0 : 1 << number(7));
      dtype.lanes = 1;
    } while (!is_supported(dtype));
  }

  // Ranks up to the largest; dimensions whose product stays small, or contains a nothing.
  std::span<const std::int64_t> shape() {
    const std::size_t rank = one_in(10) ? protocol::kMaxRank : number(6);
    auto* dims = keep<std::int64_t>(rank + 1);
    std::int64_t product = 1;
    for (std::size_t i = 0; i < rank; ++i) {
      dims[i] = product < 100 ? static_cast<std::int64_t>(1 + number(5)) : 1;
      product *= dims[i];
    }
    if (rank > 0 && one_in(6)) dims[number(rank)] = 0;
    if (rank > 1 && one_in(12)) {
      std::fill_n(dims, rank, 1);
      const std::size_t at = number(rank);
      dims[at] = 0;
      dims[(at + 1) % rank] = INT64_MAX;
    }
    return {dims, rank};
  }

  // In elements; how many bytes the tensor then reaches over.
  std::span<const std::int64_t> strides(std::span<const std::int64_t> shape, std::int64_t count,
                                        std::int64_t& extent) {
    auto* strides = keep<std::int64_t>(shape.size() + 1);
    std::int64_t last = 0;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      strides[i] = static_cast<std::int64_t>(number(4));  // 0: broadcast
      if (count > 0) last += (shape[i] - 1) * strides[i];
    }
    extent = count > 0 ? last + 1 : 0;
    return {strides, shape.size()};
  }

  void fill(protocol::TensorRecord& tensor) {
    fill(tensor.name);
    fill(tensor.dtype);
    fill(tensor.device);
    tensor.shape = shape();
    fill(tensor.memory);
    const std::int64_t count = element_count(tensor.shape).value();
    std::int64_t extent = count;
    if (tensor.dtype.is_bytes()) {
      tensor.memory.bytes = number(5000);
    } else {
      if (one_in(3) && !tensor.shape.empty()) tensor.strides = strides(tensor.shape, count, extent);
      tensor.memory.bytes = static_cast<std::uint64_t>(extent) * element_bytes(tensor.dtype);
      if (!tensor.strides.empty()) tensor.memory.bytes += number(9);  // strides may leave some over
    }
    const bool nothing =
        tensor.memory.kind == protocol::MemoryKind::Inline && tensor.memory.bytes == 0;
    const bool in_a_chunk = tensor.memory.kind == protocol::MemoryKind::DeviceChunk;
    if (in_a_chunk || (tensor.device.kind == DeviceKind::Cuda && !nothing))
      tensor.device.kind = in_a_chunk ? DeviceKind::Cuda : DeviceKind::Cpu;
    if (tensor.memory.kind != protocol::MemoryKind::Inline) return;
    auto* bytes = keep<std::byte>(tensor.memory.bytes + 1);
    for (std::size_t i = 0; i < tensor.memory.bytes; ++i)
      bytes[i] = static_cast<std::byte>(random_());
    tensor.inline_bytes = {bytes, tensor.memory.bytes};
  }

  std::mt19937_64 random_;
  std::deque<std::vector<std::byte>> memory_;
};

}  // namespace tensorferry
