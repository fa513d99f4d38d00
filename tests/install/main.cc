// What a user of the libraries might begin with: memory moved to another end and back, and a server
// that says why it can't start.
#include <tensorferry/cuda/driver.h>
#include <tensorferry/server/server.h>
#include <tensorferry/transport/endpoint.h>
#include <tensorferry/transport/version.h>

#include <cstdio>
#include <filesystem>
#include <thread>
#include <utility>

namespace {

int fail(const char* what, const tensorferry::Error& error) {
  std::fprintf(stderr, "%s: %s\n", what, error.describe().c_str());
  return 1;
}

int cross_once() {
  auto made = tensorferry::Endpoint::create();
  if (!made) return fail("create", made.error());
  auto& [here, descriptor] = *made;

  std::jthread peer([fd = std::move(descriptor)]() mutable {
    auto there = tensorferry::Endpoint::connect(std::move(fd));
    if (!there) return;
    auto message = (*there)->receive();
    if (message && *message) (void)(*there)->send(2, std::move((*message)->tensors));
  });

  auto loan = here->allocate(1 << 20);
  if (!loan) return fail("allocate", loan.error());
  loan->bytes()[0] = std::byte{42};
  std::vector<tensorferry::EndpointTensor> tensors(1);
  tensors[0].name = "X";
  tensors[0].dtype = *tensorferry::dtype_from_triton("UINT8");
  tensors[0].shape = {1 << 20};
  tensors[0].shared = std::move(*loan);
  if (auto sent = here->send(1, std::move(tensors)); !sent) return fail("send", sent.error());
  auto answer = here->receive();
  if (!answer) return fail("receive", answer.error());
  if (!*answer || (*answer)->tag != 2 || (*answer)->tensors.at(0).bytes()[0] != std::byte{42}) {
    std::fprintf(stderr, "the answer is not what was sent\n");
    return 1;
  }
  return 0;
}

}  // namespace

int main() {
  std::printf("tensorferry %.*s\n", static_cast<int>(tensorferry::kVersion.size()),
              tensorferry::kVersion.data());
#ifdef PAYLOAD_DIR
  if (!std::filesystem::exists(PAYLOAD_DIR "/launch.py")) {
    std::fprintf(stderr, "no launch.py in %s\n", PAYLOAD_DIR);
    return 1;
  }
#endif
  auto server = tensorferry::server::Server::start("/nonexistent/repository");
  if (server) {
    std::fprintf(stderr, "a server started on a repository that is not there\n");
    return 1;
  }
  (void)tensorferry::cuda::Driver::get();
  return cross_once();
}
