// A server's options as the transport wants them, and the error of a server that a fork made void.
#pragma once

#include <tensorferry/server/options.h>
#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/error.h>
#include <tensorferry/transport/memory_limit.h>

#include <string>

namespace tensorferry::server {

inline ArenaOptions arena_options(const ServerOptions& options) {
  ArenaOptions arena;
  arena.initial_bytes = options.arena_initial_bytes;
  arena.growth_bytes = options.arena_growth_bytes;
  arena.max_bytes =
      options.arena_max_bytes > 0 ? options.arena_max_bytes : default_arena_max_bytes();
  return arena;
}

inline Error void_after_fork(const std::string& model) {
  return {ErrorCode::Closed,
          "this process is a fork of the one that started the server: its stubs and requests "
          "belong to the parent; "
          "start a Server of its own here, or send requests from the parent",
          {model, {}, {}}};
}

}  // namespace tensorferry::server
