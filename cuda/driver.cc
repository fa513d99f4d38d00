#include <tensorferry/cuda/driver.h>

#include <dlfcn.h>

namespace tensorferry::cuda {
namespace {

// CUresult is an int in the driver's ABI; 0 is CUDA_SUCCESS.
using Result0 = int (*)(unsigned flags);
using ResultInt = int (*)(int* value);

constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE: a driver without a GPU

template <class Function>
Function find(void* library, const char* name) {
  return reinterpret_cast<Function>(::dlsym(library, name));
}

std::unexpected<Error> refused(const char* function, int code) {
  return failure(ErrorCode::Unavailable, std::string("the CUDA driver refused ") + function +
                                             " with code " + std::to_string(code));
}

}  // namespace

void Driver::CloseLibrary::operator()(void* library) const noexcept { ::dlclose(library); }

Result<Driver> Driver::load(const std::string& library) {
  std::unique_ptr<void, CloseLibrary> handle(::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!handle) {
    const char* why = ::dlerror();
    return failure(ErrorCode::NotFound, "no CUDA driver: " + std::string(why ? why : library));
  }
  auto init = find<Result0>(handle.get(), "cuInit");
  auto get_version = find<ResultInt>(handle.get(), "cuDriverGetVersion");
  auto get_count = find<ResultInt>(handle.get(), "cuDeviceGetCount");
  if (!init || !get_version || !get_count) {
    return failure(ErrorCode::Unsupported, library + " lacks entry points of the CUDA driver");
  }
  DriverInfo info;
  if (int code = get_version(&info.version); code != 0) return refused("cuDriverGetVersion", code);
  int code = init(0);
  if (code == kNoDevice) return Driver(std::move(handle), info);
  if (code != 0) return refused("cuInit", code);
  if (code = get_count(&info.devices); code != 0) return refused("cuDeviceGetCount", code);
  return Driver(std::move(handle), info);
}

}  // namespace tensorferry::cuda
