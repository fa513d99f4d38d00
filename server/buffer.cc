#include <tensorferry/server/buffer.h>

#include <new>

namespace tensorferry::server {
namespace {
constexpr std::align_val_t kAlignment{64};
}

void Buffer::FreeAligned::operator()(std::byte* memory) const noexcept {
  ::operator delete(memory, kAlignment);
}

Buffer Buffer::ordinary(std::size_t bytes) {
  Buffer buffer;
  buffer.size_ = bytes;
  if (bytes > kSmallBytes) {
    buffer.heap_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
  }
  return buffer;
}

Buffer Buffer::shared(std::byte* data, std::size_t bytes, std::shared_ptr<BufferHolder> holder,
                      Device device) {
  Buffer buffer;
  buffer.external_ = data;
  buffer.size_ = bytes;
  buffer.holder_ = std::move(holder);
  buffer.device_ = device;
  return buffer;
}

}  // namespace tensorferry::server
