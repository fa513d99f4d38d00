// Which values of the protocol's enums are known, and what its messages are called in errors.
#pragma once

#include <tensorferry/transport/protocol.h>

#include <string_view>

namespace tensorferry {

constexpr bool is_known(protocol::MemoryKind value) {
  return value <= protocol::MemoryKind::DeviceChunk;
}
constexpr bool is_known(protocol::ParameterKind value) {
  return value <= protocol::ParameterKind::String;
}
constexpr bool is_known(protocol::SegmentRole value) {
  return value <= protocol::SegmentRole::Stub;
}
constexpr bool is_known(protocol::LogLevel value) { return value <= protocol::LogLevel::Error; }
constexpr bool is_known(protocol::ControlKind value) {
  return value >= protocol::ControlKind::Hello && value <= protocol::ControlKind::Trim;
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

}  // namespace tensorferry
