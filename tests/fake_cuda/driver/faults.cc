#include "faults.h"

#include "fakecuda.h"
#include "text.h"

#include <atomic>
#include <charconv>
#include <mutex>

namespace fakecuda {
namespace {

struct Armed {
  std::mutex mutex;
  std::vector<Fault> faults;
  std::mt19937_64 random{1};  // the same in every run
  std::atomic<bool> any{false};
};

Armed& armed() {
  static auto* instance = new Armed;
  return *instance;
}

thread_local bool corrupted = false;

bool parse_when(std::string text, Fault& fault) {
  if (text.starts_with("every=")) {
    fault.every = parse_number(text.substr(6)).value_or(0);
    return fault.every > 0;
  }
  if (text.starts_with("p=")) {
    const auto [end, error] =
        std::from_chars(text.data() + 2, text.data() + text.size(), fault.probability);
    return error == std::errc{} && end == text.data() + text.size();
  }
  fault.and_later = text.ends_with('+');
  if (fault.and_later) text.pop_back();
  fault.nth = parse_number(text).value_or(0);
  return fault.nth > 0;
}

bool parse_what(const std::string& text, Fault& fault) {
  if (text == "hang") return fault.hangs = true;
  if (text == "corrupt") return fault.corrupts = true;
  const bool is_delay = text.starts_with("delay=");
  const auto number = parse_number(is_delay ? text.substr(6) : text);
  if (!number) return false;
  if (is_delay)
    fault.delay = std::chrono::milliseconds(*number);
  else
    fault.result = static_cast<CUresult>(*number);
  return true;
}

bool concerns(const Fault& fault, std::string_view function) {
  if (!fault.function.ends_with('*')) return fault.function == function;
  return function.starts_with(
      std::string_view(fault.function).substr(0, fault.function.size() - 1));
}

}  // namespace

std::optional<std::vector<Fault>> parse_faults(const std::string& text) {
  std::vector<Fault> faults;
  for (const auto& item : split(text, ',')) {
    const auto parts = split(item, ':');
    Fault fault;
    if (parts.size() != 3 || !parse_when(parts[1], fault) || !parse_what(parts[2], fault))
      return std::nullopt;
    fault.function = parts[0];
    faults.push_back(std::move(fault));
  }
  return faults;
}

void set_faults(std::vector<Fault> faults) {
  std::lock_guard lock(armed().mutex);
  armed().any = !faults.empty();
  armed().faults = std::move(faults);
}

Verdict judge(const char* function) {
  Verdict verdict;
  if (!armed().any) return verdict;
  std::lock_guard lock(armed().mutex);
  for (auto& fault : armed().faults) {
    if (!concerns(fault, function)) continue;
    ++fault.calls;
    const bool strikes = (fault.nth != 0 && (fault.calls == fault.nth ||
                                             (fault.and_later && fault.calls > fault.nth))) ||
                         (fault.every != 0 && fault.calls % fault.every == 0) ||
                         std::uniform_real_distribution<>(0, 1)(armed().random) < fault.probability;
    if (!strikes) continue;
    if (fault.result != CUDA_SUCCESS) verdict.result = fault.result;
    verdict.hangs |= fault.hangs;
    verdict.delay += fault.delay;
    corrupted |= fault.corrupts;
  }
  return verdict;
}

bool take_corruption() {
  const bool was = corrupted;
  corrupted = false;
  return was;
}

}  // namespace fakecuda

extern "C" int fakecuda_fail(const char* faults) {
  auto parsed = fakecuda::parse_faults(faults != nullptr ? faults : "");
  if (!parsed) return -1;
  fakecuda::set_faults(std::move(*parsed));
  return 0;
}
