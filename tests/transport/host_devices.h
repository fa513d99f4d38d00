// Devices for the tests of ends: their memory is ordinary memory, and work on it is done when the
// test says so.
#pragma once

#include <tensorferry/transport/device_side.h>
#include <tensorferry/transport/protocol.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

namespace tensorferry {

inline constexpr std::string_view kHostUuid = "sixteen-bytes-0!";
static_assert(kHostUuid.size() == protocol::kUuidBytes);

// A pointer as a handle, which another end in this process can open.
inline std::string handle_of(const void* what) {
  std::string bytes(protocol::kHandleBytes, '\0');
  std::memcpy(bytes.data(), &what, sizeof what);
  return bytes;
}
template <class T>
T* in_handle(std::string_view bytes) {
  T* what = nullptr;
  std::memcpy(&what, bytes.data(), sizeof what);
  return what;
}

class HostEvents final : public DeviceEvents {
 public:
  explicit HostEvents(std::size_t count) : count_(count) {}

  Result<std::vector<std::string>> handles() const override {
    return std::vector<std::string>(count_, handle_of(this));
  }
  std::size_t size() const noexcept override { return count_; }
  void watch(std::uint32_t slot, DeviceDone done) override {
    std::unique_lock lock(mutex_);
    if (!held_back_) {
      lock.unlock();
      return done({});
    }
    watched_.emplace(slot, std::move(done));
  }
  void cancel(const Error& why) override { finish(std::unexpected(why)); }

  // What is recorded from now on is not complete before finish().
  void hold_back() {
    std::scoped_lock lock(mutex_);
    held_back_ = true;
  }
  void finish(const Result<void>& how = {}) {
    std::map<std::uint32_t, DeviceDone> done;
    {
      std::scoped_lock lock(mutex_);
      done.swap(watched_);
    }
    for (auto& [slot, one] : done) one(how);
  }

 private:
  const std::size_t count_;
  std::mutex mutex_;
  bool held_back_ = false;
  std::map<std::uint32_t, DeviceDone> watched_;
};

class HostPeerEvents final : public PeerDeviceEvents {
 public:
  explicit HostPeerEvents(std::size_t count) : count_(count) {}
  std::size_t size() const noexcept override { return count_; }
  Result<void> record(std::uint32_t, DeviceStream) override { return {}; }

 private:
  const std::size_t count_;
};

class HostPlace final : public DevicePlace {
 public:
  int ordinal() const noexcept override { return 0; }
  std::string_view uuid() const noexcept override { return kHostUuid; }

  Result<std::shared_ptr<Segment>> make_segment(SegmentId id, std::size_t bytes) override {
    auto memory = std::make_shared<std::vector<std::byte>>(bytes);
    return Segment::adopt(id, memory->data(), bytes, memory);
  }
  Result<DeviceHandle> export_segment(const Segment& segment) override {
    return DeviceHandle{{}, handle_of(segment.data())};
  }
  Result<std::shared_ptr<Segment>> open_segment(SegmentId id, DeviceHandle handle,
                                                std::size_t bytes) override {
    if (refuses_memory) return failure(ErrorCode::Unavailable, "gpu_oom(device): none is left");
    return Segment::adopt(id, in_handle<std::byte>(handle.bytes), bytes, std::make_shared<int>());
  }
  bool peers_close_first() const noexcept override { return false; }

  Result<std::shared_ptr<DeviceEvents>> make_events(std::size_t count) override {
    events = std::make_shared<HostEvents>(count);
    return events;
  }
  Result<std::unique_ptr<PeerDeviceEvents>> open_events(
      std::span<const std::string_view> handles) override {
    return std::make_unique<HostPeerEvents>(handles.size());
  }

  Result<DeviceStream> stream_after(const DeviceStreams&) override { return nullptr; }
  Result<void> copy(std::byte* to, const std::byte* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
    ++copies;
    return {};
  }
  void when_done(const DeviceStreams&, DeviceDone done) override { done({}); }
  Result<void> wait() override {
    ++waits;
    return {};
  }

  std::shared_ptr<HostEvents> events;  // the last ones
  std::atomic<int> copies{0}, waits{0};
  std::atomic<bool> refuses_memory{false};
};

class HostDevices final : public DeviceSide {
 public:
  Result<std::shared_ptr<DevicePlace>> open(int ordinal) override {
    if (ordinal == 0) return place;
    return failure(ErrorCode::NotFound, "there is no such device");
  }
  Result<std::shared_ptr<DevicePlace>> open(std::string_view uuid) override {
    return open(uuid == kHostUuid ? 0 : -1);
  }
  const std::shared_ptr<HostPlace> place = std::make_shared<HostPlace>();
};

}  // namespace tensorferry
