// fork() and shared memory (docs/design.md, "Fork"): the child must keep what its parent's arrays
// held at the fork, and must not touch what is still shared. Registered memory is made private in
// the child, copied at the same addresses, before fork() returns on either side.
//
// In a process that forked, shared structures of the parent are void: forked_since(generation)
// tells.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/segment.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace tensorferry {

// Something that takes part in a fork. Lives in private memory; registered for its lifetime.
class ForkParticipant {
 public:
  virtual ~ForkParticipant() = default;
  // Before the fork, in the forking thread: take locks so that books are consistent. Those that
  // registered last are asked first: one may hold its lock while it takes that of an earlier one,
  // never the other way round.
  virtual void before_fork() noexcept = 0;
  // The ranges in use in `segment`-like mappings: mapping base, fd, whole size and the live ranges
  // in it.
  struct Mapping {
    int fd;
    std::byte* data;
    std::size_t bytes;
    std::vector<std::span<std::byte>> live;
  };
  virtual void collect(std::vector<Mapping>& mappings) = 0;  // called right after before_fork()
  virtual void after_fork_parent() noexcept = 0;
  virtual void
  after_fork_child() noexcept = 0;  // let go of descriptors and locks; the child has one thread
};

// What an arena has in use, as mappings; between its lock_for_fork() and unlock_after_fork().
void collect_arena(const Arena& arena, std::vector<ForkParticipant::Mapping>& mappings);

// Registers until the handle is dropped. Installs the process's pthread_atfork handlers on first
// use.
std::shared_ptr<void> register_fork_participant(ForkParticipant& participant);

// How often this process image has been forked from an ancestor since the library was loaded: 0 in
// the process that loaded it. Compare with what you noted at construction.
std::uint64_t fork_generation() noexcept;

}  // namespace tensorferry
