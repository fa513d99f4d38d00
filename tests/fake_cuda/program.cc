#include "program.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

namespace fakecuda_test {
namespace {

// Of this run of the test binary; gone at its end.
const std::string& state_folder() {
  static const struct Folder {
    Folder() {
      std::string pattern =
          (std::filesystem::temp_directory_path() / "fakecuda-test-XXXXXX").string();
      path = ::mkdtemp(pattern.data());
      owner = ::getpid();
    }
    ~Folder() {
      if (owner == ::getpid()) std::filesystem::remove_all(path);
    }
    std::string path;
    pid_t owner = 0;
  } folder;
  return folder.path;
}

void set_variable(const std::string& variable) {
  const auto equals = variable.find('=');
  ::setenv(variable.substr(0, equals).c_str(), variable.substr(equals + 1).c_str(), 1);
}

}  // namespace

void Pipe::send_bytes(const void* bytes, std::size_t size) const {
  ASSERT_EQ(::send(socket_, bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
}

void Pipe::receive_bytes(void* bytes, std::size_t size) const {
  ASSERT_EQ(::recv(socket_, bytes, size, 0), static_cast<ssize_t>(size));
}

void Pipe::send_fd(int fd) const {
  char byte = 'f';
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  ASSERT_EQ(::sendmsg(socket_, &message, MSG_NOSIGNAL), 1);
}

int Pipe::receive_fd() const {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  int fd = -1;
  if (::recvmsg(socket_, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != nullptr)
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  return fd;
}

Program::Program(std::initializer_list<std::string> environment, const Body& body) {
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets.data()) != 0) std::abort();
  const std::string& folder = state_folder();
  pid_ = ::fork();
  if (pid_ != 0) {
    ::close(sockets[1]);
    pipe_ = Pipe(sockets[0]);
    return;
  }
  ::close(sockets[0]);
  ::setenv("FAKECUDA", "1", 1);
  ::setenv("FAKECUDA_QUIET", "1", 1);
  ::setenv("FAKECUDA_STATE", folder.c_str(), 1);
  for (const auto& variable : environment) set_variable(variable);
  body(Pipe(sockets[1]));
  std::exit(testing::Test::HasFailure() ? 1 : 0);
}

Program::~Program() {
  if (pid_ <= 0) return;
  kill();
  join();
}

int Program::join() {
  int status = 0;
  if (pid_ <= 0 || ::waitpid(pid_, &status, 0) != pid_) return -1;
  joined_ = pid_;
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void Program::kill() { ::kill(pid_, SIGKILL); }

std::string Program::state_file() const {
  return state_folder() + "/" + std::to_string(pid_ > 0 ? pid_ : joined_) + ".fakecuda";
}

fakecuda_counters Program::counters() const {
  fakecuda_counters counters{};
  EXPECT_EQ(fakecuda_read_counters(state_file().c_str(), &counters), 0);
  return counters;
}

std::string Program::reports() const {
  std::vector<char> text(1 << 18);
  fakecuda_read_reports(state_file().c_str(), text.data(), text.size());
  return text.data();
}

void run_program(std::initializer_list<std::string> environment,
                 const std::function<void()>& body) {
  Program program(environment, [&](const Pipe&) { body(); });
  EXPECT_EQ(program.join(), 0);
}

std::string reports_here() {
  std::vector<char> text(1 << 18);
  fakecuda_reports(text.data(), text.size());
  return text.data();
}

CUcontext use_device(int ordinal) {
  CUcontext context = nullptr;
  EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
  EXPECT_EQ(cuDevicePrimaryCtxRetain(&context, ordinal), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
  return context;
}

CUmemLocation on_device(int ordinal) {
  CUmemLocation location{};
  location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = ordinal;
  return location;
}

CUmemAllocationProp memory_properties(CUmemAllocationHandleType type) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = on_device();
  properties.requestedHandleTypes = type;
  return properties;
}

CUdeviceptr map_whole(CUmemGenericAllocationHandle handle, std::size_t size, bool accessible) {
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAddressReserve(&address, size, 0, 0, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemMap(address, size, 0, handle, 0), CUDA_SUCCESS);
  const CUmemAccessDesc access{on_device(), CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  if (accessible) {
    EXPECT_EQ(cuMemSetAccess(address, size, &access, 1), CUDA_SUCCESS);
  }
  return address;
}

}  // namespace fakecuda_test
