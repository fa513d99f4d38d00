#include "cuda_array_interface.h"

#include <tensorferry/transport/dtype.h>

#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/pointer_info.h>

#include <algorithm>
#include <string>

#include "device_access.h"
#include "device_import.h"
#include "py_type.h"
#include "tensor_object.h"

namespace tensorferry::stub {
namespace {

constexpr const char* kAttribute = "__cuda_array_interface__";

PyRef tuple_of(std::span<const std::int64_t> numbers) {
  PyRef tuple(PyTuple_New(static_cast<Py_ssize_t>(numbers.size())));
  for (std::size_t i = 0; tuple && i < numbers.size(); ++i)
    PyTuple_SetItem(tuple.get(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(numbers[i]));
  return tuple;
}

PyRef strides_of(const Memory& memory) {
  if (memory.strides.empty()) return PyRef::borrow(Py_None);
  std::vector<std::int64_t> bytes;
  bytes.reserve(memory.strides.size());
  for (std::int64_t stride : memory.strides)
    bytes.push_back(stride * static_cast<std::int64_t>(element_bytes(memory.dtype)));
  return tuple_of(bytes);
}

// Of the dict; nullptr where it has none.
PyObject* item(PyObject* dict, const char* key) {
  PyObject* value = PyDict_GetItemString(dict, key);
  return value == Py_None ? nullptr : value;
}

bool refuse(const char* why) {
  PyErr_Format(PyExc_ValueError, "%s: %s", kAttribute, why);
  return false;
}

bool read_numbers(PyObject* sequence, std::vector<std::int64_t>& numbers) {
  const Py_ssize_t count = PySequence_Size(sequence);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyRef one(PySequence_GetItem(sequence, i));
    if (!one) return false;
    numbers.push_back(PyLong_AsLongLong(one.get()));
  }
  return !PyErr_Occurred();
}

// None: nobody is at work on it, but numba says that of its default stream too. Before version 3
// nobody said.
bool read_streams(PyObject* dict, Streams& streams) {
  PyObject* value = PyDict_GetItemString(dict, "stream");
  if (value == Py_None) {
    streams.push_back(cuda::legacy_stream());
    return true;
  }
  const unsigned long long number = value ? PyLong_AsUnsignedLongLong(value) : 2;
  if (PyErr_Occurred()) return false;
  if (number == 0) return refuse("stream 0 is ambiguous");
  streams.push_back(as_used(reinterpret_cast<cuda::StreamHandle>(number)));
  return true;
}

bool read_data(PyObject* dict, Memory& memory) {
  PyObject* data = item(dict, "data");
  PyObject *address = nullptr, *read_only = nullptr;
  if (!data || !PyArg_ParseTuple(data, "OO", &address, &read_only)) return refuse("no data");
  memory.data = static_cast<std::byte*>(PyLong_AsVoidPtr(address));
  memory.read_only = PyObject_IsTrue(read_only) == 1;
  return !PyErr_Occurred();
}

bool read_layout(PyObject* dict, Memory& memory) {
  PyObject *typestr = item(dict, "typestr"), *shape = item(dict, "shape");
  if (!typestr || !shape) return refuse("no typestr or no shape");
  const auto dtype = dtype_from_numpy_typestr(to_string(typestr));
  if (!dtype || dtype->is_bytes()) return refuse("a typestr that can't cross");
  memory.dtype = *dtype;
  if (!read_numbers(shape, memory.shape)) return false;
  memory.bytes = element_bytes(*dtype);
  for (std::int64_t dim : memory.shape) memory.bytes *= static_cast<std::size_t>(dim);
  PyObject* strides = item(dict, "strides");
  if (!strides) return true;
  if (!read_numbers(strides, memory.strides)) return false;
  const auto element = static_cast<std::int64_t>(element_bytes(*dtype));
  const auto gather = cuda::plan_gather(memory.shape, memory.strides, element_bytes(*dtype));
  if (!gather) return refuse("strides that one copy can't pack: make it contiguous first");
  for (std::int64_t& stride : memory.strides) stride /= element;
  if (gather->packed()) memory.strides.clear();
  return true;
}

void drop_object(PyObject* object) {
  if (!Py_IsInitialized()) return;
  const PyGILState_STATE gil = PyGILState_Ensure();
  Py_DECREF(object);
  PyGILState_Release(gil);
}

// Nothing and an exception set where it is none.
std::optional<Memory> read(PyObject* object, Streams& streams) {
  PyRef dict(PyObject_GetAttrString(object, kAttribute));
  if (!dict) return std::nullopt;
  Memory memory;
  if (!PyDict_Check(dict.get())) {
    refuse("not a dict");
    return std::nullopt;
  }
  if (!read_data(dict.get(), memory) || !read_layout(dict.get(), memory) ||
      !read_streams(dict.get(), streams))
    return std::nullopt;
  return memory;
}

}  // namespace

// The stream is one of ours that comes after whatever touches the memory; which one the consumer
// uses it doesn't say.
PyObject* cuda_array_interface(PyObject* self, void*) {
  TensorObject* tensor = as_tensor(self);
  const std::string_view type = numpy_typestr(tensor->dtype);
  if (!is_on_device(tensor) || type.empty()) {
    PyErr_Format(PyExc_AttributeError, "this Tensor has no %s", kAttribute);
    return nullptr;
  }
  Memory& memory = memory_of(tensor->memory);
  if (!reach(memory) || !admit_stream(memory, memory.device->local->stream())) return nullptr;
  memory.device->remember(kAnyStream);
  PyRef shape = tuple_of(memory.shape), strides = strides_of(memory), typestr = text(type);
  PyRef address(PyLong_FromVoidPtr(memory.data));
  PyRef stream(PyLong_FromVoidPtr(memory.device->local->stream()));
  if (!shape || !strides || !typestr || !address || !stream) return nullptr;
  return Py_BuildValue("{s:O,s:O,s:O,s:(OO),s:O,s:i}", "shape", shape.get(), "typestr",
                       typestr.get(), "strides", strides.get(), "data", address.get(),
                       memory.read_only ? Py_True : Py_False, "stream", stream.get(), "version", 3);
}

bool has_cuda_array_interface(PyObject* object) {
  return PyObject_HasAttrString(object, kAttribute);
}

PyRef memory_of_cuda_array(PyObject* object) {
  Streams streams;
  auto memory = read(object, streams);
  if (!memory) return {};
  auto place = cuda::classify(memory->data);
  if (!place) {
    raise_error(place.error());
    return {};
  }
  if (memory->bytes != 0 && place->kind != cuda::MemoryKind::Device) {
    refuse("its memory is on no device");
    return {};
  }
  memory->device = use_on(std::max(place->ordinal, 0), std::move(streams));
  if (!memory->device) return {};
  Py_INCREF(object);
  memory->foreign =
      std::shared_ptr<void>(object, [](void* one) { drop_object(static_cast<PyObject*>(one)); });
  return new_memory(std::move(*memory));
}

std::optional<CudaBytes> bytes_of_cuda_array(PyObject* object) {
  Streams streams;
  auto memory = read(object, streams);
  if (!memory) return std::nullopt;
  if (memory->strides.empty()) return CudaBytes{memory->data, memory->bytes};
  refuse("only bytes in a row can be given");
  return std::nullopt;
}

}  // namespace tensorferry::stub
