// The same for many things, several at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace tensorferry::server {

// Calls `work(i)` for each i below `count`, on at most `limit` threads, of which the caller's is
// one. Where the system gives no more threads, those that are there do it all.
template <class Work>
void in_parallel(std::size_t count, std::size_t limit, Work&& work) {
  std::atomic<std::size_t> next{0};
  auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::thread> more;
  std::size_t wanted = std::min(count, limit);
  try {
    while (more.size() + 1 < wanted) more.emplace_back(run);
  } catch (const std::system_error&) {
    wanted = more.size() + 1;
  }
  run();
  for (std::thread& thread : more) thread.join();
}

}  // namespace tensorferry::server
