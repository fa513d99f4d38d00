// User objects: what a graph keeps alive for its caller, told by a callback when nobody refers to
// it.
#include "api.h"
#include "capture.h"

#include <algorithm>
#include <thread>

namespace fakecuda {

// Destroyed with its last reference: the callback runs on a thread of its own, as documented, and
// never under the driver's lock.
struct UserObject {
  UserObject(void* data, CUhostFn function) : pointer(data), destroy(function) {}
  UserObject(const UserObject&) = delete;
  UserObject& operator=(const UserObject&) = delete;
  ~UserObject() { std::thread(destroy, pointer).detach(); }

  void* pointer;
  CUhostFn destroy;
};

namespace {

// A handle: good as long as anybody refers to its object, be it only a graph.
struct Held {
  std::weak_ptr<UserObject> object;
  std::shared_ptr<UserObject> of_caller;  // while `references` isn't 0
  unsigned references = 0;                // the caller's own
};

// Guarded by the driver's lock. Never destroyed: libraries let go until the very end.
Handles<CUuserObject, Held>& user_objects() {
  static auto* objects = new Handles<CUuserObject, Held>;
  return *objects;
}

CUresult release(Held& held, unsigned count) {
  if (count == 0 || count > held.references) return CUDA_ERROR_INVALID_VALUE;
  held.references -= count;
  if (held.references == 0) held.of_caller.reset();
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuUserObjectCreate(CUuserObject* object, void* pointer, CUhostFn destroy,
                                unsigned int references, unsigned int flags) {
  return api(__func__, Need::Init, [&](Call&) {
    if (object == nullptr || destroy == nullptr || references == 0) return CUDA_ERROR_INVALID_VALUE;
    if (flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) return CUDA_ERROR_INVALID_VALUE;
    auto made = std::make_shared<UserObject>(pointer, destroy);
    *object = user_objects().add(std::make_shared<Held>(made, made, references));
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuUserObjectRetain(CUuserObject object, unsigned int count) {
  return api(__func__, Need::Init, [&](Call&) {
    const auto held = user_objects().find(object);
    const auto kept = held ? held->object.lock() : nullptr;
    if (!kept || count == 0) return CUDA_ERROR_INVALID_VALUE;
    held->of_caller = kept;
    held->references += count;
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuUserObjectRelease(CUuserObject object, unsigned int count) {
  return api(__func__, Need::Init, [&](Call&) {
    const auto held = user_objects().find(object);
    return held ? release(*held, count) : CUDA_ERROR_INVALID_VALUE;
  });
}

FAKECUDA_API cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                     unsigned int flags) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto found = call.driver.graphs.find(graph);
    const auto held = user_objects().find(object);
    const auto kept = held ? held->object.lock() : nullptr;
    if (!found || !kept || count == 0) return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CU_GRAPH_USER_OBJECT_MOVE) != 0)
      if (CUresult bad = release(*held, count); bad != CUDA_SUCCESS) return bad;
    found->user_objects.insert(found->user_objects.end(), count, kept);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto found = call.driver.graphs.find(graph);
    const auto held = user_objects().find(object);
    const auto kept = held ? held->object.lock() : nullptr;
    if (!found || !kept || count == 0) return CUDA_ERROR_INVALID_VALUE;
    auto& of_graph = found->user_objects;
    if (std::ranges::count(of_graph, kept) < static_cast<std::ptrdiff_t>(count))
      return CUDA_ERROR_INVALID_VALUE;
    for (; count > 0; --count) of_graph.erase(std::ranges::find(of_graph, kept));
    return CUDA_SUCCESS;
  });
}
