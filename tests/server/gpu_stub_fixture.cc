#include "gpu_stub_fixture.h"

#include <tensorferry/transport/version.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "use_emulator.h"

namespace tensorferry::server {
namespace {

constexpr std::size_t kRing = 64 << 10;
constexpr std::chrono::seconds kPatience{60};

// What a GPU library does, by the driver alone.
constexpr const char* kTiny = R"(
import ctypes

cuda = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()


def call(name, *args):
    code = getattr(cuda, name)(*args)
    assert code == 0, (name, code)


call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxPushCurrent_v2", context)


def new_stream():
    stream = ctypes.c_void_p()
    call("cuStreamCreateWithPriority", ctypes.byref(stream), 1, 0)
    return stream.value


def copy(to, source, count, stream):
    call("cuMemcpyAsync", ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(count), ctypes.c_void_p(stream))


def fill(at, value, count, stream):
    call("cuMemsetD8Async", ctypes.c_uint64(at), ctypes.c_ubyte(value), ctypes.c_size_t(count), ctypes.c_void_p(stream))


class Buffer:
    def __init__(self, shape, stream, strides=None):
        at = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(1 << 20))
        self.at = at.value
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": "|u1", "data": (self.at, False), "strides": strides, "version": 3, "stream": stream,
        }


def take(tensor, stream):
    """The address, and what keeps it."""
    capsule = tensor.__dlpack__(stream=stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.cast(pointer(capsule, b"dltensor"), ctypes.POINTER(ctypes.c_uint64))[0], capsule
)";

constexpr const char* kModel = R"(
import os
import sys

import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import Tensor


def has_cuda():
    return "libcuda" in open("/proc/self/maps").read()


class TritonPythonModel:
    def execute(self, requests):
        tensor = requests[0].inputs()[0]
        del requests
        return [pb_utils.InferenceResponse(self.answer(tensor))]

    def answer(self, tensor):
)";

std::string indented(const std::string& body) {
  std::string text;
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);) text += "        " + line + "\n";
  return text;
}

std::string_view view(const cuda::IpcHandle& handle) {
  return {reinterpret_cast<const char*>(handle.data()), handle.size()};
}

}  // namespace

void GpuStubTest::SetUp() {
  if (!std::getenv("TENSORFERRY_PAYLOAD") || !std::getenv("TENSORFERRY_TEST_PYTHON"))
    GTEST_SKIP() << "the stub's payload is not built in this preset";
  if (!std::getenv("FAKECUDA") && !on_the_machines_driver())
    GTEST_SKIP() << "not on the emulated driver";
  context_ = cuda::PrimaryContext::retain(cuda::device_by_ordinal(0).value()).value();
  stream_.emplace(cuda::Stream::create(context_).value());
}

void GpuStubTest::TearDown() {
  if (socket_) socket_->shutdown();
  if (control_.joinable()) control_.join();
  if (channel_) channel_->close({ErrorCode::Closed, "test over", {}});
  process_.reset();
  std::filesystem::remove_all(folder_);
}

void GpuStubTest::start() {
  auto sockets = ControlSocket::pair().value();
  socket_.emplace(std::move(sockets.first));
  StubCommand command;
  command.interpreter = std::getenv("TENSORFERRY_TEST_PYTHON");
  const std::filesystem::path payload = std::getenv("TENSORFERRY_PAYLOAD");
  command.launcher = payload / "launch.py";
  // A Python without a sanitizer's runtime takes the driver that was built beside its extension.
  const auto driver = payload.parent_path().parent_path().parent_path() / "fake_cuda";
  if (exists(driver / "libcuda.so.1")) ::setenv("LD_LIBRARY_PATH", driver.c_str(), 1);
  process_.emplace(StubProcess::spawn(command, sockets.second.release()).value());
  auto hello = socket_->receive(Clock::now() + kPatience);
  ASSERT_TRUE(hello && *hello);
  auto ring = segments_.create(channel_bytes(kRing)).value();
  protocol::Welcome welcome;
  welcome.build_id = kBuildId;
  welcome.instance = "m_0_0";
  welcome.ring_capacity = kRing;
  welcome.arena_initial_bytes = welcome.arena_growth_bytes = 1 << 20;
  welcome.arena_max_bytes = 16 << 20;
  ASSERT_TRUE(socket_->send(welcome, ring->fd()));
  Channel::Options options;
  options.ring_capacity = kRing;
  channel_ =
      std::make_unique<Channel>(ring, Side::Server, std::move(options),
                                [this](const Received& received) { return on_message(received); });
}

void GpuStubTest::offer(std::size_t events) {
  to_stub_ = cuda::EventRing::create(context_, events).value();
  from_stub_ = cuda::EventRing::create(context_, events).value();
  const auto ours = to_stub_->export_handles().value();
  const auto theirs = from_stub_->export_handles().value();
  std::vector<std::string_view> to_stub, from_stub;
  for (const auto& handle : ours) to_stub.push_back(view(handle));
  for (const auto& handle : theirs) from_stub.push_back(view(handle));
  const auto& uuid = context_->device().uuid.bytes;
  protocol::DeviceOffer message;
  message.device = kDevice;
  message.uuid = {reinterpret_cast<const char*>(uuid.data()), uuid.size()};
  message.to_stub = to_stub;
  message.from_stub = from_stub;
  message.arena_initial_bytes = message.arena_growth_bytes = 2 << 20;
  message.arena_max_bytes = 4 << 20;
  ASSERT_TRUE(socket_->send(message));
  host_ = segments_.create(1 << 20).value();
  ASSERT_TRUE(socket_->send(
      protocol::Segment{host_->id(), protocol::SegmentRole::Host, host_->bytes(), 0}, host_->fd()));
  inputs_ = make_chunk(4 << 20, protocol::SegmentRole::Host, 0);
}

void GpuStubTest::load(const std::string& body, std::size_t events) {
  start();
  if (HasFatalFailure()) return;
  offer(events);
  std::filesystem::create_directories(folder_ / "1");
  std::ofstream(folder_ / "1" / "tiny.py") << kTiny;
  std::ofstream(folder_ / "1" / "model.py") << kModel << indented(body);
  const std::string path = folder_ / "1" / "model.py";
  ASSERT_TRUE(socket_->send(protocol::Load{path, R"({"model_config": "{}"})"}));
  control_ = std::thread([this] { serve(); });
  std::unique_lock lock(mutex_);
  ASSERT_TRUE(came_.wait_for(lock, kPatience, [&] { return loaded_.has_value(); }));
  ASSERT_EQ(*loaded_, "");
}

std::shared_ptr<cuda::Chunk> GpuStubTest::make_chunk(std::size_t bytes, protocol::SegmentRole role,
                                                     std::uint64_t reply_to) {
  auto chunk = cuda::Chunk::create(context_, bytes, cuda::ShareMode::Vmm).value();
  auto handle = chunk->export_handle().value();
  const SegmentId id = next_chunk_++;
  {
    std::scoped_lock lock(mutex_);
    chunks_[id] = chunk;
  }
  EXPECT_TRUE(
      socket_->send(protocol::DeviceSegment{id, role, kDevice, chunk->bytes(), reply_to, {}},
                    std::get<UniqueFd>(handle).get()));
  return chunk;
}

void GpuStubTest::serve() {
  while (true) {
    auto message = socket_->receive({});
    if (!message || !*message) return;
    on_control(std::move(**message));
  }
}

void GpuStubTest::on_control(ControlMessage message) {
  Scratch scratch;
  if (message.kind == protocol::ControlKind::SegmentRequest) {
    auto wanted = decode<protocol::SegmentRequest>(message.body, scratch).value();
    if (wanted.device == kDevice) {
      ++chunks_asked_;
      (void)make_chunk(wanted.bytes, protocol::SegmentRole::Stub, wanted.number);
      return;
    }
    auto segment = segments_.create(wanted.bytes).value();
    (void)socket_->send(protocol::Segment{segment->id(), protocol::SegmentRole::Stub,
                                          segment->bytes(), wanted.number},
                        segment->fd());
  } else if (message.kind == protocol::ControlKind::ReadDevice) {
    read_device(decode<protocol::ReadDevice>(message.body, scratch).value());
  } else if (message.kind == protocol::ControlKind::Reply) {
    auto reply = decode<protocol::Reply>(message.body, scratch).value();
    std::scoped_lock lock(mutex_);
    loaded_ = std::string(reply.text);
    came_.notify_all();
  }
}

cuda::DevicePtr GpuStubTest::at(const protocol::MemoryRef& memory) {
  std::scoped_lock lock(mutex_);
  return chunks_.at(memory.place)->base() + memory.offset;
}

void GpuStubTest::read_device(const protocol::ReadDevice& wanted) {
  ++reads_asked_;
  {
    auto guard = cuda::ContextGuard::enter(*context_);
    ASSERT_TRUE(cuda::copy_async(cuda::device_ptr(host_->data()), at(wanted.memory),
                                 wanted.memory.bytes, stream_->get(), CopyKind::DeviceToHost));
  }
  protocol::DeviceRead answer;
  answer.reply_to = wanted.number;
  answer.memory = {protocol::MemoryKind::Segment, host_->id(), 0, wanted.memory.bytes, 900};
  ASSERT_TRUE(socket_->send(answer));
}

protocol::TensorRecord GpuStubTest::input(std::byte value) {
  const std::vector<std::byte> bytes(kBytes, value);
  auto guard = cuda::ContextGuard::enter(*context_);
  EXPECT_TRUE(cuda::copy_async(inputs_->base() + input_at_, cuda::device_ptr(bytes.data()), kBytes,
                               stream_->get(), CopyKind::HostToDevice));
  protocol::TensorRecord tensor;
  tensor.name = "IN";
  tensor.dtype = kUint8;
  tensor.device = kDevice;
  tensor.shape = shape_;
  tensor.memory = {protocol::MemoryKind::DeviceChunk, 1000, input_at_, kBytes, ++last_lease_};
  input_at_ = (input_at_ + kBytes) % inputs_->bytes();
  return tensor;
}

void GpuStubTest::send(const protocol::TensorRecord& tensor) {
  protocol::RequestRecord request;
  request.request = next_batch_;
  request.inputs = std::span(&tensor, 1);
  const auto slot = to_stub_->take().value();
  {
    auto guard = cuda::ContextGuard::enter(*context_);
    ASSERT_TRUE(cuda::record(*to_stub_->event(slot), stream_->get()));
  }
  const protocol::EventSlot ready{kDevice, slot.index, slot.generation};
  protocol::Execute message;
  message.batch = next_batch_++;
  message.requests = std::span(&request, 1);
  message.ready = std::span(&ready, 1);
  ASSERT_TRUE(channel_->send(message, Urgency::Urgent));
  // Never recorded again while the stub may still wait for it: each test asks less than a ring has.
}

Result<void> GpuStubTest::on_message(const Received& received) {
  auto copied = [](std::span<const protocol::LeaseRelease> all) {
    std::vector<SeenRelease> releases;
    for (const auto& one : all)
      releases.push_back({one.lease, {one.after.begin(), one.after.end()}});
    return releases;
  };
  if (received.kind == protocol::RecordKind::Release) {
    auto release = decode_private<protocol::Release>(received.body, received.scratch).value();
    for (auto& one : copied(release.releases)) released_.push_back(std::move(one));
    return {};
  }
  auto responses = decode_private<protocol::Responses>(received.body, received.scratch).value();
  SeenAnswer seen;
  seen.ready.assign(responses.ready.begin(), responses.ready.end());
  seen.releases = copied(responses.releases);
  for (const auto& response : responses.responses) {
    seen.error = response.error;
    for (const auto& output : response.outputs) {
      seen.outputs.push_back({output.memory,
                              output.device,
                              {output.shape.begin(), output.shape.end()},
                              {output.inline_bytes.begin(), output.inline_bytes.end()}});
    }
  }
  answers_.push_back(std::move(seen));
  return {};
}

SeenAnswer GpuStubTest::answer() {
  const auto limit = Clock::now() + kPatience;
  while (answers_.empty() && Clock::now() < limit) {
    Completion never;
    if (channel_->inbox().wait(never, Clock::now() + std::chrono::milliseconds(1)) ==
        WaitStatus::Failed)
      break;
  }
  if (answers_.empty()) {
    ADD_FAILURE() << "no answer came: " << said();
    return {};
  }
  SeenAnswer first = std::move(answers_.front());
  answers_.erase(answers_.begin());
  return first;
}

std::vector<SeenRelease> GpuStubTest::releases(std::size_t count) {
  const auto limit = Clock::now() + kPatience;
  while (released_.size() < count && Clock::now() < limit) {
    Completion never;
    (void)channel_->inbox().wait(never, Clock::now() + std::chrono::milliseconds(1));
  }
  return std::exchange(released_, {});
}

void GpuStubTest::see(std::span<const protocol::EventSlot> events) {
  for (const auto& event : events) {
    EXPECT_TRUE(cuda::wait_on_host(from_stub_->at(event.slot), cuda::WaitReason::Probe,
                                   Clock::now() + kPatience));
  }
}

void GpuStubTest::overwrite(const protocol::MemoryRef& memory, const SeenRelease& release) {
  see(release.after);
  const std::vector<std::byte> bytes(memory.bytes, std::byte{0xee});
  auto guard = cuda::ContextGuard::enter(*context_);
  EXPECT_TRUE(cuda::copy_async(at(memory), cuda::device_ptr(bytes.data()), bytes.size(),
                               stream_->get(), CopyKind::HostToDevice));
}

std::vector<std::byte> GpuStubTest::read(const SeenAnswer& answer, const SeenOutput& output) {
  see(answer.ready);
  std::vector<std::byte> bytes(output.memory.bytes);
  auto guard = cuda::ContextGuard::enter(*context_);
  EXPECT_TRUE(cuda::copy_async(cuda::device_ptr(bytes.data()), at(output.memory), bytes.size(),
                               stream_->get(), CopyKind::DeviceToHost));
  return bytes;
}

void GpuStubTest::give_back(const SeenAnswer& answer) {
  std::vector<protocol::LeaseRelease> leases;
  for (const auto& output : answer.outputs) {
    if (output.memory.place != 1000) leases.push_back({output.memory.lease, {}});
  }
  protocol::Release message;
  message.releases = leases;
  message.seen = answer.ready;
  ASSERT_TRUE(channel_->send(message));
}

std::string GpuStubTest::said() const {
  char text[16 << 10];
  const ssize_t got = ::read(process_->stderr_fd(), text, sizeof text);
  return {text, static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
}

}  // namespace tensorferry::server
