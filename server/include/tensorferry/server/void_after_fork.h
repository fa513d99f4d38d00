// The error of whatever belongs to a server of the process that this one was forked from.
#pragma once

#include <tensorferry/transport/error.h>
#include <tensorferry/transport/fork_guard.h>

#include <cstdint>
#include <string>

namespace tensorferry::server {

inline Error void_after_fork(const std::string& model) {
  return {ErrorCode::Closed,
          "this process is a fork of the one that started the server: its stubs and requests "
          "belong to the parent; "
          "start a Server of its own here, or send requests from the parent",
          {model, {}, {}}};
}

// The process in which something was made. Takes no lock: those of the parent's threads may have
// been held at the fork.
class Home {
 public:
  bool is_here() const noexcept { return fork_generation() == generation_; }
  // Closed in a fork of it.
  Result<void> check(const std::string& model = {}) const {
    if (!is_here()) return std::unexpected(void_after_fork(model));
    return {};
  }

 private:
  std::uint64_t generation_ = fork_generation();
};

}  // namespace tensorferry::server
