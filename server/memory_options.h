// A server's options as the transport wants them.
#pragma once

#include <tensorferry/server/model_config.h>
#include <tensorferry/server/options.h>
#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/memory_limit.h>

#include <charconv>
#include <string>

#include "gpu_arenas.h"

namespace tensorferry::server {

inline ArenaOptions arena_options(const ServerOptions& options) {
  ArenaOptions arena;
  arena.initial_bytes = options.arena_initial_bytes;
  arena.growth_bytes = options.arena_growth_bytes;
  arena.max_bytes =
      options.arena_max_bytes > 0 ? options.arena_max_bytes : default_arena_max_bytes();
  return arena;
}

// Of a model's arenas on GPUs, in the server and in each stub. Chunks are few and large: each is
// mapped by every stub of the model.
inline GpuArenaOptions gpu_arena_options(const ModelConfig& config) {
  constexpr std::size_t kChunk = 64 << 20;
  constexpr std::size_t kAllOfTheDevice = std::size_t{1} << 46;
  ArenaOptions arena{kChunk, kChunk, kAllOfTheDevice, kChunk};
  auto limit = config.parameters.find("TENSORFERRY_GPU_POOL_BYTE_SIZE");
  if (limit != config.parameters.end()) {
    const std::string& text = limit->second;
    std::from_chars(text.data(), text.data() + text.size(), arena.max_bytes);
    arena.initial_bytes = arena.growth_bytes = std::min(kChunk, arena.max_bytes);
  }
  GpuArenaOptions options{arena, {}};
  auto transport = config.parameters.find("TENSORFERRY_GPU_TRANSPORT");
  if (transport != config.parameters.end())  // config_rules.cc has refused any other text
    options.transport = cuda::gpu_transport_from_string(transport->second).value();
  return options;
}

}  // namespace tensorferry::server
