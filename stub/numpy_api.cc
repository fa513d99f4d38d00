#include "numpy_api.h"

#include <utility>

namespace tensorferry::stub::numpy {
namespace {

// Places in the table (PyArray_API).
constexpr std::size_t kArrayType = 2, kDescrFromType = 45, kNewFromDescr = 94, kSetBaseObject = 282;
constexpr int kCContiguous = 1, kAligned = 0x100, kWriteable = 0x400;
constexpr int kObject = 17;

void** table = nullptr;
bool (*after_load)() = nullptr;

PyObject* module_of(const char* name) {
  return PyDict_GetItemString(PyImport_GetModuleDict(), name);
}

void** table_of(PyObject* module) {
  PyRef capsule(PyObject_GetAttrString(module, "_ARRAY_API"));
  return capsule ? static_cast<void**>(PyCapsule_GetPointer(capsule.get(), nullptr)) : nullptr;
}

// Whether the layouts above are this NumPy's: they are compared with what Python says.
bool layouts_agree() {
  PyRef numpy(PyImport_ImportModule("numpy"));
  if (!numpy) return false;
  PyRef object(
      PyObject_CallMethod(numpy.get(), "zeros", "((nn)s)", Py_ssize_t{2}, Py_ssize_t{3}, "f4"));
  if (!object) return false;
  PyRef ctypes(PyObject_GetAttrString(object.get(), "ctypes"));
  PyRef address(ctypes ? PyObject_GetAttrString(ctypes.get(), "data") : nullptr);
  PyErr_Clear();  // an interpreter without ctypes: the address is not compared
  const Array* array = as_array(object.get());
  return array && array->rank == 2 && array->shape[0] == 2 && array->shape[1] == 3 &&
         array->strides[0] == 12 && array->descr->kind == 'f' && array->descr->type_number == 11 &&
         is_packed(*array) && (!address || PyLong_AsVoidPtr(address.get()) == array->data);
}

}  // namespace

bool is_imported() { return table || module_of("numpy") != nullptr; }

bool load() {
  if (table) return true;
  PyRef numpy(PyImport_ImportModule("numpy"));
  if (!numpy) return false;
  for (const char* name : {"numpy._core._multiarray_umath", "numpy.core._multiarray_umath"}) {
    PyObject* module = module_of(name);
    if (!module) continue;
    table = table_of(module);
    break;
  }
  if (table && layouts_agree()) return !after_load || std::exchange(after_load, nullptr)();
  table = nullptr;
  if (!PyErr_Occurred())
    PyErr_SetString(
        PyExc_ImportError,
        "tensorferry doesn't know the C interface of this NumPy: 1.19 to 2.x are known");
  return false;
}

void when_loaded(bool (*then)()) { after_load = then; }

void* entry(std::size_t place) { return table[place]; }

Array* as_array(PyObject* object) noexcept {
  auto* type = static_cast<PyTypeObject*>(table[kArrayType]);
  return PyObject_TypeCheck(object, type) ? reinterpret_cast<Array*>(object) : nullptr;
}

bool is_packed(const Array& array) noexcept {
  return (array.flags & (kCContiguous | kAligned)) == (kCContiguous | kAligned);
}

bool is_native(const Array& array) noexcept {
  return array.descr->byteorder == '=' || array.descr->byteorder == '|';
}

bool is_writeable(const Array& array) noexcept { return (array.flags & kWriteable) != 0; }

std::size_t bytes_of(const Array& array, std::size_t element_bytes) noexcept {
  std::size_t bytes = element_bytes;
  for (int i = 0; i < array.rank; ++i) bytes *= static_cast<std::size_t>(array.shape[i]);
  return bytes;
}

std::optional<DType> dtype_of(const Array& array) noexcept {
  auto dtype = dtype_from_numpy_number(array.descr->type_number);
  return dtype && (dtype->is_bytes() || is_native(array)) ? dtype : std::nullopt;
}

namespace {

PyRef new_array(int type_number, std::span<const std::int64_t> shape, void* data, int flags) {
  auto descr_from_type = reinterpret_cast<PyObject* (*)(int)>(table[kDescrFromType]);
  auto new_from_descr =
      reinterpret_cast<PyObject* (*)(void*, PyObject*, int, const Py_ssize_t*, const Py_ssize_t*,
                                     void*, int, PyObject*)>(table[kNewFromDescr]);
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  return PyRef(new_from_descr(
      table[kArrayType], descr_from_type(type_number), static_cast<int>(shape.size()),
      reinterpret_cast<const Py_ssize_t*>(shape.data()), nullptr, data, flags, nullptr));
}

}  // namespace

PyRef array_over(DType dtype, std::span<const std::int64_t> shape, Bytes bytes, PyRef base) {
  const int number = numpy_number(dtype);
  if (number < 0) {
    PyErr_SetString(PyExc_TypeError, "NumPy has no such dtype");
    return {};
  }
  // NumPy takes a null pointer as a wish for memory of its own.
  static std::byte nothing;
  // Another library's memory may begin anywhere.
  const bool aligned = reinterpret_cast<std::uintptr_t>(bytes.data) % element_bytes(dtype) == 0;
  PyRef array =
      new_array(number, shape, bytes.data ? bytes.data : &nothing,
                kCContiguous | (aligned ? kAligned : 0) | (bytes.read_only ? 0 : kWriteable));
  if (!array) return {};
  auto set_base = reinterpret_cast<int (*)(PyObject*, PyObject*)>(table[kSetBaseObject]);
  if (base && set_base(array.get(), base.release()) != 0) return {};
  return array;
}

PyRef object_array(std::span<const std::int64_t> shape) {
  return new_array(kObject, shape, nullptr, 0);
}

}  // namespace tensorferry::stub::numpy
