#include <tensorferry/server/device_use.h>

#include "device_hold.h"

namespace tensorferry::server {

void use_on_stream(const Buffer& buffer, CUstream_st* stream) {
  if (DeviceHold* hold = DeviceHold::of(buffer)) hold->use_on(stream);
}

Result<Buffer> copy_to_host(const Buffer& buffer) {
  Buffer copy = Buffer::ordinary(buffer.size());
  DeviceHold* hold = DeviceHold::of(buffer);
  if (!hold) return copy;  // nothing lies there
  if (auto followed = hold->follow_users(); !followed) return std::unexpected(followed.error());
  if (auto copied = hold->gpu().copy_to_host(copy.bytes(), buffer.bytes().data()); !copied)
    return std::unexpected(copied.error());
  return copy;
}

}  // namespace tensorferry::server
