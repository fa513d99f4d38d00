#include "device_import.h"

#include <tensorferry/cuda/device_copy.h>

#include "device_access.h"
#include "dlpack_exchange_api.h"
#include "py_type.h"
#include "stub_state.h"

namespace tensorferry::stub {
namespace {

const ExchangeApi* exchange_api_of(PyObject* object) {
  PyRef capsule(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), kExchangeApiAttribute));
  PyErr_Clear();
  if (!capsule || !PyCapsule_IsValid(capsule.get(), kExchangeApiCapsule)) return nullptr;
  auto* header =
      static_cast<ExchangeApiHeader*>(PyCapsule_GetPointer(capsule.get(), kExchangeApiCapsule));
  while (header && header->version.major != 1) header = header->previous;
  auto* api = reinterpret_cast<const ExchangeApi*>(header);
  return api && api->tensor_of_object && api->current_stream ? api : nullptr;
}

template <class Managed>
std::shared_ptr<void> keep(Managed* managed) {
  return {managed, [](Managed* one) {
            if (one->deleter) one->deleter(one);
          }};
}

}  // namespace

std::shared_ptr<void> keeper_of(DLManagedTensor* managed) { return keep(managed); }
std::shared_ptr<void> keeper_of(DLManagedTensorVersioned* managed) { return keep(managed); }

UsedStream as_used(cuda::StreamHandle stream) noexcept {
  return stream == cuda::per_thread_stream() ? kAnyStream : stream;
}

std::shared_ptr<DeviceUse> use_on(int ordinal, Streams streams) {
  if (!refuse_in_forked_child()) return nullptr;
  auto use = std::make_shared<DeviceUse>();
  auto opened = without_gil([&]() -> Result<void> {
    auto local = state().link->devices().local(ordinal);
    if (!local) return std::unexpected(local.error());
    auto lane = state().link->devices().lane_at(ordinal);
    if (!lane) return std::unexpected(lane.error());
    use->local = *local;
    use->lane = *lane;
    return {};
  });
  if (!opened) {
    raise_error(opened.error());
    return nullptr;
  }
  if (use->lane) use->device = use->lane->name();
  use->streams = std::move(streams);
  return use;
}

bool keep_strides(const DLTensor& view, Memory& memory) {
  const std::size_t element = (view.dtype.bits * view.dtype.lanes + 7) / 8;
  std::vector<std::int64_t> strides_bytes;
  strides_bytes.reserve(static_cast<std::size_t>(view.ndim));
  for (int i = 0; i < view.ndim; ++i)
    strides_bytes.push_back(view.strides[i] * static_cast<std::int64_t>(element));
  const std::span shape(view.shape, static_cast<std::size_t>(view.ndim));
  if (!cuda::plan_gather(shape, strides_bytes, element)) return false;
  memory.strides.assign(view.strides, view.strides + view.ndim);
  return true;
}

std::optional<StreamTensor> by_exchange_api(PyObject* object, int ordinal) {
  const ExchangeApi* api = exchange_api_of(object);
  if (!api) return std::nullopt;
  void* stream = nullptr;
  DLManagedTensorVersioned* managed = nullptr;
  if (api->current_stream(kDLCUDA, ordinal, &stream) != 0 ||
      api->tensor_of_object(object, &managed) != 0 || !managed) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_BufferError, "the tensor's library did not hand it out");
    return std::nullopt;
  }
  StreamTensor result;
  result.tensor.keeper = keeper_of(managed);
  result.tensor.view = &managed->dl_tensor;
  result.tensor.read_only = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  result.made_on =
      stream ? as_used(static_cast<cuda::StreamHandle>(stream)) : cuda::legacy_stream();
  return result;
}

PyRef capsule_on_our_stream(PyObject* object, const LocalDevice& local) {
  auto guard = cuda::ContextGuard::enter(*local.context());
  if (!guard) {
    raise_error(guard.error());
    return {};
  }
  const auto stream = reinterpret_cast<std::uintptr_t>(local.stream());
  PyRef method(PyObject_GetAttrString(object, "__dlpack__"));
  PyRef none(PyTuple_New(0));
  PyRef number(PyLong_FromUnsignedLongLong(stream));
  if (!method || !none || !number) return {};
  PyRef keywords(Py_BuildValue("{s:O,s:(ii)}", "stream", number.get(), "max_version",
                               DLPACK_MAJOR_VERSION, 0));
  PyRef capsule(keywords ? PyObject_Call(method.get(), none.get(), keywords.get()) : nullptr);
  if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();
  PyRef older(Py_BuildValue("{s:O}", "stream", number.get()));
  return PyRef(older ? PyObject_Call(method.get(), none.get(), older.get()) : nullptr);
}

}  // namespace tensorferry::stub
