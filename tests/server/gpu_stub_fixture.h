// A real stub on the emulated driver, whose server is played by the test: it offers a device, lends
// chunks, records and looks at events, and answers what the stub asks.
#pragma once

#include <gmock/gmock.h>
#include <tensorferry/cuda/chunk.h>
#include <tensorferry/cuda/device_copy.h>
#include <tensorferry/cuda/event_ring.h>
#include <tensorferry/cuda/host_wait.h>
#include <tensorferry/cuda/stream.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "segment_authority.h"
#include "stub_process.h"

namespace tensorferry::server {

// What Responses said, copied out of the message.
struct SeenOutput {
  protocol::MemoryRef memory;
  Device device;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> inline_bytes;
};
struct SeenRelease {
  std::uint64_t lease = 0;
  std::vector<protocol::EventSlot> after;
};
struct SeenAnswer {
  std::string error;
  std::vector<SeenOutput> outputs;
  std::vector<protocol::EventSlot> ready;
  std::vector<SeenRelease> releases;
};

class GpuStubTest : public testing::Test {
 protected:
  static constexpr Device kDevice{DeviceKind::Cuda, 7};  // the server's number: nobody's ordinal
  static constexpr std::size_t kBytes = 64 << 10;        // of an input

  void SetUp() override;
  void TearDown() override;

  // Starts the stub with a model whose `answer(self, tensor)` has that body and gives the outputs.
  // A ring has that many events.
  void load(const std::string& body, std::size_t events = 16);
  // An input of the server's, full of `value`; written by our stream when the stub reads of it.
  protocol::TensorRecord input(std::byte value);
  void send(const protocol::TensorRecord& tensor);
  SeenAnswer answer();
  SeenAnswer ask(std::byte value) {
    send(input(value));
    return answer();
  }
  // What lies there once the answer's events are complete.
  std::vector<std::byte> read(const SeenAnswer& answer, const SeenOutput& output);
  // Tells the stub that these events are complete, and gives its memory back.
  void give_back(const SeenAnswer& answer);
  // Waits for leases that the stub gives back outside of answers.
  std::vector<SeenRelease> releases(std::size_t count);
  // Writes over memory that the stub had, as soon as what it names with it is complete.
  void overwrite(const protocol::MemoryRef& memory, const SeenRelease& release);
  std::string said() const;  // by the stub on stderr

  std::uint64_t last_lease_ = 0;
  std::size_t chunks_asked_ = 0, reads_asked_ = 0;

 private:
  void start();
  void offer(std::size_t events);
  void serve();
  void see(std::span<const protocol::EventSlot> events);
  void on_control(ControlMessage message);
  Result<void> on_message(const Received& received);
  std::shared_ptr<cuda::Chunk> make_chunk(std::size_t bytes, protocol::SegmentRole role,
                                          std::uint64_t reply_to);
  void read_device(const protocol::ReadDevice& wanted);
  cuda::DevicePtr at(const protocol::MemoryRef& memory);

  const std::filesystem::path folder_ = std::filesystem::temp_directory_path() /
                                        ("tensorferry-gpu-stub-" + std::to_string(::getpid()));
  SegmentAuthority segments_;
  SegmentId next_chunk_ = 1000;
  cuda::ContextPtr context_;
  std::optional<cuda::Stream> stream_;
  std::unique_ptr<cuda::EventRing> to_stub_, from_stub_;
  std::shared_ptr<Segment> host_;
  std::shared_ptr<cuda::Chunk> inputs_;
  std::size_t input_at_ = 0;
  std::optional<ControlSocket> socket_;
  std::optional<StubProcess> process_;
  std::unique_ptr<Channel> channel_;
  std::thread control_;
  std::uint64_t next_batch_ = 1;
  std::int64_t shape_[1] = {kBytes};

  std::mutex mutex_;  // guards what follows
  std::condition_variable came_;
  std::map<SegmentId, std::shared_ptr<cuda::Chunk>> chunks_;
  std::optional<std::string> loaded_;  // what Load was answered
  std::vector<SeenAnswer> answers_;
  std::vector<SeenRelease> released_;
};

}  // namespace tensorferry::server
