// Stream capture: operations that go into a graph instead of onto the device, and who may not be
// disturbed meanwhile.
#pragma once

#include "api.h"

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace fakecuda {

struct UserObject;

// What was captured, in an order that satisfies every dependency.
struct Graph {
  std::vector<Operation> nodes;
  std::vector<std::shared_ptr<UserObject>> user_objects;  // once for each reference
};

struct Capture {
  std::uint64_t id = 0;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  std::weak_ptr<Stream> origin;
  std::weak_ptr<Context> context;
  bool is_invalid = false;
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  CUgraph handle = nullptr;  // of the graph, from the beginning
};

// Enqueues, or adds to the graph of a capture. `point`, where given, is set unless captured.
CUresult enqueue(Call& call, const std::shared_ptr<Stream>& stream, Operation operation,
                 Point* point = nullptr);

// SUCCESS, or STREAM_CAPTURE_UNSUPPORTED where a capture under way forbids what its mode calls
// potentially unsafe: then that capture is invalid too.
CUresult refuse_while_capturing(Call& call);
// The same for what is forbidden in any mode on a stream that is being captured.
CUresult refuse_on_capturing(const std::shared_ptr<Stream>& stream);
// A synchronisation of a whole context.
CUresult refuse_if_context_captures(Call& call);

}  // namespace fakecuda
