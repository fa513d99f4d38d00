#include "doorbell.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <system_error>

namespace tensorferry::python {

Doorbell::Doorbell() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!fd_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void Doorbell::ring() const noexcept { (void)::eventfd_write(fd_.get(), 1); }

void Doorbell::silence() const noexcept {
  eventfd_t rung = 0;
  (void)::eventfd_read(fd_.get(), &rung);
}

void Arrival::came() noexcept {
  std::scoped_lock lock(mutex_);
  came_ = true;
  for (const auto& bell : bells_) bell->ring();
}

bool Arrival::announce_at(std::shared_ptr<Doorbell> bell) {
  std::scoped_lock lock(mutex_);
  if (came_) return false;
  bells_.push_back(std::move(bell));
  return true;
}

}  // namespace tensorferry::python
