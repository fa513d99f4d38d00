// Sleeping on a 32-bit word and waking who sleeps on it. `shared` words lie in memory of several
// processes (std::atomic::wait uses the private kind, which does not wake another process).
#pragma once

#include <tensorferry/transport/deadline.h>

#include <atomic>
#include <cstdint>

namespace tensorferry {

enum class FutexScope : bool { Private, Shared };

// Sleeps while *word == expected, until woken or the deadline. Spurious returns happen.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, const Deadline& deadline,
                FutexScope scope) noexcept;
// Wakes up to `count` sleepers. A system call.
void futex_wake(std::atomic<std::uint32_t>& word, int count, FutexScope scope) noexcept;

}  // namespace tensorferry
