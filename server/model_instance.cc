#include "model_instance.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace tensorferry::server {
namespace {

Deadline after(std::chrono::milliseconds time) {
  return time.count() > 0 ? Deadline(Clock::now() + time) : Deadline{};
}

// Proportional set size: pages shared with others count by their share. 0 where the kernel doesn't
// tell.
std::size_t pss_bytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  for (std::string key; file >> key;) {
    std::size_t kib = 0;
    if (key == "Pss:" && file >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace

ModelInstance::ModelInstance(InstanceSpec spec, std::shared_ptr<SegmentAuthority> segments,
                             ModelMemory memory, InstanceEvents& events,
                             std::shared_ptr<Logger> logger, LinkChanged link_changed)
    : spec_(std::move(spec)),
      segments_(std::move(segments)),
      memory_(std::move(memory)),
      events_(events),
      logger_(std::move(logger)),
      link_changed_(std::move(link_changed)),
      restarts_counter_(Counters::of_process().add(
          "stub_restarts", {{"model", spec_.link.model}, {"instance", spec_.link.instance}})),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  supervisor_ = std::thread([this] { supervise(); });
}

ModelInstance::~ModelInstance() {
  request_stop();
  join();
}

void ModelInstance::request_stop() {
  stopping_.store(true);
  std::uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof one);
}

void ModelInstance::join() {
  if (supervisor_.joinable()) supervisor_.join();
}

Result<void> ModelInstance::wait_loaded() { return first_.get_future().get(); }

void ModelInstance::report_first(Result<void> outcome) {
  if (std::exchange(first_reported_, true)) return;
  if (auto on_completed = std::exchange(spec_.on_completed, nullptr)) {
    (void)on_completed(std::unexpected(outcome ? Error{} : outcome.error()));
  }
  first_.set_value(std::move(outcome));
}

void ModelInstance::set_state(const char* state, pid_t pid, std::shared_ptr<StubLink> link) {
  std::scoped_lock lock(mutex_);
  state_ = state;
  pid_ = pid;
  link_ = std::move(link);
}

bool ModelInstance::sleep_unless_stopped(std::chrono::milliseconds time) {
  pollfd stop{stop_.get(), POLLIN, 0};
  return ::poll(&stop, 1, static_cast<int>(time.count())) == 0;
}

void ModelInstance::supervise() {
  if (!stop_) return report_first(system_failure("eventfd for instance '" + name() + "'", EMFILE));
  while (!stopping_) {
    auto born = std::chrono::steady_clock::now();
    bool stopped = live_once();
    if (stopped || stopping_) break;
    auto delay = restart_policy_.next_delay(std::chrono::steady_clock::now() - born);
    set_state("waiting to restart", 0, nullptr);
    logger_->warning(name(),
                     "its stub is started again in " + std::to_string(delay.count()) + " ms");
    if (!sleep_unless_stopped(delay)) break;
    restarts_.fetch_add(1);
    restarts_counter_.add();
    set_state("starting", 0, nullptr);
  }
  set_state("stopped", 0, nullptr);
  report_first(failure(ErrorCode::Closed, "stopped before it was loaded"));
}

Result<void> ModelInstance::load(StubSession& session) {
  Deadline deadline = after(spec_.load_timeout);
  if (spec_.on_completed) {
    auto completed = session.auto_complete(spec_.model_path, spec_.config_to_complete, deadline);
    if (!completed) {
      completed.error().message =
          "Failed to initialize Python stub for auto-complete: " + completed.error().message;
      return std::unexpected(completed.error());
    }
    auto on_completed =
        std::exchange(spec_.on_completed, nullptr);  // a restart loads with the same config
    auto args = on_completed(std::move(*completed));
    if (!args) return std::unexpected(args.error());
    spec_.args = std::move(*args);
  }
  auto loaded = session.load(spec_.model_path, spec_.args, deadline);
  if (!loaded) {
    loaded.error().message = "Failed to initialize Python stub: " + loaded.error().message;
    return std::unexpected(loaded.error());
  }
  return {};
}

bool ModelInstance::live_once() {
  auto session = StubSession::start(
      spec_.command, spec_.link, segments_, memory_, events_, logger_, stop_.get(),
      spec_.load_timeout.count() > 0 ? spec_.load_timeout : StubSession::kHelloPatience);
  Result<void> loaded;
  if (session) {
    set_state("starting", (*session)->pid(), (*session)->link());
    loaded = load(**session);
  } else {
    loaded = std::unexpected(session.error());
  }
  if (!loaded) {
    Error error = loaded.error();
    error.context = {spec_.link.model, name(), {}};
    if (!stopping_) logger_->error(name(), error.message);
    if (session) (*session)->finish(after(std::chrono::milliseconds(1)));
    bool first = !first_reported_;
    report_first(std::unexpected(std::move(error)));
    return first;  // a model that never loaded is not tried again; a restart is
  }

  set_state("ready", (*session)->pid(), (*session)->link());
  ready_.store(true, std::memory_order_release);
  link_changed_((*session)->link());
  report_first({});
  Result<void> served = (*session)->serve(spec_.limits);
  ready_.store(false, std::memory_order_release);
  link_changed_(nullptr);
  if (!served) {
    logger_->error(name(), served.error().message);
    return false;
  }
  set_state("stopping", (*session)->pid(), (*session)->link());
  (*session)->finish(after(spec_.finalize_timeout));
  return true;
}

InstanceStatistics ModelInstance::statistics() const {
  InstanceStatistics result;
  result.name = name();
  result.restarts = restarts_.load();
  std::scoped_lock lock(mutex_);
  result.state = state_;
  result.pid = pid_;
  if (pid_ > 0) result.pss_bytes = pss_bytes(pid_);
  if (link_) {
    result.arena_bytes = link_->stub_arena_bytes();
    result.arena_peak_bytes = link_->stub_arena_peak_bytes();
    result.answers_out_bytes = link_->answers_out_bytes();
  }
  return result;
}

std::shared_ptr<StubLink> ModelInstance::link() const {
  std::scoped_lock lock(mutex_);
  return link_;
}

bool ModelInstance::ready() const noexcept {
  if (!ready_.load(std::memory_order_acquire)) return false;
  auto current = link();
  return current && !current->closed();
}

void ModelInstance::trim() {
  if (auto current = link()) current->trim();
}

void ModelInstance::fail_requests(const Error& why) {
  if (auto current = link()) current->fail_requests(why);
}

}  // namespace tensorferry::server
