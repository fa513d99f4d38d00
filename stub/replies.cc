#include "replies.h"

namespace tensorferry::stub {

std::uint64_t Replies::next_number() {
  std::scoped_lock lock(mutex_);
  return ++last_;
}

void Replies::answer(std::uint64_t number, Result<Answer> answer) {
  std::scoped_lock lock(mutex_);
  answers_.insert_or_assign(number, std::move(answer));
  came_.notify_all();
}

Result<Replies::Answer> Replies::wait_for_any(std::uint64_t number, const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  auto is_here = [&] { return answers_.contains(number); };
  if (!deadline) {
    came_.wait(lock, is_here);
  } else if (!came_.wait_until(lock, *deadline, is_here)) {
    return failure(ErrorCode::DeadlineExceeded, "the server did not answer in time");
  }
  auto taken = answers_.extract(number);
  return std::move(taken.mapped());
}

}  // namespace tensorferry::stub
