// The CUDA driver, found at run time: libcuda.so.1 is never linked, so that one binary serves hosts
// with and without a GPU. That there is none is a normal answer.
#pragma once

#include <tensorferry/transport/error.h>

#include <memory>
#include <string>

namespace tensorferry::cuda {

struct DriverInfo {
  int version = 0;  // as cuDriverGetVersion says: 1000 * major + 10 * minor
  int devices = 0;  // visible to this process
};

// A loaded and initialised driver. Immutable; use from any thread. Loading makes no CUDA context.
class Driver {
 public:
  // Loads `library` and initialises it. Errors: NotFound when there is no such library (no NVIDIA
  // driver on this host), Unavailable when it is there and refuses (the message has its code),
  // Unsupported when it lacks an entry point that we need.
  static Result<Driver> load(const std::string& library = "libcuda.so.1");

  const DriverInfo& info() const noexcept { return info_; }

 private:
  struct CloseLibrary {
    void operator()(void* library) const noexcept;
  };
  explicit Driver(std::unique_ptr<void, CloseLibrary> library, DriverInfo info)
      : library_(std::move(library)), info_(info) {}

  std::unique_ptr<void, CloseLibrary> library_;
  DriverInfo info_;
};

}  // namespace tensorferry::cuda
