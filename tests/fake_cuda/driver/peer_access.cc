// Which contexts may reach into which others' memory by a kernel's loads and stores. Copies need no
// such leave.
#include "api.h"

#include <set>
#include <utility>

using namespace fakecuda;

namespace {

using Pair = std::pair<CUcontext, CUcontext>;  // who reaches, into whom

// Guarded by the driver's lock; handles are never used twice.
std::set<Pair>& enabled() {
  static auto* pairs = new std::set<Pair>;
  return *pairs;
}

}  // namespace

FAKECUDA_API cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto found = call.driver.contexts.find(peer);
    if (!found) return CUDA_ERROR_INVALID_CONTEXT;
    const auto& devices = call.driver.devices;
    const int from = call.context->device;
    if (found->device == from) return CUDA_ERROR_INVALID_DEVICE;
    const int physical = devices[static_cast<std::size_t>(from)].physical;
    const int peer_physical = devices[static_cast<std::size_t>(found->device)].physical;
    if (!can_access_peer(call.driver.settings, physical, peer_physical))
      return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    const bool added = enabled().emplace(call.context->handle, peer).second;
    return added ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  });
}

FAKECUDA_API cuCtxDisablePeerAccess(CUcontext peer) {
  return api(__func__, Need::Context, [&](Call& call) {
    if (!call.driver.contexts.find(peer)) return CUDA_ERROR_INVALID_CONTEXT;
    const bool removed = enabled().erase({call.context->handle, peer}) != 0;
    return removed ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  });
}
