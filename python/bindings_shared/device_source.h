// Other libraries' tensors in device memory, by DLPack or the CUDA array interface: where they lie
// and on which stream they may be read.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/cuda/device_queue.h>
#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/error.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace tensorferry::python {

namespace py = pybind11;

// "cuda", "cuda:1": the ordinal. Nothing for "cpu" and None; ValueError for anything else.
std::optional<int> cuda_ordinal(const py::object& device);

// Whether the object says that it lies in device memory: by __dlpack_device__, or by having
// __cuda_array_interface__.
bool is_on_device(const py::object& value);
// The stream that a caller names: its number, or an object of cuda.core's (__cuda_stream__),
// PyTorch's (cuda_stream) or CuPy's (ptr). Nothing for None; TypeError for anything else.
using CallerStream = cuda::StreamHandle;
std::optional<CallerStream> stream_of_caller(py::handle stream);

struct DeviceTensorSource {
  DType dtype;  // perhaps one that does not cross: then the rest of it is not to be read
  std::vector<std::int64_t> shape;
  bool is_packed = true;
  int device = 0;  // our ordinal
  cuda::ForeignMemory memory;
  // Nobody can say when its owner writes it next: the copy is to be done before he has it back.
  bool finish = false;
};

// What is asked of who takes it, and raised as its module raises it.
struct DeviceQuestions {
  std::function<std::uintptr_t(int ordinal)> our_stream;  // for its library to make it wait
  std::function<int(std::uintptr_t address)> device_of;
};
// `named`: the stream that the caller says it is worked with on.
DeviceTensorSource read_device_tensor(const py::object& value, std::optional<CallerStream> named,
                                      const DeviceQuestions& ask);
// Of a source that is not in C order. Raises BufferError.
[[noreturn]] void refuse_strides();

}  // namespace tensorferry::python
