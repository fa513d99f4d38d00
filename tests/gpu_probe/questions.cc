#include "answer.h"

namespace tensorferry::gpu_probe {

std::span<const Question> questions() {
  static constexpr Question kAll[] = {
      {1, "May an importer map with PROT_READ alone?", read_only_mapping},
      {2, "Does a chunk, and an event, open in another PID namespace?",
       import_in_another_pid_namespace},
      {3, "Can the process that exported a chunk import it?", import_in_the_same_process},
      {4, "Can a process map memory of a device that it doesn't see?",
       import_without_the_home_device},
      {5, "May two processes register the same pages?", registering_shared_pages_twice},
      {6, "What do import, map and access of a chunk take?", time_of_mapping},
      {7, "What does a waiter see when the recorder is killed?", waiting_for_a_killed_recorder},
      {8, "Has a process's device work stopped once it is reaped?", work_of_a_reaped_process},
      {9, "Do chunks and events cross within a MIG instance?", sharing_in_mig},
      {10, "May a capture wait for another process's event?", waiting_inside_a_capture},
      {11, "What does cuCtxRecordEvent cost?", cost_of_recording_a_context},
      {12, "Confidential computing: what of pinning and IPC?", confidential_computing}};
  return kAll;
}

}  // namespace tensorferry::gpu_probe
