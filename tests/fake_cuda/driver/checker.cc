#include "checker.h"

#include "memory.h"
#include "process_page.h"
#include "shadow.h"
#include "site.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

namespace fakecuda {
namespace {

bool claim(Driver& driver, Timeline& timeline, bool also_retired) {
  const ProcessId self = driver.system.id();
  std::uint32_t pid = timeline.pid.load();
  if (pid != 0 && is_alive(timeline.owner())) {
    std::uint32_t retired = 1;
    if (!also_retired || !timeline.retired.compare_exchange_strong(retired, 0)) return false;
  }
  if (!timeline.pid.compare_exchange_strong(pid, self.pid)) return false;
  timeline.retired = 0;
  timeline.start_time = self.start_time;
  timeline.first = timeline.epoch.load();
  return true;
}

// A timeline for a stream that has none; 0 where there are too many. Those of streams that are gone
// come last: what they did is then taken for ordered.
std::uint32_t take_timeline(Driver& driver) {
  auto& page = driver.system.page();
  for (const bool also_retired : {false, true})
    for (std::uint32_t i = 1; i < kTimelines; ++i)
      if (claim(driver, page.timelines[i], also_retired)) return i;
  return 0;
}

bool is_checked(const Driver& driver) { return driver.settings.check_order; }

// What comes now is after all that its stream's kind demands, and after what any host thread has
// seen complete: between threads and processes the host's own synchronisation isn't visible here,
// and it is taken for granted.
void catch_up(Driver& driver, Stream& stream) {
  merge(stream.clock, driver.system.page().host_clock);
  const auto context = stream.context.lock();
  for (const auto& other : driver.engine.streams()) {
    if (other.get() == &stream || other->context.lock() != context) continue;
    const bool orders =
        stream.is_legacy ? other->is_blocking() : stream.is_blocking() && other->is_legacy;
    if (orders) merge(stream.clock, other->clock);
  }
}

void complain(Driver& driver, const Touch& touch, bool other_writes, const Access& mine,
              const Access& other) {
  static auto* told = new std::set<std::pair<std::uint64_t, std::uint64_t>>;
  if (!told->insert({mine.site, other.site}).second) return;
  const std::string text = std::string("unordered access to ") + hex(touch.address) + ": " +
                           (touch.writes ? "write" : "read") + " by " +
                           site_text(driver.system, mine.site) + "; nothing orders it after the " +
                           (other_writes ? "write" : "read") + " by " +
                           site_text(driver.system, other.site);
  report(text);
}

struct Check {
  Driver& driver;
  Stream& stream;
  const Touch& touch;

  // Is `word`, an earlier access, ordered before ours?
  bool is_ordered(const Access& mine, const Access& other) const {
    if (other.epoch == 0 || other.timeline == mine.timeline || !mine.overlaps(other)) return true;
    if (stream.clock[other.timeline] >= other.epoch) return true;
    // Of a dead process: who knows of its death (and has waited for it) may use its memory.
    const Timeline& timeline = driver.system.page().timelines[other.timeline];
    return other.epoch <= timeline.first.load() || !is_alive(timeline.owner());
  }

  void against(const Access& mine, std::uint64_t word, bool other_writes) const {
    const Access other = Access::unpack(word);
    if (!is_ordered(mine, other)) complain(driver, touch, other_writes, mine, other);
  }

  void visit(ShadowEntry& entry, const Access& mine) const {
    const std::uint64_t write = entry.write.load(std::memory_order_relaxed);
    if (write != 0) against(mine, write, true);
    if (!touch.writes) {
      note_read(entry, mine);
      return;
    }
    for (auto& read : entry.reads) {
      const std::uint64_t word = read.load(std::memory_order_relaxed);
      if (word == 0) continue;
      against(mine, word, false);
      if (Access::unpack(word).overlaps(mine)) read.store(0, std::memory_order_relaxed);
    }
    entry.write.store(mine.pack(), std::memory_order_relaxed);
  }

  // In place of an older one of the same stream, in a free place, or in the first.
  static void note_read(ShadowEntry& entry, const Access& mine) {
    auto* chosen = &entry.reads[mine.epoch % entry.reads.size()];
    for (auto& read : entry.reads) {
      const std::uint64_t word = read.load(std::memory_order_relaxed);
      if (word == 0 || Access::unpack(word).timeline == mine.timeline) {
        chosen = &read;
        break;
      }
    }
    chosen->store(mine.pack(), std::memory_order_relaxed);
  }

  // `offset`: where the range begins in what `entries` shadows.
  void range(ShadowEntry* entries, std::uint64_t offset, std::uint64_t size, Access mine) const {
    for (std::uint64_t at = offset; at < offset + size;) {
      const std::uint64_t first = at % kGranule;
      const std::uint64_t last = std::min(kGranule, first + (offset + size - at));
      mine.begin = first / 4;
      mine.end = (last + 3) / 4;
      visit(entries[at / kGranule], mine);
      at += last - first;
    }
  }
};

void check_touch(const Check& check, const Access& mine) {
  const Touch& touch = check.touch;
  if (!check.driver.space.contains(touch.address)) {
    const HostRange* host = check.driver.host.find(touch.address);
    if (host == nullptr || !host->shadow) return;
    const std::uint64_t inside = touch.address - host->base;
    check.range(host->shadow.get(), inside, std::min(touch.size, host->size - inside), mine);
    return;
  }
  for (std::uint64_t done = 0; done < touch.size;) {
    const Mapping* mapping = check.driver.space.find(touch.address + done);
    if (mapping == nullptr) return;
    const std::uint64_t inside = touch.address + done - mapping->base;
    const std::uint64_t size = std::min(touch.size - done, mapping->size - inside);
    check.range(mapping->physical->shadow, mapping->offset + inside, size, mine);
    done += size;
  }
}

}  // namespace

void check_order(Driver& driver, Stream& stream, const Operation& operation) {
  if (!is_checked(driver)) return;
  catch_up(driver, stream);
  if (operation.touches.empty()) return;
  if (stream.timeline == 0) stream.timeline = take_timeline(driver);
  if (stream.timeline == 0) return;
  Access mine;
  mine.timeline = stream.timeline;
  mine.epoch = driver.system.page().timelines[stream.timeline].epoch.fetch_add(1) + 1;
  mine.site = site_of(driver, stream, operation.what);
  stream.clock[stream.timeline] = static_cast<std::uint32_t>(mine.epoch);
  for (const auto& touch : operation.touches) check_touch({driver, stream, touch}, mine);
}

void note_record(Driver& driver, Stream& stream, Event& event) {
  if (!is_checked(driver)) return;
  catch_up(driver, stream);
  if (event.shared != nullptr)
    assign(event.shared->clock, stream.clock);
  else
    event.clock = std::make_shared<Clock>(stream.clock);
}

void note_wait(Driver& driver, Stream& stream, const Event& event) {
  if (!is_checked(driver)) return;
  if (event.shared != nullptr)
    merge(stream.clock, event.shared->clock);
  else if (event.clock)
    merge(stream.clock, *event.clock);
}

void note_join(Driver& driver, Stream& stream, const Stream& other) {
  if (is_checked(driver)) merge(stream.clock, other.clock);
}

void note_seen(Driver& driver, const Event& event) {
  if (!is_checked(driver)) return;
  Clock seen{};
  if (event.shared != nullptr) merge(seen, event.shared->clock);
  if (event.clock) merge(seen, *event.clock);
  merge(driver.system.page().host_clock, seen);
}

void note_seen(Driver& driver, const Stream& stream) { note_seen(driver, stream.clock); }

void note_seen(Driver& driver, const Clock& clock) {
  if (is_checked(driver)) merge(driver.system.page().host_clock, clock);
}

Clock clock_of(Driver& driver, Stream& stream) {
  if (is_checked(driver)) catch_up(driver, stream);
  return stream.clock;
}

void retire_timeline(System& system, const Stream& stream) {
  if (stream.timeline != 0) system.page().timelines[stream.timeline].retired = 1;
}

void forget_accesses(Physical& physical, std::uint64_t offset, std::uint64_t size) {
  for (std::uint64_t at = offset / kGranule; at * kGranule < offset + size; ++at)
    physical.shadow[at].clear();
}

}  // namespace fakecuda
