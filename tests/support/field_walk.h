// Where each field of an encoded message lies: what a test changes to see that every one is
// checked. Walks the message's fields() as the codec does, on its own.
#pragma once

#include <tensorferry/transport/device.h>
#include <tensorferry/transport/dtype.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

namespace tensorferry {

struct EncodedField {
  std::string path;  // "2[0].6[1].5.3": places in fields(), indices of lists; "#": a length
  std::size_t at = 0;
  std::size_t bytes = 0;  // 1, 2, 4 or 8
};

class FieldWalk {
 public:
  template <class Message>
  static std::vector<EncodedField> of(const Message& message) {
    FieldWalk walk;
    walk.visit(message, "");
    return std::move(walk.fields_);
  }

 private:
  void number(const std::string& path, std::size_t bytes) {
    fields_.push_back({path, at_, bytes});
    at_ += bytes;
  }

  template <class T>
  void visit(const T& value, const std::string& path) {
    if constexpr (std::is_same_v<T, DType>) {
      number(path + ".code", 1);
      number(path + ".bits", 1);
      number(path + ".lanes", 2);
    } else if constexpr (std::is_same_v<T, Device>) {
      number(path + ".kind", 1);
      number(path + ".id", 4);
    } else if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      number(path, sizeof(T));
    } else if constexpr (requires { T::fields(); }) {
      std::apply(
          [&](auto... member) {
            int place = 0;
            (visit(value.*member, path + "." + std::to_string(place++)), ...);
          },
          T::fields());
    } else {  // a text or a list
      number(path + "#", 4);
      using Item = std::remove_cvref_t<decltype(*value.begin())>;
      if constexpr (sizeof(Item) == 1) {
        at_ += value.size();
      } else {
        std::size_t index = 0;
        for (const auto& item : value) visit(item, path + "[" + std::to_string(index++) + "]");
      }
    }
  }

  std::vector<EncodedField> fields_;
  std::size_t at_ = 0;
};

// What a field is changed to: extremes, its neighbours, and a flipped sign.
inline std::vector<std::vector<std::byte>> mutations(std::span<const std::byte> message,
                                                     const EncodedField& field) {
  std::uint64_t value = 0;
  std::memcpy(&value, message.data() + field.at, field.bytes);
  const std::uint64_t sign = std::uint64_t{1} << (field.bytes * 8 - 1);
  std::vector<std::vector<std::byte>> result;
  constexpr std::uint64_t kAll = ~std::uint64_t{0};
  const std::uint64_t after = value == kAll ? 0 : value + 1, before = value == 0 ? kAll : value - 1;
  for (std::uint64_t changed : {std::uint64_t{0}, std::uint64_t{1}, after, before, value << 1,
                                value ^ sign, sign, sign - 1, kAll}) {
    std::vector<std::byte> copy(message.begin(), message.end());
    std::memcpy(copy.data() + field.at, &changed, field.bytes);
    if (std::memcmp(copy.data(), message.data(), copy.size()) != 0)
      result.push_back(std::move(copy));
  }
  return result;
}

}  // namespace tensorferry
