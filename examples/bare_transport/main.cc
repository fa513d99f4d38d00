// Tensors to a Python worker and back, by the bare transport: no Server, no repository, no
// pb_utils.
//
//   bare_transport <python> <worker.py>
//
// The worker inherits one descriptor. What is sent from arena memory crosses without a copy, and so
// does what is sent from device memory, where there is a GPU; the counters show it.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <tensorferry/cuda/device_side.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using namespace tensorferry;

constexpr std::int64_t kElements = 1 << 20;

pid_t start_worker(const char* python, const char* script, int fd) {
  ::fcntl(fd, F_SETFD, 0);  // this one is inherited
  std::string number = std::to_string(fd);
  const char* arguments[] = {python, script, number.c_str(), nullptr};
  pid_t pid = -1;
  int error =
      ::posix_spawnp(&pid, python, nullptr, nullptr, const_cast<char**>(arguments), environ);
  return error == 0 ? pid : -1;
}

// Sends the memory, which moves, and returns what comes back for it.
Result<SharedBytes> doubled(Endpoint& end, SharedBytes memory) {
  std::vector<EndpointTensor> tensors(1);
  tensors[0].name = "x";
  tensors[0].dtype = kFloat32;
  tensors[0].shape = {kElements};
  tensors[0].shared = std::move(memory);
  if (auto sent = end.send(0, std::move(tensors)); !sent) return std::unexpected(sent.error());
  auto answer = end.receive();
  if (!answer) return std::unexpected(answer.error());
  return std::move((*answer)->tensors.at(0).shared);
}

Result<void> on_the_cpu(Endpoint& end, float value) {
  auto memory = end.allocate(kElements * sizeof(float));
  if (!memory) return std::unexpected(memory.error());
  std::fill_n(reinterpret_cast<float*>(memory->bytes().data()), kElements, value);
  auto answer = doubled(end, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  const float first = *reinterpret_cast<const float*>(answer->bytes().data());
  std::printf("cpu: sent %.0f, got %.0f back\n", value, first);
  if (first != 2 * value) return failure(ErrorCode::Internal, "that is not twice as much");
  return {};
}

// A program with streams of its own would put its work there and say memory->use_on(stream).
Result<void> on_a_device(Endpoint& end, float value) {
  auto memory = end.allocate_on(0, kElements * sizeof(float));
  if (!memory) return std::unexpected(memory.error());
  const std::vector<float> values(kElements, value);
  if (auto filled = cuda::copy_from_host(*memory, std::as_bytes(std::span(values))); !filled)
    return filled;
  auto answer = doubled(end, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  std::vector<float> result(kElements);
  if (auto read = cuda::copy_to_host(std::as_writable_bytes(std::span(result)), *answer); !read)
    return read;
  std::printf("cuda:%d: sent %.0f, got %.0f back\n", answer->device().id, value, result[0]);
  if (result[0] != 2 * value) return failure(ErrorCode::Internal, "that is not twice as much");
  return {};
}

// A host without a driver or a device is no error: this part is left out there.
bool is_without_gpu(const Error& error) { return error.code == ErrorCode::NotFound; }

Result<void> talk(Endpoint& end) {
  for (float value : {0.0F, 1.0F, 2.0F}) {
    if (auto done = on_the_cpu(end, value); !done) return done;
  }
  for (float value : {1.0F, 2.0F}) {
    auto done = on_a_device(end, value);
    if (!done && is_without_gpu(done.error())) {
      std::printf("no GPU: %s\n", done.error().message.c_str());
      break;
    }
    if (!done) return done;
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s PYTHON WORKER.PY\n", argv[0]);
    return 2;
  }
  EndpointOptions options;
  options.devices = cuda::device_side();  // loads no driver before a device tensor is asked for
  auto created = Endpoint::create(options);
  pid_t worker = -1;
  Result<void> done;
  if (created) {
    auto& [end, their_fd] = *created;
    worker = start_worker(argv[1], argv[2], their_fd.get());
    their_fd.reset();  // the worker has it now; ours would hide its death
    done = worker > 0 ? talk(*end) : failure(ErrorCode::System, "cannot start the worker");
    end->close();
  } else {
    done = std::unexpected(created.error());
  }
  if (worker > 0) ::waitpid(worker, nullptr, 0);
  if (!done) {
    std::fprintf(stderr, "%s\n", done.error().describe().c_str());
    return 1;
  }
  const CopyCounts counts = copy_counts();
  const auto copies = counts.calls_of(CopyKind::Host) + counts.calls_of(CopyKind::DeviceToDevice);
  std::printf("copies of payload to cross: %llu\n", static_cast<unsigned long long>(copies));
  return copies == 0 ? 0 : 1;
}
