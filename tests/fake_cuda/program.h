// A program of its own for each test: it is forked before anything has called the driver, as every
// user of CUDA must be.
#pragma once

#include "fakecuda.h"

#include <cuda.h>
#include <gtest/gtest.h>

#include <sys/types.h>
#include <functional>
#include <initializer_list>
#include <string>

namespace fakecuda_test {

// One end of a pair; what is sent whole arrives whole.
class Pipe {
 public:
  explicit Pipe(int socket) : socket_(socket) {}

  void send_bytes(const void* bytes, std::size_t size) const;
  void receive_bytes(void* bytes, std::size_t size) const;
  void send_fd(int fd) const;
  int receive_fd() const;

  template <class T>
  void send(const T& value) const {
    send_bytes(&value, sizeof(value));
  }
  template <class T>
  T receive() const {
    T value{};
    receive_bytes(&value, sizeof(value));
    return value;
  }

 private:
  int socket_;
};

// Runs `body` in a child with these variables ("FAKECUDA_SCHED=lazy") besides FAKECUDA=1 and a
// state folder that all programs of a test share.
class Program {
 public:
  using Body = std::function<void(const Pipe&)>;

  Program(std::initializer_list<std::string> environment, const Body& body);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const Pipe& pipe() const { return pipe_; }
  pid_t pid() const { return pid_; }
  // Waits for the end: 0, or nonzero where an expectation failed in it. Minus the signal that ended
  // it.
  int join();
  void kill();
  // Its counters and reports, also after its end.
  std::string state_file() const;
  fakecuda_counters counters() const;
  std::string reports() const;

 private:
  pid_t pid_ = -1, joined_ = -1;
  Pipe pipe_{-1};
};

// Runs one program to its end and expects that all went well.
void run_program(std::initializer_list<std::string> environment, const std::function<void()>& body);
std::string reports_here();

// cuInit and the primary context of a device, current on this thread.
CUcontext use_device(int ordinal = 0);

CUmemLocation on_device(int ordinal = 0);
// What cuMemCreate takes for memory that can be passed as a descriptor, or not.
CUmemAllocationProp memory_properties(
    CUmemAllocationHandleType type = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
// A chunk at an address of its own, which device 0 may read and write, or nobody.
CUdeviceptr map_whole(CUmemGenericAllocationHandle handle, std::size_t size,
                      bool accessible = true);

}  // namespace fakecuda_test
