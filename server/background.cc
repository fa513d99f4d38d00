#include "background.h"

#include <pthread.h>

#include <system_error>
#include <utility>

namespace tensorferry::server {

struct Background::Impl {
  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::deque<Job> jobs;
  bool ending = false;
  std::thread thread;

  void serve() {
    ::pthread_setname_np(::pthread_self(), "ferry-later");
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return ending || !jobs.empty(); });
      if (ending) return;
      Job job = std::move(jobs.front());
      jobs.pop_front();
      lock.unlock();
      job();
      job = {};  // what it holds goes without the mutex
      lock.lock();
    }
  }
};

std::shared_ptr<Background::Impl> Background::make() { return std::make_shared<Impl>(); }

Background::~Background() {
  if (!home_.is_here()) {
    new std::shared_ptr<Impl>(std::move(impl_));
    return;
  }
  {
    std::scoped_lock lock(impl_->mutex);
    impl_->ending = true;
    impl_->changed.notify_one();
  }
  if (impl_->thread.joinable()) impl_->thread.join();
}

bool Background::run(Job job) noexcept try {
  std::scoped_lock lock(impl_->mutex);
  if (!impl_->thread.joinable())
    impl_->thread = std::thread([impl = impl_.get()] { impl->serve(); });
  impl_->jobs.push_back(std::move(job));
  impl_->changed.notify_one();
  return true;
} catch (const std::system_error&) {
  return false;
}

}  // namespace tensorferry::server
