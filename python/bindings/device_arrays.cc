#include "device_arrays.h"

#include <tensorferry/server/device_use.h>

#include <memory>

#include "errors.h"

namespace tensorferry::python {
namespace {

ExportedMemory memory_of(const Owner& owner) {
  return {const_cast<std::byte*>(owner.buffer.bytes().data()),
          owner.buffer.device(),
          owner.dtype,
          owner.shape,
          owner.given,
          false,
          {}};
}

}  // namespace

server::Buffer copy_from_device(server::Model& model, const py::object& value,
                                std::optional<CallerStream> stream, DType& dtype,
                                std::vector<std::int64_t>& shape) {
  const DeviceQuestions ask{
      [&](int ordinal) { return value_of(model.device_stream(ordinal)); },
      [&](std::uintptr_t address) { return value_of(model.device_of(address)); }};
  DeviceTensorSource read = read_device_tensor(value, stream, ask);
  dtype = read.dtype;
  shape = std::move(read.shape);
  // Nothing is read of what does not cross: elements of less than a byte have another size.
  if (!has_a_name(dtype)) return {};
  if (!read.is_packed) refuse_strides();
  const server::DeviceSource source{read.device,        read.memory.address,   read.memory.bytes,
                                    read.memory.stream, read.memory.after_all, read.memory.keeper};
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = model.copy_in(source);
    if (buffer && read.finish) {
      if (auto done = model.finish_copies(source.device); !done)
        buffer = std::unexpected(done.error());
    }
  }
  return value_of(std::move(buffer));
}

void use_on_stream(Owner& owner, const py::object& stream) {
  // What is there is complete: -1 asks for nothing, but its work can't be known later.
  if (auto named = consumers_stream(stream)) server::use_on_stream(owner.buffer, *named);
}

py::dict cuda_array_interface(Owner& owner) {
  const py::dict interface = to_cuda_array_interface(memory_of(owner));
  // The consumer is told of the legacy stream, and orders its own after that.
  server::use_on_stream(owner.buffer, *consumers_stream(py::none()));
  return interface;
}

py::object copy_to_host(const Owner& owner) {
  auto copy = std::make_unique<Owner>();
  copy->dtype = owner.dtype;
  copy->shape = owner.shape;
  Result<server::Buffer> buffer;
  {
    py::gil_scoped_release released;
    buffer = server::copy_to_host(owner.buffer);
  }
  copy->buffer = value_of(std::move(buffer));
  return to_capsule(std::move(copy));
}

}  // namespace tensorferry::python
