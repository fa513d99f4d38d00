// The seam between what runs a batch on a stub and what decides about batches. Inside Triton the
// core takes the scheduler's place; everything below this line stays.
#pragma once

#include <tensorferry/server/request.h>
#include <tensorferry/transport/error.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tensorferry::server {

// One request on its way through a stub: a request, room for a response, and whom to tell.
class Execution {
 public:
  virtual ~Execution() = default;

  // What the request goes by in messages and traces: no other of this process has it, ever.
  // Stable while it is queued or in a stub.
  std::uint64_t number() const noexcept { return number_; }
  // Stable while it is in a stub.
  virtual const Request& request() const noexcept = 0;
  // Where the next response is put together before respond(); reused from one to the next.
  virtual Response& response() noexcept = 0;
  // A response is in response(), or `error` is set, or (both not, `empty`) only the flags matter.
  // 0..n times, the last one with `final`. Called by the thread that reads the stub's ring: must
  // not block or wait on the stub.
  virtual void respond(const Error* error, bool empty, bool final) noexcept = 0;

 protected:
  void renumber() noexcept { number_ = next_number(); }  // it is another request now

 private:
  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> next{1};
    return next.fetch_add(1, std::memory_order_relaxed);
  }
  std::uint64_t number_ = next_number();
};

using Batch = std::vector<std::shared_ptr<Execution>>;

// What an instance tells whoever feeds it. Calls come from reading and supervising threads, without
// locks held.
class InstanceEvents {
 public:
  virtual ~InstanceEvents() = default;
  // One batch less inside the stub.
  virtual void batch_done(std::size_t instance) noexcept = 0;
  // Requests that the dead stub had not begun: they may run elsewhere.
  virtual void give_back(Batch batch) noexcept = 0;
  // After every execute(), for statistics.
  virtual void executed(std::uint64_t execute_ns, std::uint64_t copied_bytes) noexcept = 0;
};

}  // namespace tensorferry::server
