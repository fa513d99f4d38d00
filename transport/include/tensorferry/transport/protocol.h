// THE WIRE FORMAT. Everything that one process writes and another reads is defined here and nowhere
// else; docs/protocol.md says the same in prose, tests/transport/golden/ pins the bytes.
//
// Words: a *segment* is a sealed memfd, named by a number that the server issued and never reuses.
// A *lease* is the right to a byte range of somebody else's arena, named by a number that the
// arena's owner issued. A *record* is one message in the ring. A *control message* is one datagram
// on the control socket.
//
// Encoding (codec.h): fields in the order of `fields()`; integers little-endian and unpadded; bool
// and enums one byte; text and byte strings as a 4-byte length and the bytes; lists as a 4-byte
// count and the elements. Every message begins with its kind in the record's or datagram's header.
//
// Message structs hold views: what they point at belongs to the sender before encoding, and to the
// Scratch given to decode() afterwards.
//
// To add a field: one line here, one where it is filled, one where it is used, one golden file, one
// line in docs/protocol.md, and kProtocolVersion + 1.
#pragma once

#include <tensorferry/transport/device.h>
#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/error.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <tuple>

namespace tensorferry::protocol {

inline constexpr std::uint32_t kMagic = 0x59524654;  // "TFRY" in memory order
inline constexpr std::uint32_t kProtocolVersion = 3;

// Limits: a message that exceeds one is refused whole.
inline constexpr std::size_t kMaxRank = 64;
inline constexpr std::size_t kMaxNameBytes = 4096;                  // names, keys, ids
inline constexpr std::size_t kMaxTextBytes = 16 << 20;              // errors, configs, JSON
inline constexpr std::size_t kMaxListItems = 1 << 20;               // any list of a message
inline constexpr std::size_t kMaxBodyBytes = std::size_t{1} << 30;  // a spilled record's body
inline constexpr std::size_t kMaxControlBytes = 128
                                                << 10;  // one datagram; longer text is cut in parts
// A tensor of fewer bytes travels inside its message; one of this many or more lies in an arena.
inline constexpr std::size_t kInlineBelowBytes = 4096;
inline constexpr std::size_t kUuidBytes = 16;    // of a GPU
inline constexpr std::size_t kHandleBytes = 64;  // of what the driver exports: memory, an event

// ---------------------------------------------------------------------------------------- the ring
// Two of these lie in the ring segment, each followed by its data:
//
//   0            | RingHeader of server -> stub
//   kRingDataAt  | data, `capacity` bytes
//   then the same again for stub -> server, at kRingDataAt + capacity
//
// `tail` counts bytes ever written, `head` bytes ever read; both only grow. A record is an 8-byte
// RecordHeader and its body, padded to 8 bytes, and never wraps: a Pad record fills the end.
enum class Sleeper : std::uint32_t {
  None = 0,        // somebody reads, or is about to
  Foreground = 1,  // a thread that waits for a message sleeps on wake_foreground
  Background = 2,  // nobody waits; a thread sleeps on wake_background and wants urgent records only
};

struct RingHeader {
  alignas(128) std::atomic<std::uint64_t> tail;  // written by the producer
  std::atomic<std::uint32_t> space_sleeper;      // 1: the producer sleeps on wake_space
  std::atomic<std::uint32_t> wake_space;         // futex word
  alignas(128) std::atomic<std::uint64_t> head;  // written by the consumer
  std::atomic<Sleeper> sleeper;
  std::atomic<std::uint32_t> wake_foreground;  // futex word
  std::atomic<std::uint32_t> wake_background;  // futex word
};
static_assert(sizeof(RingHeader) == 256 && std::atomic<std::uint64_t>::is_always_lock_free);
inline constexpr std::size_t kRingDataAt = 256;
inline constexpr std::size_t kRingAlignment = 8;

enum class RecordKind : std::uint16_t {
  Pad = 0,        // skip it
  Execute = 1,    // server -> stub
  Cancel = 2,     // server -> stub
  Release = 3,    // both: leases that the sender gives back
  Responses = 4,  // stub -> server
  User = 64,      // bare transport: the tensors of one send()
};

struct RecordHeader {
  std::uint32_t body_bytes = 0;
  RecordKind kind = RecordKind::Pad;
  std::uint16_t spilled = 0;  // 1: the body is a Spill that says where the real one lies
};
static_assert(sizeof(RecordHeader) == 8);

// -------------------------------------------------------------------------------- memory, tensors
enum class MemoryKind : std::uint8_t {
  Inline = 0,       // the bytes are TensorRecord::inline_bytes
  Segment = 1,      // `bytes` bytes at `offset` of segment `place`, under `lease`
  DeviceChunk = 2,  // the same in device chunk `place`
};
// A tensor of a device that lies inline or in a segment is staged: whoever gets it brings it there.

struct MemoryRef {
  MemoryKind kind = MemoryKind::Inline;
  std::uint32_t place = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t lease = 0;
  static constexpr auto fields() {
    return std::tuple(&MemoryRef::kind, &MemoryRef::place, &MemoryRef::offset, &MemoryRef::bytes,
                      &MemoryRef::lease);
  }
};

struct TensorRecord {
  std::string_view name;
  DType dtype;
  Device device;
  std::span<const std::int64_t> shape;
  std::span<const std::int64_t> strides;  // in elements; empty: C order
  MemoryRef memory;
  std::span<const std::byte> inline_bytes;
  static constexpr auto fields() {
    return std::tuple(&TensorRecord::name, &TensorRecord::dtype, &TensorRecord::device,
                      &TensorRecord::shape, &TensorRecord::strides, &TensorRecord::memory,
                      &TensorRecord::inline_bytes);
  }
};

// An event in one of the two rings that the server made for a stub and a device (DeviceOffer): who
// sends the message recorded it in the ring that is its own. It says when device memory may be
// touched; one per message, device and stream. `generation` tells apart the uses of one slot.
// In the bare transport each end has one ring, which the other one made.
struct EventSlot {
  Device device;
  std::uint32_t slot = 0;
  std::uint64_t generation = 0;
  static constexpr auto fields() {
    return std::tuple(&EventSlot::device, &EventSlot::slot, &EventSlot::generation);
  }
};

struct LeaseRelease {
  std::uint64_t lease = 0;
  std::span<const EventSlot> after;  // device memory: the last use is over when these are
  static constexpr auto fields() { return std::tuple(&LeaseRelease::lease, &LeaseRelease::after); }
};

struct Spill {
  MemoryRef body;
  static constexpr auto fields() { return std::tuple(&Spill::body); }
};

// --------------------------------------------------------------------------------- ring messages
enum class ParameterKind : std::uint8_t { Int = 0, Bool = 1, Double = 2, String = 3 };

struct Parameter {
  std::string_view key;
  ParameterKind kind = ParameterKind::Int;
  std::int64_t integer = 0;  // Int; Bool as 0 or 1
  double number = 0;
  std::string_view text;
  static constexpr auto fields() {
    return std::tuple(&Parameter::key, &Parameter::kind, &Parameter::integer, &Parameter::number,
                      &Parameter::text);
  }
};

struct RequestRecord {
  std::uint64_t request = 0;  // the server's number for it: what answers and cancellations name
  std::string_view id;        // the client's
  std::uint64_t correlation = 0;
  std::string_view correlation_text;  // used instead of the number when not empty
  std::uint32_t flags = 0;            // TRITONSERVER_REQUEST_FLAG_*
  std::uint64_t timeout_us = 0;
  std::uint64_t priority = 0;
  std::string_view trace_context;
  std::span<const Parameter> parameters;
  std::span<const std::string_view> requested_outputs;
  std::span<const TensorRecord> inputs;
  static constexpr auto fields() {
    return std::tuple(&RequestRecord::request, &RequestRecord::id, &RequestRecord::correlation,
                      &RequestRecord::correlation_text, &RequestRecord::flags,
                      &RequestRecord::timeout_us, &RequestRecord::priority,
                      &RequestRecord::trace_context, &RequestRecord::parameters,
                      &RequestRecord::requested_outputs, &RequestRecord::inputs);
  }
};

// One call of the model's execute().
struct Execute {
  static constexpr auto kKind = RecordKind::Execute;
  std::uint64_t batch = 0;
  std::span<const RequestRecord> requests;
  std::span<const EventSlot> ready;  // device inputs: theirs when these are
  std::span<const LeaseRelease> releases;
  std::span<const EventSlot> seen = {};  // of the stub's ring: complete, free again
  static constexpr auto fields() {
    return std::tuple(&Execute::batch, &Execute::requests, &Execute::ready, &Execute::releases,
                      &Execute::seen);
  }
};

struct Cancel {
  static constexpr auto kKind = RecordKind::Cancel;
  std::uint64_t request = 0;
  static constexpr auto fields() { return std::tuple(&Cancel::request); }
};

struct Release {
  static constexpr auto kKind = RecordKind::Release;
  std::span<const LeaseRelease> releases;
  std::span<const EventSlot> seen = {};  // of the receiver's ring: complete, free again
  static constexpr auto fields() { return std::tuple(&Release::releases, &Release::seen); }
};

inline constexpr std::uint32_t kResponseFinal = 1;  // nothing more comes for this request

struct ResponseRecord {
  std::uint64_t request = 0;
  std::uint32_t flags = 0;
  bool empty = false;  // flags only: there is no response in this record
  bool failed = false;
  ErrorCode code = ErrorCode::Internal;
  std::string_view error;
  std::span<const Parameter> parameters;
  std::span<const TensorRecord> outputs;
  static constexpr auto fields() {
    return std::tuple(&ResponseRecord::request, &ResponseRecord::flags, &ResponseRecord::empty,
                      &ResponseRecord::failed, &ResponseRecord::code, &ResponseRecord::error,
                      &ResponseRecord::parameters, &ResponseRecord::outputs);
  }
};

// Answers: all of a batch when execute() returned, or single ones that a sender sent.
struct Responses {
  static constexpr auto kKind = RecordKind::Responses;
  std::uint64_t batch = 0;
  bool batch_done = false;  // execute() has returned: the instance is free for the next batch
  std::span<const ResponseRecord> responses;
  std::span<const EventSlot> ready;
  std::span<const LeaseRelease> releases;
  std::uint64_t execute_ns = 0;    // how long execute() ran, when batch_done
  std::uint64_t copied_bytes = 0;  // payload that the stub copied for this message
  static constexpr auto fields() {
    return std::tuple(&Responses::batch, &Responses::batch_done, &Responses::responses,
                      &Responses::ready, &Responses::releases, &Responses::execute_ns,
                      &Responses::copied_bytes);
  }
};

// Bare transport: what one send() carries.
struct UserMessage {
  static constexpr auto kKind = RecordKind::User;
  std::uint64_t tag = 0;
  std::span<const TensorRecord> tensors;
  std::span<const LeaseRelease> releases;
  std::span<const EventSlot> ready = {};  // device tensors: the receiver's when these are complete
  std::span<const EventSlot> seen = {};   // of the receiver's ring: complete, free again
  static constexpr auto fields() {
    return std::tuple(&UserMessage::tag, &UserMessage::tensors, &UserMessage::releases,
                      &UserMessage::ready, &UserMessage::seen);
  }
};

// ------------------------------------------------------------------------------ control messages
enum class ControlKind : std::uint16_t {
  Hello = 1,
  Welcome = 2,
  Segment = 3,
  SegmentRequest = 4,
  SegmentDenied = 5,
  SegmentDropped = 6,
  AutoComplete = 7,
  Load = 8,
  Reply = 9,
  Finalize = 10,
  Log = 11,
  Trim = 12,
  DeviceOffer = 13,
  DeviceSegment = 14,
  ReadDevice = 15,
  DeviceRead = 16,
  DeviceRequest = 17,
  DeviceRefused = 18,
  ProbeReport = 19,
  ProbeStep = 20,
};

struct ControlHeader {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kProtocolVersion;
  ControlKind kind = ControlKind::Hello;
};
static_assert(sizeof(ControlHeader) == 8);

// Stub -> server, the first words. The header's magic and version are compared before anything
// else.
struct Hello {
  static constexpr auto kKind = ControlKind::Hello;
  std::string_view build_id;
  std::int64_t pid = 0;             // as the stub sees itself
  std::string_view implementation;  // "cpython"
  std::string_view version;         // "3.11.7"
  std::string_view executable;
  static constexpr auto fields() {
    return std::tuple(&Hello::build_id, &Hello::pid, &Hello::implementation, &Hello::version,
                      &Hello::executable);
  }
};

// Server -> stub, with the ring segment's descriptor. Sizes in bytes.
struct Welcome {
  static constexpr auto kKind = ControlKind::Welcome;
  std::string_view build_id;
  std::string_view instance;
  std::uint64_t ring_capacity = 0;  // of one direction
  std::uint64_t arena_initial_bytes = 0;
  std::uint64_t arena_growth_bytes = 0;
  std::uint64_t arena_max_bytes = 0;
  static constexpr auto fields() {
    return std::tuple(&Welcome::build_id, &Welcome::instance, &Welcome::ring_capacity,
                      &Welcome::arena_initial_bytes, &Welcome::arena_growth_bytes,
                      &Welcome::arena_max_bytes);
  }
};

enum class SegmentRole : std::uint8_t {
  Host = 0,  // the server's arena of this model: the stub reads and writes what it holds leases on
  Stub = 1,  // the stub's own arena
};

// Server -> stub, with the segment's descriptor.
struct Segment {
  static constexpr auto kKind = ControlKind::Segment;
  std::uint32_t segment = 0;
  SegmentRole role = SegmentRole::Host;
  std::uint64_t bytes = 0;
  std::uint64_t reply_to = 0;  // the SegmentRequest's number, or 0
  static constexpr auto fields() {
    return std::tuple(&Segment::segment, &Segment::role, &Segment::bytes, &Segment::reply_to);
  }
};

// Stub -> server: its arena on that device needs one more segment of `bytes`.
struct SegmentRequest {
  static constexpr auto kKind = ControlKind::SegmentRequest;
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;
  Device device = {};
  static constexpr auto fields() {
    return std::tuple(&SegmentRequest::number, &SegmentRequest::bytes, &SegmentRequest::device);
  }
};

struct SegmentDenied {
  static constexpr auto kKind = ControlKind::SegmentDenied;
  std::uint64_t reply_to = 0;
  ErrorCode code = ErrorCode::OutOfSharedMemory;
  std::string_view error;
  static constexpr auto fields() {
    return std::tuple(&SegmentDenied::reply_to, &SegmentDenied::code, &SegmentDenied::error);
  }
};

// The arena's owner says that a segment is no longer used: unmap it.
struct SegmentDropped {
  static constexpr auto kKind = ControlKind::SegmentDropped;
  std::uint32_t segment = 0;
  static constexpr auto fields() { return std::tuple(&SegmentDropped::segment); }
};

// Server -> stub: import the model, call its auto_complete_config; answered by Reply with the
// config.
struct AutoComplete {
  static constexpr auto kKind = ControlKind::AutoComplete;
  std::string_view model_path;  // of model.py
  std::string_view config;      // JSON
  static constexpr auto fields() {
    return std::tuple(&AutoComplete::model_path, &AutoComplete::config);
  }
};

// Server -> stub: import the model, initialize it; answered by Reply.
struct Load {
  static constexpr auto kKind = ControlKind::Load;
  std::string_view model_path;
  std::string_view args;  // JSON object of strings: initialize()'s argument
  static constexpr auto fields() { return std::tuple(&Load::model_path, &Load::args); }
};

// Stub -> server: how AutoComplete, Load or Finalize went. Long text comes in parts, all but the
// last with `more`.
struct Reply {
  static constexpr auto kKind = ControlKind::Reply;
  ControlKind to = ControlKind::Load;
  bool more = false;
  bool failed = false;
  ErrorCode code = ErrorCode::Internal;
  std::string_view text;  // the error, or the result
  static constexpr auto fields() {
    return std::tuple(&Reply::to, &Reply::more, &Reply::failed, &Reply::code, &Reply::text);
  }
};

// Server -> stub: finish what came before it, call finalize(), answer by Reply, exit.
struct Finalize {
  static constexpr auto kKind = ControlKind::Finalize;
  static constexpr auto fields() { return std::tuple<>(); }
};

enum class LogLevel : std::uint8_t { Verbose = 0, Info = 1, Warning = 2, Error = 3 };

struct Log {
  static constexpr auto kKind = ControlKind::Log;
  LogLevel level = LogLevel::Info;
  std::string_view file;
  std::uint32_t line = 0;
  std::string_view text;
  static constexpr auto fields() {
    return std::tuple(&Log::level, &Log::file, &Log::line, &Log::text);
  }
};

// Stub -> server: the model made a tensor on this device; answered by DeviceOffer, or by
// SegmentDenied.
struct DeviceRequest {
  static constexpr auto kKind = ControlKind::DeviceRequest;
  std::uint64_t number = 0;
  std::string_view uuid;  // kUuidBytes
  static constexpr auto fields() {
    return std::tuple(&DeviceRequest::number, &DeviceRequest::uuid);
  }
};

// Server -> stub, before anything of that device is named: what `Device::id` = device.id stands for
// in every message from here on. Ordinals differ between processes, so that a GPU goes by its UUID.
// The events are the server's, which lives longer: the stub opens and never destroys them.
//
// Bare transport: each end, before it names the device or when the other one has offered it, with a
// pidfd of its process. `from_stub` are the events that the receiver records; the rest is empty.
struct DeviceOffer {
  static constexpr auto kKind = ControlKind::DeviceOffer;
  Device device;
  std::string_view uuid;                        // kUuidBytes
  std::span<const std::string_view> to_stub;    // kHandleBytes each: the server records these
  std::span<const std::string_view> from_stub;  // and the stub these
  std::uint64_t arena_initial_bytes = 0;        // of the stub's arena there
  std::uint64_t arena_growth_bytes = 0;
  std::uint64_t arena_max_bytes = 0;
  std::uint8_t rung = 0;  // cuda/rung.h: how tensors cross; without events there are none above
  bool probe = false;     // the stub reports before it touches the device: see ProbeReport
  static constexpr auto fields() {
    return std::tuple(&DeviceOffer::device, &DeviceOffer::uuid, &DeviceOffer::to_stub,
                      &DeviceOffer::from_stub, &DeviceOffer::arena_initial_bytes,
                      &DeviceOffer::arena_growth_bytes, &DeviceOffer::arena_max_bytes,
                      &DeviceOffer::rung, &DeviceOffer::probe);
  }
};

// Bare transport: the answer to an offer. What is sent of that device can't be received here.
struct DeviceRefused {
  static constexpr auto kKind = ControlKind::DeviceRefused;
  std::string_view uuid;  // kUuidBytes
  ErrorCode code = ErrorCode::Unsupported;
  std::string_view error;
  static constexpr auto fields() {
    return std::tuple(&DeviceRefused::uuid, &DeviceRefused::code, &DeviceRefused::error);
  }
};

// Server -> stub: a segment in device memory, with its descriptor (VMM) or its handle (legacy IPC).
struct DeviceSegment {
  static constexpr auto kKind = ControlKind::DeviceSegment;
  std::uint32_t segment = 0;
  SegmentRole role = SegmentRole::Host;
  Device device;
  std::uint64_t bytes = 0;
  std::uint64_t reply_to = 0;  // the SegmentRequest's number, or 0
  std::string_view handle;     // kHandleBytes, or empty: a descriptor came
  static constexpr auto fields() {
    return std::tuple(&DeviceSegment::segment, &DeviceSegment::role, &DeviceSegment::device,
                      &DeviceSegment::bytes, &DeviceSegment::reply_to, &DeviceSegment::handle);
  }
};

// Stub -> server: copy this range, of a lease that the stub holds, to memory that the CPU can read.
// So a model that wants NumPy of a device tensor needs no CUDA context of its own.
struct ReadDevice {
  static constexpr auto kKind = ControlKind::ReadDevice;
  std::uint64_t number = 0;
  MemoryRef memory;
  static constexpr auto fields() { return std::tuple(&ReadDevice::number, &ReadDevice::memory); }
};

// Server -> stub: where the copy lies, lent to the stub; or why there is none.
struct DeviceRead {
  static constexpr auto kKind = ControlKind::DeviceRead;
  std::uint64_t reply_to = 0;
  MemoryRef memory;
  bool failed = false;
  ErrorCode code = ErrorCode::Internal;
  std::string_view error;
  static constexpr auto fields() {
    return std::tuple(&DeviceRead::reply_to, &DeviceRead::memory, &DeviceRead::failed,
                      &DeviceRead::code, &DeviceRead::error);
  }
};

// Stub -> server, when its model first touches an offered device, and after each rung that it has
// tried: what it saw. Answered by ProbeStep.
struct ProbeReport {
  static constexpr auto kKind = ControlKind::ProbeReport;
  std::uint64_t number = 0;
  Device device;
  bool tried = false;  // false: it asks what to try first, and says nothing else
  bool failed = false;
  std::string_view error;
  std::uint64_t seen = 0;  // cuda/probe.h: the checksum of what was read, and the seed of what was
  std::uint64_t seed = 0;  // written; `done` is event 0 of the stub's ring
  static constexpr auto fields() {
    return std::tuple(&ProbeReport::number, &ProbeReport::device, &ProbeReport::tried,
                      &ProbeReport::failed, &ProbeReport::error, &ProbeReport::seen,
                      &ProbeReport::seed);
  }
};

// Server -> stub: the rung to try, with the chunk to try it on (a descriptor, or its handle); or
// the one that is chosen, with none.
struct ProbeStep {
  static constexpr auto kKind = ControlKind::ProbeStep;
  std::uint64_t reply_to = 0;
  std::uint8_t rung = 0;
  bool chosen = false;
  std::uint32_t slot = 0;  // of the server's ring: what it wrote there is there after this event
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;       // of the chunk
  std::string_view handle = {};  // kHandleBytes, or empty: a descriptor came
  static constexpr auto fields() {
    return std::tuple(&ProbeStep::reply_to, &ProbeStep::rung, &ProbeStep::chosen, &ProbeStep::slot,
                      &ProbeStep::offset, &ProbeStep::bytes, &ProbeStep::handle);
  }
};

// Server -> stub: give idle memory back.
struct Trim {
  static constexpr auto kKind = ControlKind::Trim;
  static constexpr auto fields() { return std::tuple<>(); }
};

}  // namespace tensorferry::protocol
