#include "device_access.h"

#include <tensorferry/cuda/gpu_error.h>
#include <tensorferry/transport/copy.h>

#include <chrono>
#include <thread>

#include "device_import.h"
#include "numpy_api.h"
#include "py_type.h"
#include "stub_state.h"

namespace tensorferry::stub {
namespace {

bool check(const Result<void>& result) {
  if (!result) raise_error(result.error());
  return result.has_value();
}

// Nobody is at work on the memory afterwards. A graph may be being captured meanwhile.
Result<void> wait_for_all(const DeviceUse& use, cuda::WaitReason reason) {
  const cuda::RelaxedCapture relaxed;
  if (use.ready && use.streams.empty()) {
    auto event = use.lane->event_of(*use.ready);
    if (!event) return std::unexpected(event.error());
    if (auto done = cuda::wait_on_host(*event, reason); !done) return done;
  }
  for (UsedStream stream : use.streams) {
    if (auto done = use.local->wait(stream, reason); !done) return done;
  }
  return {};
}

bool wait_without_gil(DeviceUse& use, cuda::WaitReason reason) {
  if (!use.ready && use.streams.empty()) return true;
  const DeviceUse now = use;  // another thread may export it meanwhile
  if (!check(without_gil([&] { return wait_for_all(now, reason); }))) return false;
  use.ready.reset();
  return true;
}

// What is put on the stream from now on comes after whatever touches the memory so far.
Result<void> put_after_all(const DeviceUse& use, cuda::StreamHandle stream) {
  if (use.ready && use.streams.empty()) {
    auto event = use.lane->event_of(*use.ready);
    if (!event) return std::unexpected(event.error());
    auto guard = cuda::ContextGuard::enter(*use.local->context());
    if (!guard) return std::unexpected(guard.error());
    if (auto waits = cuda::wait_event(stream, *event); !waits) return waits;
  }
  for (UsedStream before : use.streams) {
    if (auto ordered = use.local->order(before, stream); !ordered) return ordered;
  }
  return {};
}

// One thread at a time finds where an input lies. The GIL guards it.
class Turn {
 public:
  explicit Turn(DeviceUse& use) : use_(use) {
    while (use_.being_reached)
      without_gil([] { std::this_thread::sleep_for(std::chrono::microseconds(100)); });
    use_.being_reached = true;
  }
  ~Turn() { use_.being_reached = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  DeviceUse& use_;
};

struct Place {
  DeviceLane* lane = nullptr;
  std::byte* data = nullptr;
  std::optional<Block> block;  // of our own, where it was staged
};

// What lies in host memory, in a block of our own on the device.
Result<Block> bring_in(DeviceLane& lane, const InputMemory& from) {
  const cuda::RelaxedCapture relaxed;
  auto block = lane.allocate(from.bytes);
  if (!block) return block;
  LocalDevice& local = lane.local();
  auto done =
      local.copy(block->data, {from.data, from.bytes, {}}, local.stream(), CopyKind::HostToDevice);
  if (done) done = local.wait(local.stream(), cuda::WaitReason::Staging);
  if (done) return block;
  lane.arena().release(block->id);
  return std::unexpected(done.error());
}

// An input that was lent before it was known that its chunk can't be mapped here comes by way of
// the server.
Result<Block> fetch(DeviceLane& lane, const InputMemory& input) {
  StubLink& link = *state().link;
  auto copy = link.read_device(input);
  if (!copy) return std::unexpected(copy.error());
  auto block = bring_in(lane, *copy);
  link.release_input(copy->lease);
  return block;
}

Result<Place> find_place(const Memory& memory) {
  auto lane = state().link->devices().lane(memory.device->device);
  if (!lane) return std::unexpected(lane.error());
  if (memory.bytes == 0) return Place{*lane, nullptr, {}};
  const InputMemory& input = *memory.input;
  if (!memory.is_staged() && !(*lane)->stages()) {
    auto data = (*lane)->address(input.segment, input.offset, input.bytes);
    if (!data) return std::unexpected(data.error());
    return Place{*lane, *data, {}};
  }
  auto block = memory.is_staged() ? bring_in(**lane, input) : fetch(**lane, input);
  if (!block) return std::unexpected(block.error());
  return Place{*lane, block->data, *block};
}

// From now on it is as memory of pb_utils.empty; the server's goes back.
void become_block(Memory& memory, const Block& block) {
  memory.block = block;
  state().holdings->add_block(block, memory.device);
  if (memory.input->lease != 0) state().holdings->drop_input(*memory.input);
  memory.input.reset();
}

PyRef array_over_copy(Memory on_host, const Memory& of) {
  on_host.bytes = of.bytes;
  on_host.dtype = of.dtype;
  on_host.shape = of.shape;
  PyRef object = new_memory(std::move(on_host));
  return object ? array_over_memory(object.get()) : PyRef();
}

}  // namespace

void raise_error(const Error& error) { raise_model_exception("%s", error.message.c_str()); }

bool refuse_in_forked_child() {
  if (!is_forked_child()) return true;
  raise_model_exception(
      "gpu_forked: CUDA does not work in a process that was forked from one that may have used it: "
      "start it by multiprocessing's \"spawn\" or \"forkserver\" method, or copy the tensor before "
      "the fork");
  return false;
}

bool is_on_device(const TensorObject* tensor) noexcept {
  return tensor->memory && memory_of(tensor->memory).device;
}

std::optional<int> ordinal_of(const Memory& memory) {
  const DeviceUse& use = *memory.device;
  if (use.local) return use.local->ordinal();
  if (!refuse_in_forked_child()) return std::nullopt;
  const Device name = use.device;
  auto ordinal = without_gil([&] { return state().link->devices().ordinal_of(name); });
  if (ordinal) return *ordinal;
  raise_error(ordinal.error());
  return std::nullopt;
}

bool reach(Memory& memory) {
  if (!refuse_in_forked_child()) return false;
  DeviceUse& use = *memory.device;
  auto is_reached = [&] { return use.local && (memory.data || memory.bytes == 0); };
  if (is_reached()) return true;
  const Turn turn(use);
  if (is_reached()) return true;
  auto place = without_gil([&] { return find_place(memory); });
  if (!place) {
    raise_error(place.error());
    return false;
  }
  place->lane->enter(use);
  memory.data = place->data;
  if (place->block) {
    become_block(memory, *place->block);
  } else if (memory.bytes != 0) {
    memory.input->data = place->data;
    state().holdings->add_input(*memory.input);
  }
  return true;
}

bool admit_stream(Memory& memory, cuda::StreamHandle stream) {
  DeviceUse& use = *memory.device;
  if (memory.bytes == 0 || (use.streams.size() == 1 && use.streams.front() == stream)) return true;
  auto capturing = use.local->is_capturing(stream);
  if (!capturing) return check(std::unexpected(capturing.error()));
  // No event of another process belongs in a graph.
  if (*capturing ? !wait_without_gil(use, cuda::WaitReason::Capture)
                 : !check(put_after_all(use, stream)))
    return false;
  use.remember(as_used(stream));
  return true;
}

bool admit_any_stream(Memory& memory, cuda::WaitReason reason) {
  if (memory.bytes == 0) return true;
  if (!wait_without_gil(*memory.device, reason)) return false;
  memory.device->remember(kAnyStream);
  return true;
}

bool admit_consumer(Memory& memory, PyObject* stream) {
  if (stream == Py_None) return admit_stream(memory, cuda::legacy_stream());
  const long long number = PyLong_AsLongLong(stream);
  if (number == -1 && PyErr_Occurred()) return false;
  if (number == -1) return admit_any_stream(memory, cuda::WaitReason::NoStream);
  if (number > 0) return admit_stream(memory, reinterpret_cast<cuda::StreamHandle>(number));
  PyErr_SetString(
      PyExc_ValueError,
      "__dlpack__: stream 0 is ambiguous on CUDA: pass 1 for the legacy default stream, "
      "2 for the per-thread one, -1 for none, or a cudaStream_t");
  return false;
}

namespace {

// What is needed to copy it while others may change what is known of it.
struct HostCopy {
  LocalDevice* local;
  Streams streams;
  DeviceRange range;
};

Result<void> copy_now(std::byte* to, const HostCopy& copy, cuda::WaitReason reason) {
  auto stream = copy.local->stream_after(copy.streams);
  if (!stream) return std::unexpected(stream.error());
  if (auto copied = copy.local->copy(to, copy.range, *stream, CopyKind::DeviceToHost); !copied)
    return copied;
  return copy.local->wait(*stream, reason);
}

// In host memory of ours: of what lies there already, or of what our device holds.
PyRef array_by_us(Memory& memory) {
  Memory on_host;
  auto block = without_gil([&] { return state().link->arena().allocate(memory.bytes); });
  if (!block) {
    raise_error(block.error());
    return {};
  }
  on_host.data = block->data;
  on_host.block = *block;
  PyRef array = array_over_copy(std::move(on_host), memory);
  if (array && memory.is_staged()) {
    copy_payload(block->data, memory.input->data, memory.bytes);
    return array;
  }
  const bool copied = array && copy_to_host(block->data, memory, cuda::WaitReason::HostArray);
  return copied ? std::move(array) : PyRef();
}

// The server's copy comes after its own writing, but it knows nothing of streams here.
PyRef array_by_server(Memory& memory) {
  DeviceUse& use = *memory.device;
  if (!use.streams.empty() && !wait_without_gil(use, cuda::WaitReason::HostArray)) return {};
  const Turn turn(use);
  if (!memory.input) return array_by_us(memory);  // another thread has brought it in
  auto copy = without_gil([&] { return state().link->read_device(*memory.input); });
  if (!copy) {
    raise_error(copy.error());
    return {};
  }
  Memory on_host;
  on_host.data = copy->data;
  on_host.input = std::move(*copy);
  return array_over_copy(std::move(on_host), memory);
}

}  // namespace

bool copy_to_host(std::byte* to, Memory& memory, cuda::WaitReason reason) {
  const DeviceUse& use = *memory.device;
  const HostCopy copy{use.local, use.streams, range_of(memory)};
  return check(without_gil([&] { return copy_now(to, copy, reason); }));
}

DeviceRange range_of(const Memory& memory) {
  DeviceRange range{memory.data, memory.bytes, std::nullopt};
  if (memory.strides.empty()) return range;
  const std::size_t element = element_bytes(memory.dtype);
  std::vector<std::int64_t> strides_bytes;
  strides_bytes.reserve(memory.strides.size());
  for (std::int64_t stride : memory.strides)
    strides_bytes.push_back(stride * static_cast<std::int64_t>(element));
  range.gather = cuda::plan_gather(memory.shape, strides_bytes, element);
  expects(range.gather.has_value(), "only what one copy can pack is kept with strides");
  return range;
}

PyRef array_of_device(Memory& memory) {
  if (!numpy::load() || !refuse_in_forked_child()) return {};
  if (memory.bytes == 0) return array_over_copy({}, memory);
  return memory.input && !memory.is_staged() ? array_by_server(memory) : array_by_us(memory);
}

}  // namespace tensorferry::stub
