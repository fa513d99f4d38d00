// Memory of ours as a DLPack capsule. Sources: the DLPack specification 1.x and the array API
// standard.
#pragma once

#include <pybind11/pybind11.h>
#include <tensorferry/transport/device.h>
#include <tensorferry/transport/dtype.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

struct CUstream_st;

namespace tensorferry::python {

namespace py = pybind11;

// In C order. `keeper` keeps the memory, and is let go of with the tensor.
struct ExportedMemory {
  std::byte* data = nullptr;
  Device device;
  DType dtype;
  std::vector<std::int64_t> shape;
  bool read_only = false;
  bool is_copied = false;
  py::object keeper;
};

// `version`: None or the consumer's pair. Read-only memory is said by the versioned form;
// BufferError without.
py::object to_dlpack(ExportedMemory memory, const py::object& version);

// What __dlpack__'s `stream` names; nothing for -1, which asks for no synchronisation. ValueError
// for what may not be.
std::optional<CUstream_st*> consumers_stream(const py::object& stream);

// The dict of __cuda_array_interface__, version 3, which tells its consumer of the legacy stream.
py::dict to_cuda_array_interface(const ExportedMemory& memory);

}  // namespace tensorferry::python
