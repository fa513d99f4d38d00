// The happens-before checker: two operations of different streams that touch the same memory, one
// of them writing, must be ordered by something that CUDA or a host thread sees: an event, a
// stream's kind, a synchronisation, an answered query. It looks when operations are enqueued, so
// that what it finds doesn't depend on the scheduler.
#pragma once

#include "driver.h"

namespace fakecuda {

// Called for every operation before it is enqueued.
void check_order(Driver& driver, Stream& stream, const Operation& operation);
// The event's record comes after all that the stream has.
void note_record(Driver& driver, Stream& stream, Event& event);
// What the stream gets from now on comes after the event's newest record.
void note_wait(Driver& driver, Stream& stream, const Event& event);
// After all that the other stream has.
void note_join(Driver& driver, Stream& stream, const Stream& other);
// The caller has seen the event complete, or a stream idle: whatever anyone enqueues from now on
// comes after it.
void note_seen(Driver& driver, const Event& event);
void note_seen(Driver& driver, const Stream& stream);
void note_seen(Driver& driver, const Clock& clock);
// What comes before the next operation of a stream.
Clock clock_of(Driver& driver, Stream& stream);
// The stream is gone.
void retire_timeline(System& system, const Stream& stream);
// A part of physical memory that was freed, after a wait for all that used it.
void forget_accesses(Physical& physical, std::uint64_t offset, std::uint64_t size);

}  // namespace fakecuda
