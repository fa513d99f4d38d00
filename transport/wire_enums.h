// Which values of the protocol's enums are known, and what its messages are called in errors.
#pragma once

#include <tensorferry/transport/protocol.h>

#include <string_view>

namespace tensorferry {

// Switches without a default: the compiler notices an enumerator that is missing here.
constexpr bool is_known(protocol::MemoryKind value) {
  switch (value) {
    case protocol::MemoryKind::Inline:
    case protocol::MemoryKind::Segment:
    case protocol::MemoryKind::DeviceChunk:
      return true;
  }
  return false;
}
constexpr bool is_known(protocol::ParameterKind value) {
  switch (value) {
    case protocol::ParameterKind::Int:
    case protocol::ParameterKind::Bool:
    case protocol::ParameterKind::Double:
    case protocol::ParameterKind::String:
      return true;
  }
  return false;
}
constexpr bool is_known(protocol::SegmentRole value) {
  switch (value) {
    case protocol::SegmentRole::Host:
    case protocol::SegmentRole::Stub:
      return true;
  }
  return false;
}
constexpr bool is_known(protocol::LogLevel value) {
  switch (value) {
    case protocol::LogLevel::Verbose:
    case protocol::LogLevel::Info:
    case protocol::LogLevel::Warning:
    case protocol::LogLevel::Error:
      return true;
  }
  return false;
}
constexpr bool is_known(protocol::RecordKind value) {
  switch (value) {
    case protocol::RecordKind::Pad:
    case protocol::RecordKind::Execute:
    case protocol::RecordKind::Cancel:
    case protocol::RecordKind::Release:
    case protocol::RecordKind::Responses:
    case protocol::RecordKind::User:
      return true;
  }
  return false;
}
constexpr bool is_known(protocol::ControlKind value) {
  switch (value) {
    case protocol::ControlKind::Hello:
    case protocol::ControlKind::Welcome:
    case protocol::ControlKind::Segment:
    case protocol::ControlKind::SegmentRequest:
    case protocol::ControlKind::SegmentDenied:
    case protocol::ControlKind::SegmentDropped:
    case protocol::ControlKind::AutoComplete:
    case protocol::ControlKind::Load:
    case protocol::ControlKind::Reply:
    case protocol::ControlKind::Finalize:
    case protocol::ControlKind::Log:
    case protocol::ControlKind::Trim:
    case protocol::ControlKind::DeviceOffer:
    case protocol::ControlKind::DeviceSegment:
    case protocol::ControlKind::ReadDevice:
    case protocol::ControlKind::DeviceRead:
    case protocol::ControlKind::DeviceRequest:
    case protocol::ControlKind::DeviceRefused:
    case protocol::ControlKind::ProbeReport:
    case protocol::ControlKind::ProbeStep:
      return true;
  }
  return false;
}
constexpr bool is_known(DeviceKind value) {
  return is_device_kind(static_cast<std::uint8_t>(value));
}
inline bool is_known(ErrorCode value) { return is_error_code(static_cast<std::uint8_t>(value)); }

template <class Message>
constexpr std::string_view name_of();
template <>
constexpr std::string_view name_of<protocol::Spill>() {
  return "Spill";
}
template <>
constexpr std::string_view name_of<protocol::Execute>() {
  return "Execute";
}
template <>
constexpr std::string_view name_of<protocol::Cancel>() {
  return "Cancel";
}
template <>
constexpr std::string_view name_of<protocol::Release>() {
  return "Release";
}
template <>
constexpr std::string_view name_of<protocol::Responses>() {
  return "Responses";
}
template <>
constexpr std::string_view name_of<protocol::UserMessage>() {
  return "UserMessage";
}
template <>
constexpr std::string_view name_of<protocol::Hello>() {
  return "Hello";
}
template <>
constexpr std::string_view name_of<protocol::Welcome>() {
  return "Welcome";
}
template <>
constexpr std::string_view name_of<protocol::Segment>() {
  return "Segment";
}
template <>
constexpr std::string_view name_of<protocol::SegmentRequest>() {
  return "SegmentRequest";
}
template <>
constexpr std::string_view name_of<protocol::SegmentDenied>() {
  return "SegmentDenied";
}
template <>
constexpr std::string_view name_of<protocol::SegmentDropped>() {
  return "SegmentDropped";
}
template <>
constexpr std::string_view name_of<protocol::AutoComplete>() {
  return "AutoComplete";
}
template <>
constexpr std::string_view name_of<protocol::Load>() {
  return "Load";
}
template <>
constexpr std::string_view name_of<protocol::Reply>() {
  return "Reply";
}
template <>
constexpr std::string_view name_of<protocol::Finalize>() {
  return "Finalize";
}
template <>
constexpr std::string_view name_of<protocol::Log>() {
  return "Log";
}
template <>
constexpr std::string_view name_of<protocol::Trim>() {
  return "Trim";
}
template <>
constexpr std::string_view name_of<protocol::DeviceOffer>() {
  return "DeviceOffer";
}
template <>
constexpr std::string_view name_of<protocol::DeviceSegment>() {
  return "DeviceSegment";
}
template <>
constexpr std::string_view name_of<protocol::ReadDevice>() {
  return "ReadDevice";
}
template <>
constexpr std::string_view name_of<protocol::DeviceRead>() {
  return "DeviceRead";
}
template <>
constexpr std::string_view name_of<protocol::DeviceRequest>() {
  return "DeviceRequest";
}
template <>
constexpr std::string_view name_of<protocol::DeviceRefused>() {
  return "DeviceRefused";
}
template <>
constexpr std::string_view name_of<protocol::ProbeReport>() {
  return "ProbeReport";
}
template <>
constexpr std::string_view name_of<protocol::ProbeStep>() {
  return "ProbeStep";
}

}  // namespace tensorferry
