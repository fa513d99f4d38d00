#include "numpy_allocator.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "numpy_api.h"

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
constexpr std::size_t kFeatureVersion = 211, kSetHandler = 304,
                      kGetHandler = 305;  // places in NumPy's table
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

PyObject* previous = nullptr;  // NumPy's own handler, while ours is installed

// The batch that runs while NumPy isn't imported yet.
struct Pending {
  Holdings* holdings = nullptr;
  std::thread::id thread;
} pending;

// PyArray_GetNDArrayCFeatureVersion: 15 is NumPy 1.22, the first with handlers.
bool has_handlers() {
  return reinterpret_cast<unsigned (*)()>(numpy::entry(kFeatureVersion))() >= 15;
}

SetHandler set_handler() { return reinterpret_cast<SetHandler>(numpy::entry(kSetHandler)); }

// A handler belongs to a context: ours may be missing here and installed in a task's.
bool is_installed() {
  PyRef capsule(reinterpret_cast<PyObject* (*)()>(numpy::entry(kGetHandler))());
  const bool ours =
      capsule && PyCapsule_GetPointer(capsule.get(), PyCapsule_GetName(capsule.get())) == &handler;
  PyErr_Clear();
  return ours;
}

// A model that doesn't import NumPy itself gets it by its first as_numpy(), in the middle of
// execute(): what it computes from there on is to be born in the arena like anybody's.
bool install_pending() {
  return pending.thread != std::this_thread::get_id() || install_allocator(pending.holdings);
}

}  // namespace

bool install_allocator(Holdings* holdings) {
  if (disowned) return true;
  if (!numpy::is_imported()) {
    pending = {holdings, std::this_thread::get_id()};
    numpy::when_loaded(install_pending);
    return true;
  }
  if (!numpy::load()) return false;
  if (!has_handlers() || is_installed()) return true;
  current.store(holdings, std::memory_order_release);
  PyRef capsule(PyCapsule_New(&handler, "mem_handler", nullptr));
  PyRef before(capsule ? set_handler()(capsule.get()) : nullptr);
  if (!before) return false;
  if (!previous) previous = before.release();
  return true;
}

bool restore_allocator() {
  if (!previous) return true;
  PyRef own(std::exchange(previous, nullptr));
  return PyRef(set_handler()(own.get())).get() != nullptr;
}

void disown_allocator() noexcept { disowned = true; }

}  // namespace tensorferry::stub
