#include "owner.h"

#include <algorithm>

namespace tensorferry::python {
namespace {

constexpr const char* kOwner = "tensorferry.owner";

PyObject* base_of(PyObject* array) { return py::detail::array_proxy(array)->base; }

constexpr int kWriteable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
int& flags_of(PyObject* array) { return py::detail::array_proxy(array)->flags; }

bool is_array(PyObject* object) { return object && py::isinstance<py::array>(object); }

}  // namespace

py::object to_capsule(std::unique_ptr<Owner> owner) {
  PyObject* capsule = PyCapsule_New(owner.get(), kOwner, [](PyObject* one) {
    delete static_cast<Owner*>(PyCapsule_GetPointer(one, kOwner));
  });
  if (!capsule) throw py::error_already_set();
  (void)owner.release();
  return py::reinterpret_steal<py::object>(capsule);
}

Owner* from_capsule(PyObject* object) {
  return object && PyCapsule_IsValid(object, kOwner)
             ? static_cast<Owner*>(PyCapsule_GetPointer(object, kOwner))
             : nullptr;
}

Owner& owner_in(const py::object& capsule) {
  Owner* owner = from_capsule(capsule.ptr());
  if (!owner) throw py::type_error("not memory of tensorferry");
  return *owner;
}

py::array array_over(DType dtype, const std::vector<std::int64_t>& shape, std::byte* data,
                     const py::object& base) {
  static std::byte nothing;  // NumPy takes a null pointer as a wish for memory of its own
  auto& numpy = py::detail::npy_api::get();
  static_assert(sizeof(Py_intptr_t) == sizeof(std::int64_t));
  PyObject* array = numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, numpy.PyArray_DescrFromType_(numpy_number(dtype)),
      static_cast<int>(shape.size()), reinterpret_cast<const Py_intptr_t*>(shape.data()), nullptr,
      data ? data : &nothing,
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
          py::detail::npy_api::NPY_ARRAY_WRITEABLE_,
      nullptr);
  if (!array) throw py::error_already_set();
  auto result = py::reinterpret_steal<py::array>(array);
  if (numpy.PyArray_SetBaseObject_(array, py::object(base).release().ptr()) != 0)
    throw py::error_already_set();
  return result;
}

View view_of(const py::array& array) {
  View view;
  PyObject* base = base_of(array.ptr());
  for (; is_array(base); base = base_of(base)) view.alone &= Py_REFCNT(base) == 1;
  view.owner = from_capsule(base);
  return view;
}

bool Gifts::has(const Owner& owner) const noexcept {
  return std::ranges::find(gifts_, &owner, &Gift::owner) != gifts_.end();
}

void Gifts::add(Owner& owner, const py::object& keeper, const py::object& array) {
  gifts_.push_back({&owner, keeper});
  owner.given = true;
  for (PyObject* at = array.ptr(); is_array(at); at = base_of(at)) {
    if (!(flags_of(at) & kWriteable)) continue;
    turned_.push_back(py::reinterpret_borrow<py::object>(at));
    flags_of(at) &= ~kWriteable;
  }
}

void Gifts::sent() noexcept {
  turned_.clear();
  gifts_.clear();
}

void Gifts::take_back() noexcept {
  for (const py::object& array : turned_) flags_of(array.ptr()) |= kWriteable;
  for (const Gift& gift : gifts_) gift.owner->given = false;
  sent();
}

}  // namespace tensorferry::python
