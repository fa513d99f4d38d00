// Something of the driver's, given back when its owner goes.
#pragma once

#include <utility>

namespace tensorferry::cuda {

// Move-only; Value{} is none. GiveBack is called with what was held.
template <class Value, class GiveBack>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Value value) noexcept : value_(value) {}
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, Value{})) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      reset();
      value_ = std::exchange(other.value_, Value{});
    }
    return *this;
  }
  ~Owned() { reset(); }

  const Value& get() const noexcept { return value_; }
  void reset() noexcept {
    if (value_ != Value{}) GiveBack()(std::exchange(value_, Value{}));
  }

 private:
  Value value_{};
};

}  // namespace tensorferry::cuda
