// A second process of a question: the same program, in a role, with a socket between them.
#pragma once

#include <sys/types.h>
#include <tensorferry/cuda/handles.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/unique_fd.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tensorferry::gpu_probe {

inline constexpr const char* kHelperArgument = "--helper";
inline constexpr const char* kNewNamespaceArgument = "--helper-in-pid-namespace";

// The whole of what is said at a time; a descriptor may go with it.
struct Message {
  std::uint64_t numbers[4] = {};
  cuda::IpcHandle handle = {};
  char text[512] = {};  // of an answer: what went wrong
};
void set_text(Message& message, std::string_view text);

// One end. Waits for the other side at most some seconds.
class Link {
 public:
  explicit Link(UniqueFd socket) noexcept : socket_(std::move(socket)) {}
  Result<void> send(const Message& message, int fd = -1) const;
  // The error of a message with a text is that text.
  Result<Message> receive(UniqueFd* fd = nullptr) const;

 private:
  UniqueFd socket_;
};

class Helper {
 public:
  struct Place {
    std::vector<std::string> environment;  // NAME=VALUE, over ours
    bool new_pid_namespace = false;
  };
  static Result<Helper> start(const char* role) { return start(role, Place{}); }
  static Result<Helper> start(const char* role, const Place& place);
  Helper(Helper&& other) noexcept
      : link_(std::move(other.link_)), pid_(std::exchange(other.pid_, -1)) {}
  Helper& operator=(Helper&&) = delete;
  ~Helper();  // kills it

  const Link& link() const noexcept { return link_; }
  Result<Message> ask(const Message& message, int fd = -1) const;
  // SIGKILL, then waitpid.
  void kill();

 private:
  Helper(Link link, pid_t pid) noexcept : link_(std::move(link)), pid_(pid) {}
  Link link_;
  pid_t pid_;
};

// A role: talks to the question until there is nothing more to say.
struct Role {
  const char* name;
  Result<void> (*run)(const Link& link);
};
// main() of a helper, told apart by its first argument. Returns the exit status.
int run_helper(std::string_view argument, std::string_view role);

// The roles, beside the questions that they belong to.
Result<void> map_and_answer(const Link& link);
Result<void> map_read_only(const Link& link);
Result<void> register_pages(const Link& link);
Result<void> map_with_times(const Link& link);
Result<void> record_and_wait_for_death(const Link& link);
Result<void> write_and_wait_for_death(const Link& link);
Result<void> wait_in_a_capture(const Link& link);

}  // namespace tensorferry::gpu_probe
