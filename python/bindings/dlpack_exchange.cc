#include "dlpack_exchange.h"

#include <bindings_shared/dlpack_export.h>
#include <tensorferry/transport/copy.h>

#include <memory>

#include "device_arrays.h"
#include "owner.h"

namespace tensorferry::python {
namespace {

py::object copy_of(const Owner& owner) {
  auto copy = std::make_unique<Owner>();
  copy->dtype = owner.dtype;
  copy->shape = owner.shape;
  copy->buffer = server::Buffer::ordinary(owner.buffer.size());
  copy_payload(copy->buffer.bytes().data(), owner.buffer.bytes().data(), owner.buffer.size());
  return to_capsule(std::move(copy));
}

}  // namespace

py::object export_owner(const py::object& owner, const py::object& version, bool copy,
                        const py::object& stream) {
  if (!owner_in(owner).buffer.is_cpu()) {
    if (copy) throw py::buffer_error("a copy of a device tensor is its consumer's to make");
    use_on_stream(owner_in(owner), stream);
  }
  const py::object source = copy ? copy_of(owner_in(owner)) : owner;
  Owner& memory = owner_in(source);
  return to_dlpack({memory.buffer.bytes().data(), memory.buffer.device(), memory.dtype,
                    memory.shape, memory.given, copy, source},
                   version);
}

}  // namespace tensorferry::python
