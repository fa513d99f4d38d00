// How an event loop hears of answers: by a descriptor that it polls, and no thread per request.
#pragma once

#include <tensorferry/transport/unique_fd.h>

#include <memory>
#include <mutex>
#include <vector>

namespace tensorferry::python {

// An eventfd of one event loop. Thread-safe, without the GIL.
class Doorbell {
 public:
  Doorbell();  // throws OSError where there is no descriptor left
  int fd() const noexcept { return fd_.get(); }
  void ring() const noexcept;
  void silence() const noexcept;  // what was rung counts as heard

 private:
  UniqueFd fd_;
};

// Of one request: rings the bells of those who wait for it. Thread-safe.
class Arrival {
 public:
  void came() noexcept;
  // False when it came already: the bell will not ring.
  bool announce_at(std::shared_ptr<Doorbell> bell);

 private:
  std::mutex mutex_;
  bool came_ = false;
  std::vector<std::shared_ptr<Doorbell>> bells_;
};

}  // namespace tensorferry::python
