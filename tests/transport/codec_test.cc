#include <gtest/gtest.h>
#include <tensorferry/transport/codec.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "all_messages.h"

namespace tensorferry {
namespace {

// One representative of the messages that carry most, with every field set.
struct Samples {
  std::int64_t shape[2] = {2, 3};
  std::int64_t strides[2] = {4, 1};
  std::byte payload[24] = {std::byte{1}, std::byte{2}};
  protocol::EventSlot event{{DeviceKind::Cuda, 1}, 5, 9};
  protocol::TensorRecord tensors[3];
  protocol::Parameter parameter{"key", protocol::ParameterKind::String, -2, 0.5, "text"};
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
    tensors[2] = {"GPU", kFloat32, {DeviceKind::Cuda, 1},
                  shape, strides,  {protocol::MemoryKind::DeviceChunk, 8, 512, 28, 12},
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
    execute = {42, std::span(&request, 1), std::span(&event, 1), std::span(&release, 1),
               std::span(&event, 1)};
    response.request = 1;
    response.flags = protocol::kResponseFinal;
    response.empty = true;
    response.failed = true;
    response.code = ErrorCode::Unavailable;
    response.error = "no";
    response.parameters = std::span(&parameter, 1);
    response.outputs = tensors;
    responses = {42,   true, std::span(&response, 1), std::span(&event, 1), std::span(&release, 1),
                 1000, 24};
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

TEST(Codec, WhatIsWrittenOverTheBytesAfterwardsChangesNoDecodedMessage) {
  Samples samples;
  const auto pinned = bytes_of(samples.execute);
  auto shared = pinned;
  Scratch scratch;
  auto execute = decode<protocol::Execute>(shared, scratch);
  ASSERT_TRUE(execute) << execute.error().message;
  std::ranges::fill(shared, std::byte{0xFF});
  EXPECT_EQ(bytes_of(*execute), pinned);
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
void expect_golden(std::span<const std::byte> bytes, const std::string& name) {
  std::string path = std::string(TENSORFERRY_TEST_DIR) + "/transport/golden/" + name + ".bin";
  if (std::getenv("TENSORFERRY_WRITE_GOLDEN")) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path << " is not there";
  std::string pinned{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), pinned) << name;
}

// One golden message of each kind: a kind without one does not compile.
template <class Message>
Message golden(const Samples& samples);
template <>
protocol::Execute golden(const Samples& samples) {
  return samples.execute;
}
template <>
protocol::Responses golden(const Samples& samples) {
  return samples.responses;
}
template <>
protocol::Cancel golden(const Samples&) {
  return {7};
}
template <>
protocol::Release golden(const Samples& samples) {
  return {std::span(&samples.release, 1), std::span(&samples.event, 1)};
}
template <>
protocol::UserMessage golden(const Samples& samples) {
  const std::span event(&samples.event, 1);
  return {1, samples.tensors, std::span(&samples.release, 1), event, event};
}
template <>
protocol::Spill golden(const Samples&) {
  return {{protocol::MemoryKind::Segment, 1, 2, 3, 4}};
}
template <>
protocol::Hello golden(const Samples&) {
  return {"b", 1, "cpython", "3.11", "/python"};
}
template <>
protocol::Welcome golden(const Samples&) {
  return {"b", "m_0_0", 1, 2, 3, 4};
}
template <>
protocol::Segment golden(const Samples&) {
  return {1, protocol::SegmentRole::Stub, 2, 3};
}
template <>
protocol::SegmentRequest golden(const Samples&) {
  return {1, 2, {DeviceKind::Cuda, 3}};
}
template <>
protocol::SegmentDenied golden(const Samples&) {
  return {1, ErrorCode::OutOfSharedMemory, "full"};
}
template <>
protocol::SegmentDropped golden(const Samples&) {
  return {1};
}
template <>
protocol::AutoComplete golden(const Samples&) {
  return {"p", "{}"};
}
template <>
protocol::Load golden(const Samples&) {
  return {"p", "{}"};
}
template <>
protocol::Reply golden(const Samples&) {
  return {protocol::ControlKind::Load, false, true, ErrorCode::Internal, "t"};
}
template <>
protocol::Finalize golden(const Samples&) {
  return {};
}
template <>
protocol::Log golden(const Samples&) {
  return {protocol::LogLevel::Warning, "f", 3, "t"};
}
template <>
protocol::Trim golden(const Samples&) {
  return {};
}
template <>
protocol::DeviceOffer golden(const Samples& samples) {
  const std::span<const std::string_view> event(&samples.output, 1);
  return {{DeviceKind::Cuda, 1}, "uuid", event, event, 2, 3, 4, 5, true};
}
template <>
protocol::DeviceSegment golden(const Samples&) {
  return {1, protocol::SegmentRole::Stub, {DeviceKind::Cuda, 2}, 3, 4, "handle"};
}
template <>
protocol::DeviceRequest golden(const Samples&) {
  return {1, "uuid"};
}
template <>
protocol::DeviceRefused golden(const Samples&) {
  return {"uuid", ErrorCode::Unsupported, "no"};
}
template <>
protocol::ProbeReport golden(const Samples&) {
  return {1, {DeviceKind::Cuda, 2}, true, false, "no", 3, 4};
}
template <>
protocol::ProbeStep golden(const Samples&) {
  return {1, 2, true, 3, 4, 5, "handle"};
}
template <>
protocol::ReadDevice golden(const Samples& samples) {
  return {1, samples.tensors[2].memory};
}
template <>
protocol::DeviceRead golden(const Samples& samples) {
  return {1, samples.tensors[1].memory, true, ErrorCode::Unavailable, "no"};
}

// "SegmentRequest" is pinned in segment_request.bin.
std::string file_name(std::string_view name) {
  std::string result;
  for (char letter : name) {
    if (std::isupper(letter) && !result.empty()) result += '_';
    result += static_cast<char>(std::tolower(letter));
  }
  return result;
}

TEST(Golden, TheBytesOfEveryMessageArePinned) {
  Samples samples;
  for_each_message([&]<class Message>() {
    expect_golden(bytes_of(golden<Message>(samples)), file_name(name_of<Message>()));
  });
  const std::filesystem::path folder(std::string(TENSORFERRY_TEST_DIR) + "/transport/golden");
  constexpr std::size_t kHeaders = 3;  // the next tests'
  const auto files = std::distance(std::filesystem::directory_iterator(folder), {});
  EXPECT_EQ(static_cast<std::size_t>(files), kMessageCount + kHeaders) << "a file of no message";
}

// The headers go as they lie in memory.
TEST(Golden, TheBytesOfTheHeadersArePinned) {
  const protocol::ControlHeader control{.kind = protocol::ControlKind::Trim};
  expect_golden(std::as_bytes(std::span(&control, 1)), "control_header");
  const protocol::RecordHeader record{0x01020304, protocol::RecordKind::User, 1};
  expect_golden(std::as_bytes(std::span(&record, 1)), "record_header");
}

TEST(Golden, TheBytesOfTheRingsHeaderArePinned) {
  alignas(protocol::RingHeader) std::byte memory[protocol::kRingDataAt] = {};
  auto& header = *new (memory) protocol::RingHeader;
  header.tail = 0x1112131415161718;
  header.space_sleeper = 1;
  header.wake_space = 0x21222324;
  header.head = 0x3132333435363738;
  header.sleeper = protocol::Sleeper::Background;
  header.wake_foreground = 0x41424344;
  header.wake_background = 0x51525354;
  expect_golden(memory, "ring_header");
}

}  // namespace
}  // namespace tensorferry
