#include "dlpack_export.h"

#include <dlpack/dlpack.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>

namespace tensorferry::python {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";

// A managed tensor and what it points at.
template <class Managed>
struct Exported {
  Managed managed{};
  ExportedMemory memory;
  std::vector<std::int64_t> strides;
};

// Consumers call it with or without the GIL, and some after the interpreter's end.
template <class Managed>
void delete_exported(Managed* managed) {
  if (!Py_IsInitialized()) return;
  py::gil_scoped_acquire held;
  delete static_cast<Exported<Managed>*>(managed->manager_ctx);
}

template <class Managed>
void delete_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;  // a consumer took it over
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

template <class Managed>
std::unique_ptr<Exported<Managed>> exported_over(ExportedMemory memory) {
  auto exported = std::make_unique<Exported<Managed>>();
  ExportedMemory& kept = exported->memory = std::move(memory);
  exported->strides.assign(kept.shape.size(), 1);
  for (std::size_t i = kept.shape.size(); i-- > 1;)
    exported->strides[i - 1] = exported->strides[i] * kept.shape[i];
  DLTensor& tensor = exported->managed.dl_tensor;
  tensor.data = kept.data;
  tensor.device = {kept.device.kind == DeviceKind::Cuda ? kDLCUDA : kDLCPU, kept.device.id};
  tensor.ndim = static_cast<int>(kept.shape.size());
  tensor.dtype = {static_cast<std::uint8_t>(kept.dtype.code), kept.dtype.bits, kept.dtype.lanes};
  tensor.shape = kept.shape.data();
  tensor.strides = exported->strides.data();
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = delete_exported<Managed>;
  return exported;
}

template <class Managed>
py::object to_capsule(std::unique_ptr<Exported<Managed>> exported, const char* name,
                      PyCapsule_Destructor destructor) {
  PyObject* capsule = PyCapsule_New(&exported->managed, name, destructor);
  if (!capsule) throw py::error_already_set();
  (void)exported.release();
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

py::object to_dlpack(ExportedMemory memory, const py::object& version) {
  const bool versioned = !version.is_none() && version.cast<py::tuple>()[0].cast<int>() >= 1;
  if (memory.read_only && !versioned)
    throw py::buffer_error("the tensor was given to a request and is read-only since");
  std::uint64_t flags = 0;
  if (memory.read_only) flags |= DLPACK_FLAG_BITMASK_READ_ONLY;
  if (memory.is_copied) flags |= DLPACK_FLAG_BITMASK_IS_COPIED;
  if (!versioned) {
    return to_capsule(exported_over<DLManagedTensor>(std::move(memory)), kName,
                      [](PyObject* one) { delete_capsule<DLManagedTensor>(one, kName); });
  }
  auto exported = exported_over<DLManagedTensorVersioned>(std::move(memory));
  exported->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  exported->managed.flags = flags;
  return to_capsule(std::move(exported), kVersionedName, [](PyObject* one) {
    delete_capsule<DLManagedTensorVersioned>(one, kVersionedName);
  });
}

std::optional<CUstream_st*> consumers_stream(const py::object& stream) {
  std::int64_t number = 1;  // none: the legacy default stream
  if (!stream.is_none()) number = stream.cast<std::int64_t>();
  if (number == 0 || number < -1)
    throw py::value_error("stream " + std::to_string(number) +
                          ": it is 1 (the legacy default stream), 2 (the per-thread one), a "
                          "stream's number, or -1 for no synchronisation");
  if (number < 0) return std::nullopt;
  return reinterpret_cast<CUstream_st*>(static_cast<std::uintptr_t>(number));
}

py::dict to_cuda_array_interface(const ExportedMemory& memory) {
  using namespace py::literals;
  const int number = numpy_number(memory.dtype);
  if (number < 0 || memory.dtype.is_bytes())
    throw py::attribute_error("__cuda_array_interface__ has no " + to_string(memory.dtype));
  return py::dict(
      "shape"_a = py::tuple(py::cast(memory.shape)), "typestr"_a = py::dtype(number).attr("str"),
      "data"_a = py::make_tuple(reinterpret_cast<std::uintptr_t>(memory.data), memory.read_only),
      "version"_a = 3, "strides"_a = py::none(), "stream"_a = 1);
}

}  // namespace tensorferry::python
