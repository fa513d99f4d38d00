#include "memory_object.h"

#include <new>

#include "numpy_api.h"
#include "py_type.h"
#include "stub_state.h"

namespace tensorferry::stub {
namespace {

PyTypeObject* memory_type = nullptr;

void let_go(Memory& memory) {
  memory.foreign.reset();
  if (is_forked_child()) return;
  if (memory.input && memory.input->lease != 0) state().holdings->drop_input(*memory.input);
  if (memory.block) state().holdings->drop_block(*memory.block);
}

void memory_dealloc(PyObject* object) {
  Memory& memory = memory_of(object);
  let_go(memory);
  memory.~Memory();
  free_object(object);
}

}  // namespace

bool make_memory_type(PyObject* module) {
  PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(memory_dealloc)}, {0, nullptr}};
  PyType_Spec spec = {"_ferry_stub.Memory", sizeof(MemoryObject), 0, Py_TPFLAGS_DEFAULT, slots};
  memory_type = add_type(module, "Memory", spec);
  return memory_type != nullptr;
}

PyRef new_memory(Memory memory) {
  PyRef object(allocate_object(memory_type));
  if (!object) {
    let_go(memory);
    return {};
  }
  Memory& held = *new (&memory_of(object.get())) Memory(std::move(memory));
  if (held.input && held.input->lease != 0 && held.input->data)
    state().holdings->add_input(*held.input);
  if (held.block && held.device) state().holdings->add_block(*held.block, held.device);
  return object;
}

Memory& memory_of(PyObject* object) noexcept {
  return reinterpret_cast<MemoryObject*>(object)->memory;
}

PyRef array_over_memory(PyObject* object) {
  if (!numpy::load()) return {};
  const Memory& memory = memory_of(object);
  return numpy::array_over(memory.dtype, memory.shape, {memory.data, memory.read_only},
                           PyRef::borrow(object));
}

}  // namespace tensorferry::stub
