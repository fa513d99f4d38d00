#include <tensorferry/transport/codec.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

#include "byte_reader.h"
#include "wire_enums.h"

namespace tensorferry {
namespace {

static_assert(std::endian::native == std::endian::little,
              "numbers are copied as they lie in memory");

template <class T>
inline constexpr bool kIsSpan = false;
template <class T>
inline constexpr bool kIsSpan<std::span<const T>> = true;

template <class T>
concept Struct = requires { T::fields(); };
template <class T>
concept Number = std::is_integral_v<T> || std::is_floating_point_v<T> || std::is_enum_v<T>;

// ------------------------------------------------------------------------------------------ size
template <class T>
std::size_t size_of(const T& value) {
  if constexpr (std::is_same_v<T, DType>) {
    return 4;
  } else if constexpr (std::is_same_v<T, Device>) {
    return 5;
  } else if constexpr (Number<T>) {
    return sizeof(T);
  } else if constexpr (std::is_same_v<T, std::string_view> ||
                       std::is_same_v<T, std::span<const std::byte>>) {
    return 4 + value.size();
  } else if constexpr (kIsSpan<T>) {
    if constexpr (Number<typename T::value_type>)
      return 4 + value.size() * sizeof(typename T::value_type);
    std::size_t total = 4;
    for (const auto& item : value) total += size_of(item);
    return total;
  } else {
    return std::apply(
        [&](auto... member) { return (std::size_t{0} + ... + size_of(value.*member)); },
        T::fields());
  }
}

// ----------------------------------------------------------------------------------------- write
std::byte* put(std::byte* at, const void* from, std::size_t bytes) {
  if (bytes != 0) std::memcpy(at, from, bytes);
  return at + bytes;
}

template <class T>
std::byte* write(std::byte* at, const T& value) {
  if constexpr (std::is_same_v<T, DType>) {
    at = write(at, value.code);
    at = write(at, value.bits);
    return write(at, value.lanes);
  } else if constexpr (std::is_same_v<T, Device>) {
    at = write(at, value.kind);
    return write(at, value.id);
  } else if constexpr (Number<T>) {
    return put(at, &value, sizeof value);
  } else if constexpr (std::is_same_v<T, std::string_view> ||
                       std::is_same_v<T, std::span<const std::byte>>) {
    at = write(at, static_cast<std::uint32_t>(value.size()));
    return put(at, value.data(), value.size());
  } else if constexpr (kIsSpan<T>) {
    at = write(at, static_cast<std::uint32_t>(value.size()));
    if constexpr (Number<typename T::value_type>) return put(at, value.data(), value.size_bytes());
    for (const auto& item : value) at = write(at, item);
    return at;
  } else {
    std::apply([&](auto... member) { ((at = write(at, value.*member)), ...); }, T::fields());
    return at;
  }
}

// ------------------------------------------------------------------------------------------ read
// Reads one value of each kind; false when the bytes don't hold one. `why` is set where more can be
// said than that they ended.
struct Decoder {
  ByteReader in;
  Scratch& scratch;
  std::string why;

  bool fail(std::string text) {
    if (why.empty()) why = std::move(text);
    return false;
  }

  template <Number T>
  bool read(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t byte = 0;
      if (!in.number(byte)) return false;
      if (byte > 1) return fail("a bool is " + std::to_string(byte));
      value = byte == 1;
      return true;
    } else {
      if (!in.number(value)) return false;
      if constexpr (std::is_enum_v<T>) {
        if (!is_known(value))
          return fail("an enum has the unknown value " + std::to_string(static_cast<int>(value)));
      }
      return true;
    }
  }

  bool read(DType& value) {
    if (!in.number(value.code) || !in.number(value.bits) || !in.number(value.lanes)) return false;
    return is_supported(value) || fail("unknown " + to_string(value));
  }

  bool read(Device& value) { return read(value.kind) && read(value.id); }

  bool read(std::string_view& value) {
    std::span<const std::byte> bytes;
    if (!read(bytes)) return false;
    if (bytes.size() > protocol::kMaxTextBytes) return fail("a text is longer than allowed");
    value = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    return true;
  }

  bool read(std::span<const std::byte>& value) {
    std::uint32_t size = 0;
    return in.number(size) && in.bytes(size, value);
  }

  template <class T>
  bool read(std::span<const T>& value) {
    std::uint32_t count = 0;
    if (!in.number(count)) return false;
    // Each item takes at least what an empty one takes, so a count that lies costs no more than its
    // message.
    if (count > protocol::kMaxListItems || count > in.left() / size_of(T{})) {
      return fail("a list's count is larger than its message");
    }
    auto* items = reinterpret_cast<T*>(scratch.take(count * sizeof(T), alignof(T)));
    for (std::uint32_t i = 0; i < count; ++i) {
      T* item = new (items + i) T{};
      if (!read(*item)) return false;
    }
    value = {items, count};
    return true;
  }

  template <Struct T>
  bool read(T& value) {
    return std::apply([&](auto... member) { return (read(value.*member) && ...); }, T::fields()) &&
           check(value);
  }

  template <class T>
  bool check(const T&) {
    return true;
  }
  bool check(const protocol::TensorRecord& tensor) {
    if (tensor.name.size() > protocol::kMaxNameBytes)
      return fail("a tensor's name is longer than allowed");
    auto valid = validate(tensor);
    return valid || fail("tensor '" + std::string(tensor.name) + "': " + valid.error().message);
  }
  bool check(const protocol::Parameter& parameter) {
    return parameter.key.size() <= protocol::kMaxNameBytes ||
           fail("a parameter's key is longer than allowed");
  }
  bool check(const protocol::RequestRecord& request) {
    if (request.id.size() > protocol::kMaxNameBytes ||
        request.correlation_text.size() > protocol::kMaxNameBytes)
      return fail("a request's id is longer than allowed");
    return std::ranges::none_of(
               request.requested_outputs,
               [](std::string_view name) { return name.size() > protocol::kMaxNameBytes; }) ||
           fail("an output's name is longer than allowed");
  }
};

std::unexpected<Error> refused(std::string what) {
  return failure(ErrorCode::Protocol, std::move(what));
}

}  // namespace

// --------------------------------------------------------------------------------------- Scratch
void Scratch::reset() noexcept {
  block_ = 0;
  used_ = 0;
}

std::byte* Scratch::take(std::size_t bytes, std::size_t alignment) {
  constexpr std::size_t kFirstBlock = 4096;
  while (true) {
    if (block_ < blocks_.size()) {
      auto base = reinterpret_cast<std::uintptr_t>(blocks_[block_].data.get());
      std::size_t at = ((base + used_ + alignment - 1) & ~(alignment - 1)) - base;
      if (at <= blocks_[block_].bytes && bytes <= blocks_[block_].bytes - at) {
        used_ = at + bytes;
        return blocks_[block_].data.get() + at;
      }
      if (block_ + 1 < blocks_.size()) {
        ++block_;
        used_ = 0;
        continue;
      }
    }
    std::size_t last = blocks_.empty() ? kFirstBlock / 2 : blocks_.back().bytes;
    std::size_t size = std::max(last * 2, bytes + alignment);
    blocks_.push_back({std::make_unique_for_overwrite<std::byte[]>(size), size});
    block_ = blocks_.size() - 1;
    used_ = 0;
  }
}

// ------------------------------------------------------------------------------------ validation
Result<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  std::int64_t count =
      1;  // of the dimensions that are not zero, so that their order doesn't matter
  bool empty = false;
  for (std::int64_t dim : shape) {
    if (dim < 0) return refused("dimension " + std::to_string(dim) + " is negative");
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(count, dim, &count)) {
      return refused("the shape's element count overflows");
    }
  }
  return empty ? 0 : count;
}

Result<void> validate(const protocol::TensorRecord& tensor) {
  if (tensor.shape.size() > protocol::kMaxRank) {
    return refused("rank " + std::to_string(tensor.shape.size()) + " is above " +
                   std::to_string(protocol::kMaxRank));
  }
  auto count = element_count(tensor.shape);
  if (!count) return std::unexpected(count.error());
  const std::uint64_t bytes = tensor.memory.bytes;
  if (tensor.memory.kind == protocol::MemoryKind::Inline) {
    if (tensor.inline_bytes.size() != bytes) return refused("inline bytes don't match the size");
  } else if (!tensor.inline_bytes.empty()) {
    return refused("it has inline bytes and lies elsewhere too");
  }
  const bool in_a_chunk = tensor.memory.kind == protocol::MemoryKind::DeviceChunk;
  if (in_a_chunk && tensor.device.kind != DeviceKind::Cuda)
    return refused("memory of that kind is not on that device");
  if (tensor.dtype.is_bytes()) {
    if (!tensor.strides.empty()) return refused("BYTES with strides");
    return {};
  }
  const auto element = static_cast<std::int64_t>(element_bytes(tensor.dtype));
  if (tensor.strides.empty()) {
    std::int64_t expected = 0;
    if (__builtin_mul_overflow(*count, element, &expected))
      return refused("the byte size overflows");
    if (static_cast<std::uint64_t>(expected) != bytes) {
      return refused("it has " + std::to_string(bytes) + " bytes, its shape takes " +
                     std::to_string(expected));
    }
    return {};
  }
  if (tensor.strides.size() != tensor.shape.size())
    return refused("strides and shape differ in rank");
  std::int64_t last = 0;  // the farthest element, from the first
  for (std::size_t i = 0; i < tensor.shape.size() && *count > 0; ++i) {
    std::int64_t reach = 0;
    if (tensor.strides[i] < 0) return refused("a stride is negative");
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return refused("the strides overflow");
    }
  }
  std::int64_t extent = 0;
  if (*count > 0 && (__builtin_add_overflow(last, 1, &extent) ||
                     __builtin_mul_overflow(extent, element, &extent))) {
    return refused("the strides overflow");
  }
  if (static_cast<std::uint64_t>(extent) > bytes) return refused("its strides leave its bytes");
  return {};
}

// ---------------------------------------------------------------------------------------- public
template <class Message>
std::size_t encoded_bytes(const Message& message) {
  return size_of(message);
}

template <class Message>
std::size_t encode(const Message& message, std::span<std::byte> out) {
  std::byte* end = write(out.data(), message);
  return static_cast<std::size_t>(end - out.data());
}

template <class Message>
Result<Message> decode_private(std::span<const std::byte> bytes, Scratch& scratch) {
  Decoder decoder{ByteReader(bytes), scratch, {}};
  Message message{};
  if (!decoder.read(message)) {
    return refused(std::string(name_of<Message>()) + ": " +
                   (decoder.why.empty() ? "it ends too early" : decoder.why));
  }
  if (decoder.in.left() != 0) {
    return refused(std::string(name_of<Message>()) + ": " + std::to_string(decoder.in.left()) +
                   " bytes are left over");
  }
  return message;
}

template <class Message>
Result<Message> decode(std::span<const std::byte> bytes, Scratch& scratch) {
  std::byte* copy = scratch.take(bytes.size(), 8);
  if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
  return decode_private<Message>({copy, bytes.size()}, scratch);
}

#define TENSORFERRY_INSTANTIATE(Message)                                          \
  template std::size_t encoded_bytes(const Message&);                             \
  template std::size_t encode(const Message&, std::span<std::byte>);              \
  template Result<Message> decode<Message>(std::span<const std::byte>, Scratch&); \
  template Result<Message> decode_private<Message>(std::span<const std::byte>, Scratch&);

TENSORFERRY_INSTANTIATE(protocol::Spill)
TENSORFERRY_INSTANTIATE(protocol::Execute)
TENSORFERRY_INSTANTIATE(protocol::Cancel)
TENSORFERRY_INSTANTIATE(protocol::Release)
TENSORFERRY_INSTANTIATE(protocol::Responses)
TENSORFERRY_INSTANTIATE(protocol::UserMessage)
TENSORFERRY_INSTANTIATE(protocol::Hello)
TENSORFERRY_INSTANTIATE(protocol::Welcome)
TENSORFERRY_INSTANTIATE(protocol::Segment)
TENSORFERRY_INSTANTIATE(protocol::SegmentRequest)
TENSORFERRY_INSTANTIATE(protocol::SegmentDenied)
TENSORFERRY_INSTANTIATE(protocol::SegmentDropped)
TENSORFERRY_INSTANTIATE(protocol::AutoComplete)
TENSORFERRY_INSTANTIATE(protocol::Load)
TENSORFERRY_INSTANTIATE(protocol::Reply)
TENSORFERRY_INSTANTIATE(protocol::Finalize)
TENSORFERRY_INSTANTIATE(protocol::Log)
TENSORFERRY_INSTANTIATE(protocol::Trim)
TENSORFERRY_INSTANTIATE(protocol::DeviceOffer)
TENSORFERRY_INSTANTIATE(protocol::DeviceSegment)
TENSORFERRY_INSTANTIATE(protocol::ReadDevice)
TENSORFERRY_INSTANTIATE(protocol::DeviceRead)
TENSORFERRY_INSTANTIATE(protocol::DeviceRequest)
TENSORFERRY_INSTANTIATE(protocol::DeviceRefused)
TENSORFERRY_INSTANTIATE(protocol::ProbeReport)
TENSORFERRY_INSTANTIATE(protocol::ProbeStep)
#undef TENSORFERRY_INSTANTIATE

}  // namespace tensorferry
