// Models of a Triton repository, served inside this program: what goes in is born in shared memory,
// what comes out lies there, and neither is copied.
//
//   embedded_cpp REPOSITORY [PYTHON]
//
// REPOSITORY has a model add_sub (python/tensorferry/demo_models has it); PYTHON runs it and must
// have NumPy.
#include <tensorferry/server/server.h>
#include <tensorferry/transport/copy.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace {

namespace ferry = tensorferry::server;

constexpr std::int64_t kElements = 1 << 20;

[[noreturn]] void fail(const tensorferry::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  std::exit(1);
}

template <class T>
T must(tensorferry::Result<T> result) {
  if (!result) fail(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

std::span<float> floats(ferry::Tensor& tensor) {
  return {reinterpret_cast<float*>(tensor.data.bytes().data()), tensor.data.size() / sizeof(float)};
}

// Appends an input that lies in the model's own memory: submit moves it, and nothing is copied.
void add_input(ferry::Model& model, ferry::Request& request, const char* name, float value) {
  ferry::Tensor& input = request.add_input();
  input.name = name;
  input.dtype = tensorferry::kFloat32;
  input.shape = {kElements};
  input.data = must(model.allocate(kElements * sizeof(float)));
  std::ranges::fill(floats(input), value);
}

void show(ferry::Response& response) {
  for (ferry::Tensor& output : response.outputs) {
    std::printf("  %s = [%g, ... %lld more]\n", output.name.c_str(), floats(output)[0],
                static_cast<long long>(output.shape[0] - 1));
  }
}

// 1. Ask and wait.
void ask(ferry::Model& model) {
  ferry::Request request;
  ferry::Response response;
  add_input(model, request, "INPUT0", 3);
  add_input(model, request, "INPUT1", 1);
  must(model.infer(request, response));
  std::printf("infer:\n");
  show(response);
}

// 2. Ask, go on, and be called when the answer is there.
void ask_in_the_background(ferry::Model& model) {
  std::mutex mutex;
  std::condition_variable changed;
  bool answered = false;
  ferry::Request request;
  add_input(model, request, "INPUT0", 40);
  add_input(model, request, "INPUT1", 2);
  ferry::Call call = must(model.submit(std::move(request), [&] {
    std::scoped_lock lock(mutex);
    answered = true;
    changed.notify_one();  // under the lock: this frame ends as soon as the waiter has seen it
  }));
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return answered; });
  ferry::Response response;
  must(call.take(response));
  std::printf("submit, with a callback:\n");
  show(response);
}

// 3. Errors are values that say what was wrong, where, and what was expected.
void ask_wrongly(ferry::Model& model) {
  ferry::Request request;
  ferry::Response response;
  add_input(model, request, "INPUT0", 1);
  if (auto answer = model.infer(request, response); !answer) {
    std::printf("an input left out: %s\n", answer.error().describe().c_str());
    return;
  }
  fail({tensorferry::ErrorCode::Internal, "a request without INPUT1 was answered", {}});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s REPOSITORY [PYTHON]\n", argv[0]);
    return 2;
  }
  ferry::ServerOptions options;
  options.models = {{"add_sub"}};
  if (argc > 2) options.python = argv[2];
  auto server = must(ferry::Server::start(argv[1], options));
  ferry::Model model = must(server->model("add_sub"));
  ask(model);
  ask_in_the_background(model);
  ask_wrongly(model);

  const auto here = tensorferry::copy_counts().calls_of(tensorferry::CopyKind::Host);
  const auto in_the_stub = model.statistics().stub_copied_bytes;
  std::printf("copies of payload: %llu here, %llu bytes in the model's process\n",
              static_cast<unsigned long long>(here), static_cast<unsigned long long>(in_the_stub));
  server->shutdown();
  return here == 0 && in_the_stub == 0 ? 0 : 1;
}
