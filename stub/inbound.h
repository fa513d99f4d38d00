// A batch as the server sent it, in memory of our own. Knows nothing of Python.
#pragma once

#include <tensorferry/transport/dtype.h>
#include <tensorferry/transport/protocol.h>
#include <tensorferry/transport/segment.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device_use.h"

namespace tensorferry::stub {

// Memory of one input: a lease on the server's memory, or bytes of our own.
struct InputMemory {
  std::uint64_t lease = 0;  // 0: small
  SegmentId segment = 0;
  std::uint64_t offset = 0;
  // On a device: none before it is asked for; of one that is staged, its bytes in host memory.
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::shared_ptr<Segment> mapping;
  std::shared_ptr<DeviceUse> device;  // none: the CPU's
  std::vector<std::byte> small;
};

struct InputTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  InputMemory memory;
};

// Of a request or a response.
struct Parameter {
  std::string key;
  protocol::ParameterKind kind{};
  std::int64_t integer = 0;  // Int; Bool as 0 or 1
  double number = 0;
  std::string text;
};

struct InboundRequest {
  std::uint64_t number = 0;
  std::string id;
  std::uint64_t correlation = 0;
  std::string correlation_text;
  std::uint32_t flags = 0;
  std::uint64_t timeout_us = 0;
  std::string trace_context;
  std::vector<Parameter> parameters;
  std::vector<std::string> outputs;
  std::vector<InputTensor> inputs;
};

struct InboundBatch {
  std::uint64_t number = 0;
  std::vector<InboundRequest> requests;
};

// Host memory that the server named. Errors: Protocol.
using Resolve = std::function<Result<SegmentMap::Range>(const protocol::MemoryRef&)>;
Result<InputMemory> read_host_memory(const protocol::MemoryRef& memory, const Resolve& resolve);
Result<InboundBatch> read_batch(const protocol::Execute& message, const Resolve& resolve);

}  // namespace tensorferry::stub
