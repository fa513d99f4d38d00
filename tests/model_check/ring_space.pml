/* The other half of the ring's wake-up protocol (transport/ring_writer.cc wait_for_room, ring_reader.cc consume), under
 * x86-TSO as in ring_wakeup.pml: a producer that found the ring full may not sleep while there is room. How the consumer
 * learns of records is the other model's; here it sees them at once.
 *
 * Mutations that the checker must catch: -DNO_PRODUCER_FENCE, -DNO_CONSUMER_FENCE, -DNO_RECHECK.
 */
#define RECORDS 5
#define CAPACITY 1       /* as few as may be: no further record brings what a lost wake-up left out */

byte tail = 0;           /* records committed */
byte head = 0;           /* records consumed, in memory */
bool sleeper = false;    /* space_sleeper, in memory */
byte wake_word = 0;      /* wake_space, a futex word */

/* One pending store per side: the consumer's head, the producer's sleeper. */
bool head_pending = false;
byte head_value;
bool sleeper_pending = false;
bool sleeper_value;

inline flush_consumer() { atomic { if :: head_pending -> head = head_value; head_pending = false :: else fi } }
inline flush_producer() { atomic { if :: sleeper_pending -> sleeper = sleeper_value; sleeper_pending = false :: else fi } }

/* A store waits until the one before it has left the buffer. */
inline store_head(value) { atomic { !head_pending -> head_value = value; head_pending = true } }
inline store_sleeper(value) { atomic { !sleeper_pending -> sleeper_value = value; sleeper_pending = true } }

active proctype hardware() {
end:
  do
  :: atomic { head_pending -> head = head_value; head_pending = false }
  :: atomic { sleeper_pending -> sleeper = sleeper_value; sleeper_pending = false }
  od
}

/* A sleep that nobody ends shows as a deadlock. */
active proctype producer() {
  byte ticket;
  do
  :: tail == RECORDS -> break
  :: tail < RECORDS ->
     if
     :: tail - head < CAPACITY -> tail++
     :: else ->
        ticket = wake_word;
        store_sleeper(true);
#ifndef NO_PRODUCER_FENCE
        flush_producer();
#endif
        if
#ifndef NO_RECHECK
        :: tail - head < CAPACITY -> skip
#endif
        :: else -> wake_word != ticket
        fi;
        store_sleeper(false)
     fi
  od
}

active proctype consumer() {
  byte read = 0;
  bool slept;
  do
  :: read == RECORDS -> break
  :: tail > read ->
     read++;
     store_head(read);
#ifndef NO_CONSUMER_FENCE
     flush_consumer();
#endif
     slept = sleeper;
     if
     :: slept ->
        /* exchange: flushes our buffer, and is one step */
        atomic {
          if :: head_pending -> head = head_value; head_pending = false :: else fi;
          slept = sleeper;
          sleeper = false
        };
        if :: slept -> wake_word++ :: else fi
     :: else
     fi
  od
}
