// Tensors to a Python worker and back, by the bare transport: no Server, no repository, no
// pb_utils.
//
//   bare_transport <python> <worker.py>
//
// The worker inherits one descriptor. What is sent from arena memory crosses without a copy, which
// the counters show.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <tensorferry/transport/copy.h>
#include <tensorferry/transport/endpoint.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace {

constexpr std::int64_t kElements = 1 << 20;

int fail(const tensorferry::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}

pid_t start_worker(const char* python, const char* script, int fd) {
  ::fcntl(fd, F_SETFD, 0);  // this one is inherited
  std::string number = std::to_string(fd);
  const char* arguments[] = {python, script, number.c_str(), nullptr};
  pid_t pid = -1;
  int error =
      ::posix_spawnp(&pid, python, nullptr, nullptr, const_cast<char**>(arguments), environ);
  return error == 0 ? pid : -1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s PYTHON WORKER.PY\n", argv[0]);
    return 2;
  }
  auto created = tensorferry::Endpoint::create();
  if (!created) return fail(created.error());
  auto& [end, their_fd] = *created;
  pid_t worker = start_worker(argv[1], argv[2], their_fd.get());
  their_fd.reset();  // the worker has it now; ours would hide its death
  if (worker < 0) return fail({tensorferry::ErrorCode::System, "cannot start the worker", {}});

  for (int round = 0; round < 3; ++round) {
    auto memory = end->allocate(kElements * sizeof(float));
    if (!memory) return fail(memory.error());
    auto* values = reinterpret_cast<float*>(memory->bytes().data());
    std::fill_n(values, kElements, static_cast<float>(round));
    std::vector<tensorferry::EndpointTensor> tensors(1);
    tensors[0].name = "x";
    tensors[0].dtype = tensorferry::kFloat32;
    tensors[0].shape = {kElements};
    tensors[0].shared = std::move(*memory);
    if (auto sent = end->send(0, std::move(tensors)); !sent) return fail(sent.error());
    auto answer = end->receive();
    if (!answer) return fail(answer.error());
    auto doubled = (*answer)->tensors.at(0).bytes();
    float first = reinterpret_cast<const float*>(doubled.data())[0];
    std::printf("round %d: sent %d, got %.0f back\n", round, round, first);
    if (first != static_cast<float>(2 * round)) return 1;
  }
  end->close();
  ::waitpid(worker, nullptr, 0);
  auto copies = tensorferry::copy_counts().calls_of(tensorferry::CopyKind::Host);
  std::printf("copies of payload in this process: %llu\n", static_cast<unsigned long long>(copies));
  return copies == 0 ? 0 : 1;
}
