// The happens-before checker.
#pragma once

#include "driver.h"

namespace fakecuda {

// Called for every operation before it is enqueued.
void check_order(Driver& driver, Stream& stream, const Operation& operation);
// The event's record `number` comes after all that the stream has.
void note_record(Driver& driver, Stream& stream, Event& event, std::uint64_t number);
// What the stream gets from now on comes after the event's newest record.
void note_wait(Driver& driver, Stream& stream, const Event& event);
// After all that the other stream has.
void note_join(Driver& driver, Stream& stream, const Stream& other);
// The caller has seen the event complete, or a stream idle: whatever anyone enqueues from now on
// comes after it.
void note_seen(Driver& driver, const Event& event);
void note_seen(Driver& driver, const Stream& stream);

}  // namespace fakecuda
