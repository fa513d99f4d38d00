// How a Server behaves. Defaults are right for one host with a few models.
#pragma once

#include <tensorferry/transport/arena.h>
#include <tensorferry/transport/log.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace tensorferry::server {

struct ServerOptions {
  // -- what is served
  std::optional<std::vector<std::string>> models;  // names to load; none: all of the repository
  // The folder with launch.py and _ferry_stub. Empty: $TENSORFERRY_PAYLOAD, else beside the program
  // (../lib/tensorferry/payload), else in the installation that find_package(tensorferry) found.
  std::filesystem::path payload;
  // The interpreter of models that don't name their own. Empty: `python3` of PATH.
  std::string python;
  std::shared_ptr<Logger> logger;  // none: stderr

  // -- memory, bytes; per model (host arena) and per stub (its own arena)
  std::size_t arena_initial_bytes = 1 << 20;  // Triton's shm-default-byte-size
  std::size_t arena_growth_bytes = 1 << 20;   // shm-growth-byte-size
  std::size_t arena_max_bytes = 0;            // 0: a share of the memory limit (memory_limit.h)
  std::size_t ring_bytes = 1 << 20;           // one direction
  // A model that is not used for this long (up to twice that) gives idle memory back, in the server
  // and in its stubs, down to ArenaOptions::keep_idle_bytes each. 0: never.
  std::chrono::milliseconds trim_after{5'000};

  // -- time
  std::chrono::milliseconds load_timeout{0};  // 0: as long as the stub lives
  std::stop_token stop;  // asked while Server::start waits: it ends the stubs and fails (Cancelled)
  std::chrono::milliseconds drain_timeout{
      30'000};  // shutdown waits this long for requests in flight
  std::chrono::milliseconds finalize_timeout{30'000};  // then a stub that doesn't exit is killed

  // -- scheduling
  std::size_t max_queue = 65'536;  // requests waiting per model, unless its config says otherwise
};

}  // namespace tensorferry::server
