#include "numpy_allocator.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace tensorferry::stub {
namespace {

// NumPy's C ABI since 1.22 (numpy/ndarraytypes.h, PyDataMem_Handler): facts of a layout.
struct Allocator {
  void* context;
  void* (*malloc)(void*, std::size_t);
  void* (*calloc)(void*, std::size_t, std::size_t);
  void* (*realloc)(void*, void*, std::size_t);
  void (*free)(void*, void*, std::size_t);
};
struct Handler {
  char name[127];
  std::uint8_t version;
  Allocator allocator;
};
constexpr int kSetHandler = 304;  // places in NumPy's table of C functions
// Smaller tensors travel inside their message, so malloc is as good for them.
constexpr std::size_t kLargeBytes = protocol::kInlineBelowBytes;

std::atomic<Holdings*> current{nullptr};
std::atomic<bool> disowned{false};

bool in_arena(const void* memory) {
  Holdings* holdings = current.load(std::memory_order_acquire);
  return holdings && holdings->link().arena().owns(memory);
}

void* take(std::size_t bytes) {
  Holdings* holdings = current.load(std::memory_order_acquire);
  if (!holdings || disowned || bytes < kLargeBytes) return nullptr;
  Arena& arena = holdings->link().arena();
  if (arena.bytes_in_use() + bytes > arena.options().max_bytes / 2)
    return nullptr;  // the rest comes from malloc
  auto block = arena.allocate(bytes);
  return block ? block->data : nullptr;
}

void* allocate(void*, std::size_t bytes) {
  void* memory = take(bytes);
  return memory ? memory : std::malloc(bytes);
}

void* allocate_zeroed(void*, std::size_t count, std::size_t size) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
  void* memory = take(bytes);
  return memory ? std::memset(memory, 0, bytes) : std::calloc(count, size);
}

void free_memory(void*, void* memory, std::size_t) {
  if (!in_arena(memory)) {
    std::free(memory);
    return;
  }
  if (disowned) return;
  Holdings* holdings = current.load(std::memory_order_acquire);
  if (auto block = holdings->link().arena().find(memory)) holdings->drop_block(*block);
}

void* reallocate(void* context, void* memory, std::size_t bytes) {
  if (!in_arena(memory)) return std::realloc(memory, bytes);
  Holdings* holdings = current.load(std::memory_order_acquire);
  auto block = holdings->link().arena().find(memory);
  void* fresh = allocate(context, bytes);
  if (fresh && block) std::memcpy(fresh, memory, std::min(bytes, block->bytes));
  if (fresh) free_memory(context, memory, 0);
  return fresh;
}

Handler handler{"tensorferry", 1, {nullptr, allocate, allocate_zeroed, reallocate, free_memory}};

using SetHandler = PyObject* (*)(PyObject*);

SetHandler numpys_set_handler() {
  PyRef modules = PyRef::borrow(PyImport_GetModuleDict());
  for (const char* name : {"numpy._core._multiarray_umath", "numpy.core._multiarray_umath"}) {
    PyObject* module = PyDict_GetItemString(modules.get(), name);
    if (!module) continue;
    PyRef capsule(PyObject_GetAttrString(module, "_ARRAY_API"));
    if (!capsule) break;
    auto** table = static_cast<void**>(PyCapsule_GetPointer(capsule.get(), nullptr));
    if (!table) break;
    // PyArray_GetNDArrayCFeatureVersion: 15 is NumPy 1.22.
    auto feature = reinterpret_cast<unsigned (*)()>(table[211]);
    if (feature() < 15) return nullptr;
    return reinterpret_cast<SetHandler>(table[kSetHandler]);
  }
  PyErr_Clear();
  return nullptr;
}

}  // namespace

PyRef install_allocator(Holdings& holdings) {
  SetHandler set = numpys_set_handler();
  if (!set || disowned) return {};
  current.store(&holdings, std::memory_order_release);
  PyRef capsule(PyCapsule_New(&handler, "mem_handler", nullptr));
  if (!capsule) return {};
  return PyRef(set(capsule.get()));
}

void restore_allocator(PyRef previous) {
  if (!previous) return;
  if (SetHandler set = numpys_set_handler()) PyRef(set(previous.get()));
}

void disown_allocator() noexcept { disowned = true; }

}  // namespace tensorferry::stub
