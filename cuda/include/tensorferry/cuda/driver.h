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

// The entry points (driver_api.h, private).
struct DriverApi;

// The oldest driver that we use: CUDA 11.4.
inline constexpr int kOldestDriver = 11040;

// A loaded and initialised driver. Immutable; use from any thread. Loading makes no CUDA context.
class Driver {
 public:
  // The process's driver: loaded and initialised when first asked for, never unloaded, and the
  // answer, an error too, is the same from then on. The first call may take a second.
  //
  // Errors: NotFound (gpu_driver_missing, gpu_off) is the normal answer of a host without a GPU or
  // with TENSORFERRY_CUDA=off; gpu_driver_too_old, gpu_stub_library, gpu_driver; gpu_forked in a
  // child of a process in which CUDA was initialised. A driver without a device is no error.
  static Result<const Driver*> get();

  // The same for another library, not remembered: for tests.
  static Result<std::unique_ptr<const Driver>> load(const std::string& library);

  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  const DriverInfo& info() const noexcept { return info_; }
  const DriverApi& api() const noexcept { return *api_; }

 private:
  Driver(std::unique_ptr<const DriverApi> api, DriverInfo info) noexcept;

  std::unique_ptr<const DriverApi> api_;
  DriverInfo info_;
};

// True in a process that was forked from one in which we had initialised CUDA: nothing of CUDA
// works there, and every function of this library fails with gpu_forked. A relaxed load.
bool forked_after_cuda() noexcept;

}  // namespace tensorferry::cuda
