#include <tensorferry/transport/unique_fd.h>

#include <unistd.h>

namespace tensorferry {

void UniqueFd::reset(int fd) noexcept {
  int old = std::exchange(fd_, fd);
  if (old >= 0) ::close(old);
}

}  // namespace tensorferry
