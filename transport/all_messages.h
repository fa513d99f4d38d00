// Every message of the protocol, once. The codec's tests (golden files, property tests) and its
// fuzz target walk this list, so a message that is missing here is missing nowhere unnoticed: a
// kind without a message fails to compile, a message without a golden sample too.
#pragma once

#include <tensorferry/transport/protocol.h>

#include <cstddef>

#include "wire_enums.h"

namespace tensorferry {

template <class... Messages>
struct MessageList {
  static constexpr std::size_t kCount = sizeof...(Messages);
  // Calls `visit.template operator()<Message>()` for each.
  template <class Visit>
  static constexpr void for_each(Visit&& visit) {
    (visit.template operator()<Messages>(), ...);
  }
  template <class Kind>
  static constexpr std::size_t count_of(Kind kind) {
    return (std::size_t{0} + ... + std::size_t{Messages::kKind == kind});
  }
};

using RecordMessages = MessageList<protocol::Execute, protocol::Cancel, protocol::Release,
                                   protocol::Responses, protocol::UserMessage>;
using ControlMessages =
    MessageList<protocol::Hello, protocol::Welcome, protocol::Segment, protocol::SegmentRequest,
                protocol::SegmentDenied, protocol::SegmentDropped, protocol::AutoComplete,
                protocol::Load, protocol::Reply, protocol::Finalize, protocol::Log, protocol::Trim,
                protocol::DeviceOffer, protocol::DeviceSegment, protocol::ReadDevice,
                protocol::DeviceRead, protocol::DeviceRequest, protocol::DeviceRefused,
                protocol::ProbeReport, protocol::ProbeStep>;

// Each kind has exactly one message. Pad has none, it is skipped.
template <class List, class Kind>
consteval bool each_kind_has_one_message() {
  for (unsigned value = 0; value <= 0xFFFF; ++value) {
    const auto kind = static_cast<Kind>(value);
    const bool carried = is_known(kind) && value != 0;
    if (List::count_of(kind) != std::size_t{carried}) return false;
  }
  return true;
}
static_assert(each_kind_has_one_message<RecordMessages, protocol::RecordKind>());
static_assert(each_kind_has_one_message<ControlMessages, protocol::ControlKind>());

// Messages of both kinds, and what a spilled record holds instead of its body.
template <class Visit>
constexpr void for_each_message(Visit&& visit) {
  RecordMessages::for_each(visit);
  ControlMessages::for_each(visit);
  visit.template operator()<protocol::Spill>();
}
inline constexpr std::size_t kMessageCount = RecordMessages::kCount + ControlMessages::kCount + 1;

}  // namespace tensorferry
