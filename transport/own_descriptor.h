// A descriptor in a program that closes what it did not open (a model that closes all from 3 on),
// and may have another file under our number then.
#pragma once

#include <sys/stat.h>
#include <tensorferry/transport/unique_fd.h>

namespace tensorferry {

// Not thread-safe.
class OwnDescriptor {
 public:
  OwnDescriptor() = default;
  explicit OwnDescriptor(UniqueFd fd) noexcept : fd_(std::move(fd)) {
    if (struct stat status{}; fd_ && ::fstat(fd_.get(), &status) == 0) file_ = id_of(status);
  }
  OwnDescriptor(const OwnDescriptor&) = delete;
  OwnDescriptor& operator=(const OwnDescriptor&) = delete;
  OwnDescriptor(OwnDescriptor&&) noexcept = default;
  OwnDescriptor& operator=(OwnDescriptor&& other) noexcept {
    close();
    fd_ = std::move(other.fd_);
    file_ = other.file_;
    return *this;
  }
  ~OwnDescriptor() { close(); }

  int get() const noexcept { return fd_.get(); }
  // There is one, and it is still what it was.
  bool is_ours() const noexcept {
    struct stat status{};
    return fd_ && ::fstat(fd_.get(), &status) == 0 && id_of(status) == file_;
  }
  // Unless it is somebody else's now.
  void close() noexcept {
    if (!is_ours()) (void)fd_.release();
    fd_.reset();
  }

 private:
  using FileId = std::pair<dev_t, ino_t>;
  static FileId id_of(const struct stat& status) noexcept { return {status.st_dev, status.st_ino}; }

  UniqueFd fd_;
  FileId file_{};
};

}  // namespace tensorferry
