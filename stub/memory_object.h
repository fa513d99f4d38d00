// `_ferry_stub.Memory`: what keeps the bytes of an array or tensor valid. As an array's base it
// lives as long as any view of the array does; when it goes, the bytes go back to their owner.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "py.h"
#include "stub_link.h"

namespace tensorferry::stub {

// One of: an input of a request, a block of our arena (pb_utils.empty), another library's tensor.
struct Memory {
  std::optional<InputMemory> input;
  std::optional<Block> block;
  std::shared_ptr<void> foreign;

  std::byte* data = nullptr;  // an input's on a device: none before it is asked for
  std::size_t bytes = 0;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements; empty: C order
  std::shared_ptr<DeviceUse> device;  // none: the CPU's
  bool read_only = false;             // what another library said of its tensor

  // An input on a device that lies in host memory still.
  bool is_staged() const noexcept { return device && input && input->data && !data; }
};

struct MemoryObject {
  PyObject_HEAD Memory memory;
};

bool make_memory_type(PyObject* module);
// The new object holds what `memory` names.
PyRef new_memory(Memory memory);
Memory& memory_of(PyObject* object) noexcept;
// An array over the whole of it, which keeps it.
PyRef array_over_memory(PyObject* object);

}  // namespace tensorferry::stub
