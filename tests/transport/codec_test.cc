#include <gtest/gtest.h>
#include <tensorferry/transport/codec.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace tensorferry {
namespace {

// One representative of the messages that carry most, with every field set.
struct Samples {
  std::int64_t shape[2] = {2, 3};
  std::byte payload[24] = {std::byte{1}, std::byte{2}};
  protocol::EventSlot event{{DeviceKind::Cuda, 1}, 5, 9};
  protocol::TensorRecord tensors[2];
  protocol::Parameter parameter{"key", protocol::ParameterKind::String, 0, 0.5, "text"};
  std::string_view output = "OUT";
  protocol::RequestRecord request;
  protocol::ResponseRecord response;
  protocol::LeaseRelease release;
  protocol::Execute execute;
  protocol::Responses responses;

  Samples() {
    tensors[0] = {"IN",   kFloat32, {}, shape, {}, {protocol::MemoryKind::Inline, 0, 0, 24, 0},
                  payload};
    tensors[1] = {"BIG", kFloat32, {}, shape, {}, {protocol::MemoryKind::Segment, 7, 4096, 24, 11},
                  {}};
    release = {3, std::span(&event, 1)};
    request.request = 1;
    request.id = "r";
    request.correlation = 2;
    request.correlation_text = "c";
    request.flags = 3;
    request.timeout_us = 4;
    request.priority = 5;
    request.trace_context = "t";
    request.parameters = std::span(&parameter, 1);
    request.requested_outputs = std::span(&output, 1);
    request.inputs = tensors;
    execute = {42, std::span(&request, 1), std::span(&event, 1), std::span(&release, 1)};
    response.request = 1;
    response.flags = protocol::kResponseFinal;
    response.failed = true;
    response.code = ErrorCode::Unavailable;
    response.error = "no";
    response.outputs = tensors;
    responses = {42, true, std::span(&response, 1), {}, std::span(&release, 1), 1000, 24};
  }
};

template <class Message>
std::vector<std::byte> bytes_of(const Message& message) {
  std::vector<std::byte> bytes(encoded_bytes(message));
  EXPECT_EQ(encode(message, bytes), bytes.size());
  return bytes;
}

TEST(Codec, AMessageSurvivesTheRoundTrip) {
  Samples samples;
  Scratch scratch;
  auto execute = decode<protocol::Execute>(bytes_of(samples.execute), scratch);
  ASSERT_TRUE(execute) << execute.error().message;
  EXPECT_EQ(execute->batch, 42u);
  EXPECT_EQ(execute->requests[0].inputs[1].memory.lease, 11u);
  EXPECT_EQ(execute->requests[0].parameters[0].text, "text");
  EXPECT_EQ(execute->releases[0].after[0].slot, 5u);
  EXPECT_EQ(bytes_of(*execute), bytes_of(samples.execute));
  Scratch other;
  auto responses = decode<protocol::Responses>(bytes_of(samples.responses), other);
  ASSERT_TRUE(responses) << responses.error().message;
  EXPECT_EQ(bytes_of(*responses), bytes_of(samples.responses));
}

TEST(Codec, EveryTruncationIsAnError) {
  Samples samples;
  auto bytes = bytes_of(samples.execute);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Scratch scratch;
    auto message = decode<protocol::Execute>(std::span(bytes).first(size), scratch);
    ASSERT_FALSE(message) << size;
    EXPECT_EQ(message.error().code, ErrorCode::Protocol);
  }
  bytes.push_back({});
  Scratch scratch;
  EXPECT_FALSE(decode<protocol::Execute>(bytes, scratch)) << "bytes left over";
}

TEST(Codec, EveryChangedByteIsAnErrorOrAnotherMessage) {
  Samples samples;
  const auto good = bytes_of(samples.responses);
  std::mt19937 random(1);
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int change = 0; change < 8; ++change) {
      auto bytes = good;
      bytes[at] ^= static_cast<std::byte>(1u << change);
      Scratch scratch;
      auto message = decode<protocol::Responses>(bytes, scratch);
      if (message) {
        EXPECT_EQ(bytes_of(*message), bytes) << at;
      }
    }
  }
}

TEST(Codec, DecodingAllocatesNothingOnceWarm) {
  Samples samples;
  auto bytes = bytes_of(samples.execute);
  Scratch scratch;
  ASSERT_TRUE(decode<protocol::Execute>(bytes, scratch));
  std::size_t blocks = scratch.heap_blocks();
  for (int i = 0; i < 100; ++i) {
    scratch.reset();
    ASSERT_TRUE(decode<protocol::Execute>(bytes, scratch));
  }
  EXPECT_EQ(scratch.heap_blocks(), blocks);
}

TEST(Codec, TensorsThatContradictThemselvesAreRefused) {
  std::int64_t shape[2] = {2, 3};
  protocol::TensorRecord tensor{
      "T", kFloat32, {}, shape, {}, {protocol::MemoryKind::Segment, 1, 0, 24, 1}, {}};
  EXPECT_TRUE(validate(tensor));
  tensor.memory.bytes = 20;
  EXPECT_FALSE(validate(tensor));
  std::int64_t negative[1] = {-1};
  tensor.shape = negative;
  EXPECT_FALSE(validate(tensor));
  std::int64_t huge[3] = {INT64_MAX, INT64_MAX, 2};
  tensor.shape = huge;
  EXPECT_FALSE(validate(tensor));
  std::int64_t strides[2] = {100, 1};
  tensor.shape = shape;
  tensor.strides = strides;
  tensor.memory.bytes = 24;
  EXPECT_FALSE(validate(tensor)) << "strides leave the bytes";
}

// TENSORFERRY_WRITE_GOLDEN=1 writes them anew; a change of them is a change of the protocol's
// version.
template <class Message>
void expect_golden(const Message& message, const std::string& name) {
  std::string path = std::string(TENSORFERRY_TEST_DIR) + "/transport/golden/" + name + ".bin";
  auto bytes = bytes_of(message);
  if (std::getenv("TENSORFERRY_WRITE_GOLDEN")) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::ifstream file(path, std::ios::binary);
  std::string golden{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), golden) << name;
}

TEST(Golden, TheBytesOfEveryMessageArePinned) {
  Samples samples;
  expect_golden(samples.execute, "execute");
  expect_golden(samples.responses, "responses");
  expect_golden(protocol::Cancel{7}, "cancel");
  expect_golden(protocol::Release{std::span(&samples.release, 1)}, "release");
  expect_golden(protocol::UserMessage{1, samples.tensors, std::span(&samples.release, 1)},
                "user_message");
  expect_golden(protocol::Spill{{protocol::MemoryKind::Segment, 1, 2, 3, 4}}, "spill");
  expect_golden(protocol::Hello{"b", 1, "cpython", "3.11", "/python"}, "hello");
  expect_golden(protocol::Welcome{"b", "m_0_0", 1, 2, 3, 4}, "welcome");
  expect_golden(protocol::Segment{1, protocol::SegmentRole::Stub, 2, 3}, "segment");
  expect_golden(protocol::SegmentRequest{1, 2}, "segment_request");
  expect_golden(protocol::SegmentDenied{1, ErrorCode::OutOfSharedMemory, "full"}, "segment_denied");
  expect_golden(protocol::SegmentDropped{1}, "segment_dropped");
  expect_golden(protocol::AutoComplete{"p", "{}"}, "auto_complete");
  expect_golden(protocol::Load{"p", "{}"}, "load");
  expect_golden(protocol::Reply{protocol::ControlKind::Load, false, true, ErrorCode::Internal, "t"},
                "reply");
  expect_golden(protocol::Finalize{}, "finalize");
  expect_golden(protocol::Log{protocol::LogLevel::Warning, "f", 3, "t"}, "log");
  expect_golden(protocol::Trim{}, "trim");
}

}  // namespace
}  // namespace tensorferry
