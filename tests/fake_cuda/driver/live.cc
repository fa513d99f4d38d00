#include "live.h"

#include "driver.h"
#include "process_page.h"

#include <array>
#include <atomic>
#include <string>
#include <string_view>
#include <utility>

namespace fakecuda {
namespace {

constexpr auto kKinds = std::to_array<std::pair<std::uint64_t fakecuda_live::*, const char*>>({
    {&fakecuda_live::allocations, "allocation(s) of cuMemAlloc"},
    {&fakecuda_live::physical_handles, "handle(s) of cuMemCreate or an import"},
    {&fakecuda_live::mappings, "mapping(s) of cuMemMap"},
    {&fakecuda_live::reservations, "address range(s) of cuMemAddressReserve"},
    {&fakecuda_live::imports, "memory of another process by cuIpcOpenMemHandle"},
    {&fakecuda_live::pooled, "allocation(s) from memory pools"},
    {&fakecuda_live::host_allocations, "allocation(s) of cuMemHostAlloc"},
    {&fakecuda_live::host_registrations, "registration(s) of cuMemHostRegister"},
    {&fakecuda_live::streams, "stream(s)"},
    {&fakecuda_live::events, "event(s)"},
    {&fakecuda_live::pools, "memory pool(s)"},
    {&fakecuda_live::contexts, "context(s)"},
});
static_assert(kKinds.size() == sizeof(fakecuda_live) / sizeof(std::uint64_t));

std::uint64_t of_kind(const Driver& driver, MappingKind kind) { return driver.space.mapped(kind); }

fakecuda_live live_of(const Driver& driver) {
  fakecuda_live live{};
  live.allocations = of_kind(driver, MappingKind::Allocated);
  live.physical_handles = driver.physicals.size();
  live.mappings = of_kind(driver, MappingKind::Vmm);
  live.reservations = driver.space.reservations();
  live.imports = of_kind(driver, MappingKind::Imported);
  live.pooled = of_kind(driver, MappingKind::Pooled);
  live.host_registrations = driver.host.registered();
  live.host_allocations = driver.host.ranges().size() - live.host_registrations;
  live.streams = driver.streams.size();
  live.events = driver.events.size();
  std::size_t default_pools = driver.host_pool != nullptr ? 1 : 0;
  for (const auto& device : driver.devices) default_pools += device.pool != nullptr ? 1 : 0;
  live.pools = driver.pools.size() - default_pools;
  live.contexts = driver.contexts.size();
  return live;
}

}  // namespace

void publish_live(const Driver& driver) {
  const fakecuda_live live = live_of(driver);
  for (const auto& [kind, words] : kKinds)
    std::atomic_ref(process_page().live.*kind).store(live.*kind, std::memory_order_relaxed);
}

void report_leaks() {
  for (const auto& [kind, words] : kKinds) {
    const std::uint64_t left = std::atomic_ref(process_page().live.*kind).load();
    if (left != 0) report("left at exit: " + std::to_string(left) + " " + words);
  }
}

}  // namespace fakecuda
