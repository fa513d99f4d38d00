// What gpu-probe asks a device, and what it says of the answers: what documents leave open about
// memory and events between processes, and the transport would rather know.
#pragma once

#include <tensorferry/transport/error.h>

#include <span>
#include <string>

namespace tensorferry::gpu_probe {

struct Answer {
  std::string text;    // "yes", "no", a time; "not tried", "failed"
  std::string detail;  // how it was seen, or why it wasn't tried
};

inline Answer not_tried(std::string why) { return {"not tried", std::move(why)}; }

struct Question {
  int number;
  const char* text;
  // Runs in a process of its own, so that a hang or a broken context is an answer too.
  Result<Answer> (*ask)();
};

// Memory (1, 3-6).
Result<Answer> read_only_mapping();
Result<Answer> import_in_the_same_process();
Result<Answer> import_without_the_home_device();
Result<Answer> registering_shared_pages_twice();
Result<Answer> time_of_mapping();
// Places (2, 9, 12).
Result<Answer> import_in_another_pid_namespace();
Result<Answer> sharing_in_mig();
Result<Answer> confidential_computing();
// Death (7, 8).
Result<Answer> waiting_for_a_killed_recorder();
Result<Answer> work_of_a_reaped_process();
// Streams (10, 11).
Result<Answer> waiting_inside_a_capture();
Result<Answer> cost_of_recording_a_context();

std::span<const Question> questions();

}  // namespace tensorferry::gpu_probe
