// Bytes of a tensor on the server's side, with whatever keeps them valid: a block of an arena of
// the model's, a lease on a range that a stub answered with, or ordinary memory.
#pragma once

#include <tensorferry/transport/device.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace tensorferry::server {

// Keeps shared memory valid; the destructor gives it back. Private subclasses know to whom.
class BufferHolder {
 public:
  virtual ~BufferHolder() = default;
};

// Move-only owner of bytes. Small ones (64 bytes and fewer) lie in the object itself: take bytes()
// anew after a move. A Buffer is used by one thread at a time; the bytes are its holder's alone
// (docs/design.md, rule 9).
class Buffer {
 public:
  static constexpr std::size_t kSmallBytes = 64;

  Buffer() = default;
  // Ordinary memory, uninitialised; aligned to 64 bytes when larger than kSmallBytes.
  static Buffer ordinary(std::size_t bytes);
  // Shared memory at `data`; of a GPU where `device` says so: then bytes() tells where it is, and
  // only the driver may follow that.
  static Buffer shared(std::byte* data, std::size_t bytes, std::shared_ptr<BufferHolder> holder,
                       Device device = {});

  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(Buffer&&) noexcept = default;

  std::span<std::byte> bytes() noexcept { return {data(), size_}; }
  std::span<const std::byte> bytes() const noexcept {
    return {const_cast<Buffer*>(this)->data(), size_};
  }
  std::size_t size() const noexcept { return size_; }
  bool is_shared() const noexcept { return holder_ != nullptr; }
  const Device& device() const noexcept { return device_; }
  bool is_cpu() const noexcept { return device_.kind != DeviceKind::Cuda; }
  const std::shared_ptr<BufferHolder>& holder() const noexcept { return holder_; }

 private:
  struct FreeAligned {
    void operator()(std::byte* memory) const noexcept;
  };
  std::byte* data() noexcept {
    if (external_) return external_;
    return heap_ ? heap_.get() : small_.data();
  }

  alignas(16) std::array<std::byte, kSmallBytes> small_{};
  std::unique_ptr<std::byte, FreeAligned> heap_;
  std::byte* external_ = nullptr;
  std::size_t size_ = 0;
  std::shared_ptr<BufferHolder> holder_;
  Device device_;
};

}  // namespace tensorferry::server
