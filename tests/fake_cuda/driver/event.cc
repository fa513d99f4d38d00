// Events: create, record, wait, query. Those of other processes behave alike once they are opened.
#include "capture.h"
#include "checker.h"
#include "memory.h"

#include <string>

namespace fakecuda {

std::shared_ptr<Event> find_event(Call& call, CUevent handle, const char* where) {
  auto event = call.driver.events.find(handle);
  if (!event && call.driver.events.state(handle) == HandleState::Destroyed)
    report(std::string(where) + ": the event was destroyed before");
  if (event && event->is_imported && event->shared->key.load() != event->shared_key) {
    report(std::string(where) + ": the process that created the event has destroyed it");
    return nullptr;
  }
  return event;
}

void destroy_event(Driver& driver, const std::shared_ptr<Event>& event) {
  driver.events.take(event->handle);
  // The slot is taken again only when its last user in this process, a pending record maybe, is
  // done with it.
}

std::shared_ptr<EventCell> shared_cell(SharedEvent& shared, bool is_owner) {
  return {&shared.cell, [&shared, is_owner](EventCell*) {
            if (!is_owner) return;
            shared.key = 0;
            shared.owner = 0;
          }};
}

namespace {

using std::chrono_literals::operator""ns;

// Of the event that a query last found done.
std::atomic<std::uint64_t> last_completed{0}, last_seen{0};

std::uint64_t nanoseconds(std::chrono::steady_clock::time_point when) {
  return static_cast<std::uint64_t>(when.time_since_epoch() / 1ns);
}

CUresult create(Call& call, CUevent* handle, unsigned flags) {
  constexpr unsigned kKnown =
      CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  const bool is_shared = (flags & CU_EVENT_INTERPROCESS) != 0;
  if (handle == nullptr || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (is_shared && (flags & CU_EVENT_DISABLE_TIMING) == 0) return CUDA_ERROR_INVALID_VALUE;
  if (is_shared && !call.driver.settings.abilities.does_event_ipc &&
      !call.driver.settings.abilities.claims_event_ipc)
    return CUDA_ERROR_NOT_SUPPORTED;
  auto event = std::make_shared<Event>();
  event->context = call.context;
  event->flags = flags;
  if (is_shared) {
    event->shared = call.driver.system.take_event();
    if (event->shared == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    event->cell = shared_cell(*event->shared, true);
  } else {
    event->cell = std::make_shared<EventCell>();
  }
  event->handle = *handle = call.driver.events.add(event);
  count(&fakecuda_counters::events_created);
  return CUDA_SUCCESS;
}

// What the record does once the stream comes to it.
std::function<CUresult()> completion(const std::shared_ptr<Event>& event, std::uint64_t number,
                                     std::shared_ptr<std::chrono::steady_clock::time_point> when) {
  const bool is_shared = event->shared != nullptr;
  return [cell = event->cell, number, is_shared, when = std::move(when)] {
    *when = std::chrono::steady_clock::now();
    cell->completed_at = nanoseconds(*when);
    cell->complete(number);
    if (is_shared) driver().system.wake_listeners();
    return CUDA_SUCCESS;
  };
}

CUresult record(Call& call, CUevent handle, CUstream stream_handle) {
  std::shared_ptr<Stream> stream;
  if (CUresult bad = find_stream(call, stream_handle, stream)) return bad;
  const auto event = find_event(call, handle, "cuEventRecord");
  if (!event || event->context.lock() != stream->context.lock()) return CUDA_ERROR_INVALID_HANDLE;
  count(&fakecuda_counters::event_records);
  if (stream->capture) {
    if (event->shared != nullptr) return refuse_on_capturing(stream);
    event->capture = stream->capture;
    return stream->capture->is_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  }
  event->capture = nullptr;
  event->unanswered = 0;
  event->when = std::make_shared<std::chrono::steady_clock::time_point>();
  event->cell->recorder_start_time = call.driver.system.id().start_time;
  event->cell->recorder = call.driver.system.id().pid;
  const std::uint64_t number = event->cell->recorded.load() + 1;
  Operation operation;
  operation.what = "cuEventRecord";
  operation.runs_after_error = true;
  operation.run = completion(event, number, event->when);
  // The number counts before the operation may run: who asks meanwhile must not take an older
  // record for the newest.
  event->last = {stream, stream->enqueued + 1, event->cell, number};
  note_record(call.driver, *stream, *event);
  event->cell->recorded = number;
  if (CUresult bad = enqueue(call, stream, std::move(operation))) return bad;
  if (event->shared != nullptr) call.driver.engine.watch(event->last);
  return CUDA_SUCCESS;
}

CUresult wait_captured(const std::shared_ptr<Stream>& stream, const Event& event) {
  if (event.capture) {
    if (stream->capture && stream->capture != event.capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    stream->capture = event.capture;  // the stream joins the capture
    return CUDA_SUCCESS;
  }
  stream->capture->is_invalid = true;
  // Seen on a driver of CUDA 13.0 (gpu-probe, question 10).
  return event.shared ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
}

CUresult wait(Call& call, CUstream stream_handle, CUevent handle, unsigned flags) {
  std::shared_ptr<Stream> stream;
  if ((flags & ~1U) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult bad = find_stream(call, stream_handle, stream)) return bad;
  const auto event = find_event(call, handle, "cuStreamWaitEvent");
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  count(&fakecuda_counters::stream_waits);
  if (stream->capture || event->capture) return wait_captured(stream, *event);
  const Point newest = event->newest();
  note_wait(call.driver, *stream, *event);
  if (newest.number == 0) return CUDA_SUCCESS;  // never recorded: nothing to wait for
  Operation operation;
  operation.what = "cuStreamWaitEvent";
  operation.after.push_back(newest);
  return enqueue(call, stream, std::move(operation));
}

CUresult query(Call& call, CUevent handle) {
  const auto event = find_event(call, handle, "cuEventQuery");
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  count(&fakecuda_counters::event_queries);
  if (CUresult error = context_error(event->context)) return error;
  if (event->capture) {
    event->capture->is_invalid = true;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  if (!call.driver.engine.query(call.lock, event->newest(), event->unanswered))
    return CUDA_ERROR_NOT_READY;
  last_completed = event->cell->completed_at.load();
  last_seen = nanoseconds(std::chrono::steady_clock::now());
  note_seen(call.driver, *event);
  return context_error(event->context);
}

CUresult synchronize(Call& call, CUevent handle) {
  const auto event = find_event(call, handle, "cuEventSynchronize");
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  count(&fakecuda_counters::event_syncs);
  if (event->capture) {
    event->capture->is_invalid = true;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  if (CUresult bad = refuse_while_capturing(call)) return bad;
  call.driver.engine.wait(call.lock, event->newest());
  note_seen(call.driver, *event);
  return context_error(event->context);
}

CUresult elapsed(Call& call, float* milliseconds, CUevent first, CUevent second) {
  const auto begin = find_event(call, first, "cuEventElapsedTime");
  const auto end = find_event(call, second, "cuEventElapsedTime");
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!begin || !end || ((begin->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0)
    return CUDA_ERROR_INVALID_HANDLE;
  if (begin->newest().number == 0 || end->newest().number == 0) return CUDA_ERROR_INVALID_HANDLE;
  if (!call.driver.engine.is_done(begin->newest()) || !call.driver.engine.is_done(end->newest()))
    return CUDA_ERROR_NOT_READY;
  *milliseconds = std::chrono::duration<float, std::milli>(*end->when - *begin->when).count();
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fakecuda

using namespace fakecuda;

FAKECUDA_API cuEventCreate(CUevent* event, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) { return create(call, event, flags); });
}

FAKECUDA_API cuEventRecord(CUevent event, CUstream stream) {
  return api(__func__, Need::Context, [&](Call& call) { return record(call, event, stream); });
}

FAKECUDA_API cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) {
    return (flags & ~1U) != 0 ? CUDA_ERROR_INVALID_VALUE : record(call, event, stream);
  });
}

FAKECUDA_API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  return api(__func__, Need::Context, [&](Call& call) { return wait(call, stream, event, flags); });
}

FAKECUDA_API cuEventQuery(CUevent event) {
  return api(__func__, Need::Init, [&](Call& call) { return query(call, event); });
}

FAKECUDA_API cuEventSynchronize(CUevent event) {
  return api(__func__, Need::Init, [&](Call& call) { return synchronize(call, event); });
}

FAKECUDA_API cuEventDestroy_v2(CUevent handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    const auto event = find_event(call, handle, "cuEventDestroy");
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    destroy_event(call.driver, event);
    return CUDA_SUCCESS;
  });
}

FAKECUDA_API cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
  return api(__func__, Need::Init,
             [&](Call& call) { return elapsed(call, milliseconds, begin, end); });
}

FAKECUDA_API cuEventElapsedTime_v2(float* milliseconds, CUevent begin, CUevent end) {
  return api(__func__, Need::Init,
             [&](Call& call) { return elapsed(call, milliseconds, begin, end); });
}

FAKECUDA_API cuCtxRecordEvent(CUcontext handle, CUevent event_handle) {
  return api(__func__, Need::Init, [&](Call& call) {
    call.context = call.driver.contexts.find(handle != nullptr ? handle : current_handle());
    if (!call.context) return CUDA_ERROR_INVALID_CONTEXT;
    if (CUresult bad = refuse_if_context_captures(call)) return bad;
    // All of the context's work: a stream of its own waits for every other and records.
    const auto collector = call.driver.engine.add_stream(call.context, call.context->device,
                                                         CU_STREAM_NON_BLOCKING, 0, false);
    Operation operation;
    operation.what = "cuCtxRecordEvent";
    for (const auto& stream : call.driver.engine.streams()) {
      if (stream == collector || stream->context.lock() != call.context) continue;
      operation.after.push_back(call.driver.engine.newest(stream));
      note_join(call.driver, *collector, *stream);
    }
    if (CUresult bad = enqueue(call, collector, std::move(operation))) return bad;
    collector->handle = call.driver.streams.add(collector);
    const CUresult result = record(call, event_handle, collector->handle);
    call.driver.streams.take(collector->handle);
    collector->is_destroyed = true;
    return result;
  });
}

extern "C" void fakecuda_seen_completion(std::uint64_t* completed, std::uint64_t* seen) {
  *completed = last_completed;
  *seen = last_seen;
}
