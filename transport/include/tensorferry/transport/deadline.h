// A point in time after which waiting stops; none by default.
#pragma once

#include <chrono>
#include <optional>

namespace tensorferry {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC
using Deadline = std::optional<Clock::time_point>;

inline bool passed(const Deadline& deadline) { return deadline && Clock::now() >= *deadline; }

}  // namespace tensorferry
