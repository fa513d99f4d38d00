/* The ring's wake-up protocol (transport/ring_writer.cc, ring_reader.cc) under x86-TSO: each side's plain stores wait in a
 * store buffer until a fence, an atomic operation or the hardware flushes them.
 *
 * The consumer waits in the foreground, or arms the background thread and leaves the ring to it; it may come back later.
 * Each record is lazy or urgent. Nobody may sleep in the foreground while there is a record, and the background thread may
 * not while there is an urgent one that nobody else is about to read.
 * Mutations that the checker must catch: -DNO_PRODUCER_FENCE, -DNO_CONSUMER_FENCE, -DNO_RECHECK, -DLAZY_WAKES_NOBODY,
 * -DURGENT_IS_LAZY.
 */
#define RECORDS 3
#define NONE 0
#define FOREGROUND 1
#define BACKGROUND 2

byte tail = 0;          /* records committed, in memory */
byte sleeper = NONE;    /* in memory */
byte wake_word[3] = 0;  /* futex words, by kind of sleeper */
byte read = 0;          /* records consumed: the reader's own */

/* What the property is said with. */
byte last_urgent = 0;   /* the number of the last urgent record that was sent, from 1 */
bool all_sent = false;
#define NOTHING_URGENT (all_sent && last_urgent <= read)

/* One pending store per side: the producer's tail, the consumer's sleeper. */
bool tail_pending = false;
byte tail_value;
bool sleeper_pending = false;
byte sleeper_value;

bool leading = false;   /* private to the consumer's process, under its mutex */
bool mutex = false;

inline flush_producer() { atomic { if :: tail_pending -> tail = tail_value; tail_pending = false :: else fi } }
inline flush_consumer() { atomic { if :: sleeper_pending -> sleeper = sleeper_value; sleeper_pending = false :: else fi } }

/* A store waits until the one before it has left the buffer. */
inline store_tail(value) { atomic { !tail_pending -> tail_value = value; tail_pending = true } }
inline store_sleeper(value) { atomic { !sleeper_pending -> sleeper_value = value; sleeper_pending = true } }

/* Inbox: taking the lead disarms; giving it up arms, all under the mutex: a background thread that is woken in between
 * waits for the mutex and then finds the lead free. */
inline lock() { atomic { !mutex -> mutex = true } }
inline unlock() { mutex = false }

active proctype hardware() {
end:
  do
  :: atomic { tail_pending -> tail = tail_value; tail_pending = false }
  :: atomic { sleeper_pending -> sleeper = sleeper_value; sleeper_pending = false }
  od
}

active proctype producer() {
  byte sent = 0, seen;
  bool urgent;
  do
  :: sent < RECORDS ->
     sent++;
     if
     :: urgent = true; last_urgent = sent
     :: urgent = false
     fi;
     store_tail(sent);
#ifndef NO_PRODUCER_FENCE
     flush_producer();
#endif
     seen = sleeper;
#ifdef URGENT_IS_LAZY
     urgent = false;
#endif
     do
#ifdef LAZY_WAKES_NOBODY
     :: !urgent -> break
     :: urgent && seen != NONE ->
#else
     :: seen == FOREGROUND || (seen == BACKGROUND && urgent) ->
#endif
        /* compare-and-swap: flushes our buffer, and is one step */
        atomic {
          if :: tail_pending -> tail = tail_value; tail_pending = false :: else fi;
          if
          :: sleeper == seen -> sleeper = NONE
          :: else -> seen = sleeper; goto once_more
          fi
        };
        wake_word[seen] = wake_word[seen] + 1;
        break;
once_more:
        skip
     :: else -> break
     od
  :: else -> break
  od;
  all_sent = true
}

/* Sleeps on the word of its kind while it has the value that was read before the flag went up. When there is nothing to be
 * woken for any more the sleep is a good end, any other one is a lost wake-up, which shows as a deadlock. */
inline futex_wait(kind, ticket, good_end) { wake_word[kind] != ticket || good_end }

active proctype consumer() {
  byte ticket;
  do
  :: read == RECORDS -> break
  :: read < RECORDS ->
again:
     lock();
     if
     :: leading -> unlock(); goto again
     :: else -> leading = true; store_sleeper(NONE); unlock()
     fi;
     do
     :: tail > read -> read++
     :: tail <= read ->
        if
        :: read == RECORDS -> lock(); leading = false; unlock(); break
        :: true ->  /* wait for more, here */
           ticket = wake_word[FOREGROUND];
           store_sleeper(FOREGROUND);
#ifndef NO_CONSUMER_FENCE
           flush_consumer();
#endif
           if
#ifndef NO_RECHECK
           :: tail > read -> skip
#endif
           :: else -> futex_wait(FOREGROUND, ticket, read == RECORDS)
           fi;
           store_sleeper(NONE)
        :: true ->  /* leave it to the background thread */
           lock();
           store_sleeper(BACKGROUND);
#ifndef NO_CONSUMER_FENCE
           flush_consumer();
#endif
           if
#ifndef NO_RECHECK
           :: tail > read -> store_sleeper(NONE); unlock()
#endif
           :: else -> leading = false; unlock(); break
           fi
        fi
     od;
     if
     :: goto again  /* to wait once more */
     :: true -> NOTHING_URGENT; break  /* its caller has gone: what comes is the background thread's */
     fi
  od
}

active proctype background() {
  byte ticket;
  do
  :: NOTHING_URGENT -> break
  :: else ->
     ticket = wake_word[BACKGROUND];
     lock();
     if
     :: leading -> unlock()
     :: else ->
        leading = true;
        store_sleeper(NONE);
        unlock();
        do
        :: tail > read -> read++
        :: tail <= read ->
           lock();
           store_sleeper(BACKGROUND);
#ifndef NO_CONSUMER_FENCE
           flush_consumer();
#endif
           if
#ifndef NO_RECHECK
           :: tail > read -> store_sleeper(NONE); unlock()
#endif
           :: else -> leading = false; unlock(); break
           fi
        od
     fi;
     futex_wait(BACKGROUND, ticket, NOTHING_URGENT)
  od
}
