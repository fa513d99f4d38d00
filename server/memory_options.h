// A server's options as the transport wants them.
#pragma once

#include <tensorferry/server/options.h>
#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/memory_limit.h>

namespace tensorferry::server {

inline ArenaOptions arena_options(const ServerOptions& options) {
  ArenaOptions arena;
  arena.initial_bytes = options.arena_initial_bytes;
  arena.growth_bytes = options.arena_growth_bytes;
  arena.max_bytes =
      options.arena_max_bytes > 0 ? options.arena_max_bytes : default_arena_max_bytes();
  return arena;
}

}  // namespace tensorferry::server
