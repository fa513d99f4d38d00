// The embedded server with real stubs: models written into a folder of the test's own.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <tensorferry/server/server.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "heap_count.h"

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kConfig = R"(
backend: "python"
input [ { name: "IN", data_type: TYPE_UINT8, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: TYPE_UINT8, dims: [ -1 ] } ]
)";

std::string model_py(const std::string& body) {
  return "import os, signal, sys, time\nimport numpy as np\nimport triton_python_backend_utils as "
         "pb_utils\n\n"
         "class TritonPythonModel:\n"
         "    def execute(self, requests):\n"
         "        return [pb_utils.InferenceResponse([pb_utils.Tensor('OUT', self.one(r))]) for r "
         "in requests]\n"
         "    def one(self, request):\n"
         "        x = pb_utils.get_input_tensor_by_name(request, 'IN').as_numpy()\n" +
         body;
}

class Lines final : public Logger {
 public:
  void write(const LogRecord& record) noexcept override {
    std::scoped_lock lock(mutex_);
    text_ += std::string(record.source) + ": " + std::string(record.text) + "\n";
  }
  std::string text() const {
    std::scoped_lock lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv("TENSORFERRY_PAYLOAD"))
      GTEST_SKIP() << "the stub's payload is not built in this preset";
    repository_ =
        fs::temp_directory_path() / ("tensorferry-test-" + std::to_string(::getpid()) + "-" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(repository_);
  }
  void TearDown() override {
    server_.reset();
    fs::remove_all(repository_);
  }

  void add_model(const std::string& name, const std::string& body,
                 const std::string& config = kConfig) {
    fs::create_directories(repository_ / name / "1");
    std::ofstream(repository_ / name / "config.pbtxt") << "name: \"" << name << "\"\n" << config;
    std::ofstream(repository_ / name / "1" / "model.py") << model_py(body);
  }

  Result<void> start(ServerOptions options = {}) {
    if (const char* python = std::getenv("TENSORFERRY_TEST_PYTHON")) options.python = python;
    options.logger = log_;
    auto server = Server::start(repository_, options);
    if (!server) return std::unexpected(server.error());
    server_ = std::move(*server);
    return {};
  }

  static Request request(Buffer data) {
    Request request;
    request.id = "r1";
    Tensor& input = request.inputs.emplace_back();
    input.name = "IN";
    input.dtype = kUint8;
    input.shape = {static_cast<std::int64_t>(data.size())};
    input.data = std::move(data);
    return request;
  }

  Result<Response> infer(const std::string& name, std::size_t bytes, unsigned char fill) {
    Model model = server_->model(name).value();
    Buffer data = model.allocate(bytes).value();
    std::memset(data.bytes().data(), fill, bytes);
    Request one = request(std::move(data));
    Response response;
    auto done = model.infer(one, response, Clock::now() + std::chrono::seconds(60));
    if (!done) return std::unexpected(done.error());
    return response;
  }

  static std::byte at(const Response& response, std::size_t index) {
    return response.find("OUT")->data.bytes()[index];
  }

  fs::path repository_;
  std::shared_ptr<Lines> log_ = std::make_shared<Lines>();
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, SmallAndLargeTensorsCrossAndComeBack) {
  add_model("plus", "        return x + 1\n");
  auto started = start();
  ASSERT_TRUE(started) << started.error().describe() << log_->text();
  for (std::size_t bytes : {1u, 100u, 4095u, 4096u, 1u << 20, 8u << 20}) {
    auto response = infer("plus", bytes, 4);
    ASSERT_TRUE(response) << response.error().describe() << log_->text();
    EXPECT_EQ(response->find("OUT")->data.size(), bytes);
    EXPECT_EQ(at(*response, bytes - 1), std::byte{5});
  }
  auto statistics = server_->statistics().at(0);
  EXPECT_EQ(statistics.succeeded, 6u);
  EXPECT_EQ(statistics.stub_copied_bytes, 0u)
      << "arrays that NumPy makes in execute are born in the arena";
}

TEST_F(ServerTest, WhatARequestAndAResponseSayBesidesTheirTensorsCrosses) {
  add_model("says", R"(
        said = repr((request.request_id(), request.correlation_id(), request.flags(), request.timeout(),
                     request.trace().get_context(), request.parameters()))
        return np.frombuffer(said.encode(), np.uint8)
    def execute(self, requests):
        parameters = {"text": "ß", "yes": True, "number": -(1 << 63)}
        return [pb_utils.InferenceResponse([pb_utils.Tensor('OUT', self.one(r))], parameters=parameters)
                for r in requests]
)");
  ASSERT_TRUE(start());
  Model model = server_->model("says").value();
  auto said = [&](Request one, Response& response) {
    auto done = model.infer(one, response, Clock::now() + std::chrono::seconds(60));
    if (!done) return done.error().describe();
    auto bytes = response.find("OUT")->data.bytes();
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  Response response;
  Request one = request(model.allocate(8).value());
  EXPECT_EQ(said(std::move(one), response), "('r1', 0, 0, 0, None, '{}')");
  EXPECT_EQ(response.parameters, (Parameters{{"text", "ß"}, {"yes", true}, {"number", INT64_MIN}}));

  one = request(model.allocate(8).value());
  one.correlation_id = UINT64_MAX;
  one.flags = 3;
  one.timeout_us = 11'000'000'000;
  one.trace_context = R"({"traceparent": "00-1"})";
  one.parameters = {{"i", std::int64_t{-1}}, {"b", true}, {"d", 0.5}, {"s", std::string("x")}};
  EXPECT_EQ(said(std::move(one), response),
            "('r1', 18446744073709551615, 3, 11000000000, '{\"traceparent\": \"00-1\"}', "
            "'{\"i\": -1, \"b\": true, \"d\": 0.5, \"s\": \"x\"}')");

  one = request(model.allocate(8).value());
  one.correlation_id = 7;
  one.correlation_text = "sequence";
  EXPECT_EQ(said(std::move(one), response), "('r1', 'sequence', 0, 0, None, '{}')");
}

TEST_F(ServerTest, AnInputThatIsPassedThroughIsTheSameMemory) {
  add_model("same", "        x[0] = 99\n        return x\n");
  ASSERT_TRUE(start());
  Model model = server_->model("same").value();
  Buffer data = model.allocate(1 << 20).value();
  const std::byte* there = data.bytes().data();
  Request one = request(std::move(data));
  Response response;
  auto done = model.infer(one, response);
  ASSERT_TRUE(done) << done.error().describe();
  EXPECT_EQ(response.find("OUT")->data.bytes().data(), there);
  EXPECT_EQ(at(response, 0), std::byte{99});
  EXPECT_EQ(server_->statistics().at(0).stub_copied_bytes, 0u);
}

// Requests that cross again and again in the caller's own objects. What is counted is what this
// thread allocates, which sends and reads.
class WarmRequests : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    if (!kHeapIsCounted) GTEST_SKIP() << "the sanitizer's operator new cannot be replaced";
  }

  // What the usual one of many rounds allocates, once warm: the median. Not each one does: where
  // the background thread read an answer it may hold the call for a moment longer than the caller,
  // and what somebody holds is not used again.
  template <class Round>
  static std::size_t allocations(const Round& round) {
    for (int i = 0; i < kRounds; ++i) round();
    std::vector<std::size_t> counts;
    counts.reserve(kRounds);
    for (int i = 0; i < kRounds; ++i) {
      const std::size_t before = heap_allocations();
      round();
      counts.push_back(heap_allocations() - before);
    }
    std::ranges::nth_element(counts, counts.begin() + kRounds / 2);
    return counts[kRounds / 2];
  }

  // The same for rounds of so many requests at a time, of one input of this shape.
  std::size_t allocations(const std::vector<std::int64_t>& shape, std::size_t at_a_time) {
    Model model = server_->model("same").value();
    std::vector<Request> requests(at_a_time);
    std::vector<Call> calls(at_a_time);
    Response response;
    return allocations([&] {
      for (std::size_t i = 0; i < at_a_time; ++i) {
        fill(requests[i], model, shape);
        calls[i] = model.submit(std::move(requests[i])).value();
      }
      for (Call& call : calls) {
        ASSERT_TRUE(call.wait() && call.take(response));
        ASSERT_EQ(response.outputs.at(0).shape, shape);
        response.clear();
      }
    });
  }

  static void fill(Request& request, Model& model, const std::vector<std::int64_t>& shape) {
    const auto bytes = static_cast<std::size_t>(shape.back());
    request.id = "r1";
    Tensor& input = request.add_input();
    input.name = "IN";
    input.dtype = kUint8;
    input.shape = shape;
    input.data = bytes < protocol::kInlineBelowBytes ? Buffer::ordinary(bytes)
                                                     : model.allocate(bytes).value();
  }

  static constexpr int kRounds = 300;
};

TEST_F(WarmRequests, ThatAreSmallAllocateNothing) {
  add_model("same", "        return x\n");
  ASSERT_TRUE(start());
  Model model = server_->model("same").value();
  const std::vector<std::int64_t> shape{4};
  Request one;
  Response response;
  const std::size_t by_infer = allocations([&] {
    fill(one, model, shape);
    ASSERT_TRUE(model.infer(one, response));
    one.clear();
  });
  EXPECT_EQ(by_infer, 0u);
  for (std::size_t at_a_time : {1, 2, 8}) EXPECT_EQ(allocations({4}, at_a_time), 0u) << at_a_time;
  EXPECT_EQ(allocations({protocol::kInlineBelowBytes - 1}, 1), 0u);
}

TEST_F(WarmRequests, ThatABatchGathersAllocateNothing) {
  add_model("same", "        return x\n",
            std::string(kConfig) +
                "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 500 }\n");
  ASSERT_TRUE(start()) << log_->text();
  EXPECT_EQ(allocations({1, 4}, 8), 0u);
  const auto statistics = server_->statistics().at(0);
  EXPECT_LT(statistics.executions, statistics.succeeded / 2) << "batches there were";
}

// In the arena it is six per request, whatever its size: the holders of the input's block and of
// the answer's, the entry of the lease, and three of the table of what moves (its list by place,
// its hash table, and the entry there).
TEST_F(WarmRequests, InTheArenaAllocateAsOftenWhateverTheirSize) {
  constexpr std::size_t kEach = 6;
  add_model("same", "        return x\n");
  ASSERT_TRUE(start());
  for (std::int64_t bytes : {4096, 65536, 1 << 20})
    EXPECT_LE(allocations({bytes}, 1), kEach) << bytes;
  for (std::size_t at_a_time : {2, 8})
    EXPECT_LE(allocations({65536}, at_a_time), kEach * at_a_time) << at_a_time;
}

TEST_F(ServerTest, WhatTheModelKeepsIsCopied) {
  add_model("keeps", "        self.kept = x\n        return x\n");
  ASSERT_TRUE(start());
  auto first = infer("keeps", 1 << 20, 1);
  ASSERT_TRUE(first) << first.error().describe();
  EXPECT_EQ(server_->statistics().at(0).stub_copied_bytes, 1u << 20);
  auto second = infer("keeps", 1 << 20, 2);
  ASSERT_TRUE(second);
  EXPECT_EQ(at(*first, 5), std::byte{1});
  EXPECT_EQ(at(*second, 5), std::byte{2});
}

TEST_F(ServerTest, OneOutputBufferForAllRequestsDoesNotAlias) {
  add_model("reuses",
            "        if not hasattr(self, 'buffer'):\n            self.buffer = np.empty(1 << 20, "
            "np.uint8)\n"
            "        self.buffer[:] = x[0]\n        return self.buffer\n");
  ASSERT_TRUE(start());
  std::vector<Response> held;
  for (unsigned char i = 0; i < 20; ++i) held.push_back(infer("reuses", 1 << 20, i).value());
  for (unsigned char i = 0; i < 20; ++i) EXPECT_EQ(at(held[i], 77), std::byte{i});
}

TEST_F(ServerTest, AnExceptionReachesTheClientAndTheLog) {
  add_model("raises", "        raise ValueError('no such luck')\n");
  ASSERT_TRUE(start());
  auto response = infer("raises", 4, 0);
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().message,
              HasSubstr("Failed to process the request(s) for model 'raises_0_0', message: "
                        "ValueError: no such luck"));
  EXPECT_THAT(response.error().message, HasSubstr("model.py(10): one"));
  EXPECT_EQ(response.error().context.request_id, "r1");
  EXPECT_THAT(log_->text(), HasSubstr("no such luck"));
  EXPECT_TRUE(server_->ready()) << "an exception costs its requests only";
}

TEST_F(ServerTest, AKilledStubFailsItsRequestAtOnceAndIsStartedAgain) {
  add_model("dies",
            "        if x[0] == 1:\n            print('my last words', file=sys.stderr)\n"
            "            os.kill(os.getpid(), signal.SIGKILL)\n        return x\n");
  ASSERT_TRUE(start());
  auto response = infer("dies", 4, 1);
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, ErrorCode::StubDied);
  EXPECT_THAT(response.error().message, HasSubstr("SIGKILL"));
  EXPECT_THAT(response.error().message, HasSubstr("my last words"));
  EXPECT_EQ(response.error().context.instance, "dies_0_0");
  auto again = infer("dies", 4, 7);
  ASSERT_TRUE(again) << again.error().describe();
  EXPECT_EQ(at(*again, 0), std::byte{7});
  auto statistics = server_->statistics().at(0);
  EXPECT_EQ(statistics.instances.at(0).restarts, 1u);
  EXPECT_EQ(statistics.arena_bytes_in_use, 0u);
}

TEST_F(ServerTest, AnAnswerOutlivesStubAndServer) {
  add_model("plus", "        return x + 1\n");
  ASSERT_TRUE(start());
  auto response = infer("plus", 1 << 20, 1);
  ASSERT_TRUE(response);
  server_.reset();
  EXPECT_EQ(at(*response, (1 << 20) - 1), std::byte{2});
}

TEST_F(ServerTest, AModelThatClosesAllDescriptorsIsKilledWithThatReason) {
  add_model("closes", "        os.closerange(3, 100)\n        time.sleep(30)\n        return x\n");
  ASSERT_TRUE(start());
  auto response = infer("closes", 4, 0);
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().message, HasSubstr("its control socket was closed while it ran"));
}

// Exit code of a child that asks what it is told to, and does not wait for a lock for ever.
template <class Function>
int in_a_child(Function&& asks) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(10);
    ::_exit(asks() ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(ServerTest, AForkedChildsHandlesAreVoidWhateverLocksThreadsHeld) {
  add_model("echo", "        return x\n");
  ASSERT_TRUE(start());
  Model model = server_->model("echo").value();
  auto again_and_again = [](auto&& what) {
    return std::jthread([what](const std::stop_token& stop) {
      while (!stop.stop_requested()) (void)what();
    });
  };
  auto handle = [&model] { return model.version(); };
  const std::array threads{again_and_again(handle), again_and_again(handle),
                           again_and_again([this] { return server_->statistics(); })};
  for (int i = 0; i < 20; ++i) {
    const int status = in_a_child([&] {
      server_->shutdown();  // nothing
      auto refused = model.allocate(1 << 20);
      return !refused && refused.error().code == ErrorCode::Closed && !model.check_process() &&
             !server_->check_process() && !server_->model("echo") && !server_->load("echo") &&
             !server_->unload("echo") && !model.ready() && !server_->ready() &&
             model.version() == 1 && server_->model_names().empty() &&
             server_->statistics().empty() && model.statistics().instances.empty();
    });
    ASSERT_EQ(status, 0) << "fork " << i;
  }
  EXPECT_TRUE(infer("echo", 4, 3));
}

TEST_F(ServerTest, ATimeoutEndsTheWaitAndKillsNobody) {
  add_model("slow", "        time.sleep(0.5)\n        return x\n");
  ASSERT_TRUE(start());
  Model model = server_->model("slow").value();
  Request one = request(model.allocate(4).value());
  Response response;
  auto done = model.infer(one, response, Clock::now() + std::chrono::milliseconds(50));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::DeadlineExceeded);
  EXPECT_TRUE(infer("slow", 4, 3));
  EXPECT_EQ(server_->statistics().at(0).instances.at(0).restarts, 0u);
}

TEST_F(ServerTest, AHungStubIsKilledWhenALimitIsSet) {
  add_model(
      "hangs", "        time.sleep(60)\n        return x\n",
      std::string(kConfig) +
          R"(parameters { key: "TENSORFERRY_EXECUTE_TIMEOUT_S" value { string_value: "0.3" } })");
  ASSERT_TRUE(start());
  auto response = infer("hangs", 4, 0);
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().message, HasSubstr("TENSORFERRY_EXECUTE_TIMEOUT_S"));
  EXPECT_THAT(response.error().message, HasSubstr("in one")) << "with the stacks of its threads";
}

TEST_F(ServerTest, AWrongRequestIsRefusedBeforeAnythingIsSent) {
  add_model("plus", "        return x + 1\n");
  ASSERT_TRUE(start());
  Model model = server_->model("plus").value();
  Request wrong = request(Buffer::ordinary(4));
  wrong.inputs[0].dtype = kInt8;
  auto refused = model.submit(std::move(wrong));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("expects uint8"));
  wrong = request(Buffer::ordinary(4));
  wrong.inputs[0].name = "OTHER";
  EXPECT_THAT(model.submit(std::move(wrong)).error().message, HasSubstr("'IN'"));
}

TEST_F(ServerTest, AModelThatCannotBeImportedIsALoadError) {
  add_model("broken", "        return x\n");
  std::ofstream(repository_ / "broken" / "1" / "model.py") << "import no_such_module_at_all\n";
  auto started = start();
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("no_such_module_at_all"));
  EXPECT_THAT(started.error().message, HasSubstr("broken"));
}

TEST_F(ServerTest, ManyCallersShareOneInstance) {
  add_model("plus", "        return x + 1\n");
  ASSERT_TRUE(start());
  std::vector<std::thread> callers;
  std::atomic<int> right{0};
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 50; ++i) {
        std::size_t bytes = i % 2 ? 16 : 64 << 10;
        auto fill = static_cast<unsigned char>(caller * 10);
        auto response = infer("plus", bytes, fill);
        if (response && at(*response, bytes - 1) == static_cast<std::byte>(fill + 1)) ++right;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, 400);
  EXPECT_EQ(server_->statistics().at(0).arena_bytes_in_use, 0u);
}

TEST_F(ServerTest, ModelsComeAndGoWhileOthersServe) {
  add_model("one", "        return x + 1\n");
  add_model("two", "        return x + 2\n");
  ServerOptions options;
  options.models = std::vector<std::string>{"one"};
  ASSERT_TRUE(start(options));
  EXPECT_FALSE(server_->model("two"));
  ASSERT_TRUE(server_->load("two"));
  EXPECT_EQ(at(infer("two", 4, 0).value(), 0), std::byte{2});
  ASSERT_TRUE(server_->unload("two"));
  EXPECT_FALSE(server_->model("two"));
  EXPECT_EQ(at(infer("one", 4, 0).value(), 0), std::byte{1});
}

TEST_F(ServerTest, TheLogSaysWhichInterpreterRunsAModel) {
  add_model("says",
            "        return np.frombuffer((sys.version.split()[0] + \", '\" + sys.executable"
            " + \"'\").encode(), np.uint8)\n");
  ASSERT_TRUE(start());
  auto response = infer("says", 4, 0);
  ASSERT_TRUE(response) << response.error().describe();
  const auto said = response->find("OUT")->data.bytes();
  EXPECT_THAT(log_->text(),
              HasSubstr("says_0_0: runs in cpython " +
                        std::string(reinterpret_cast<const char*>(said.data()), said.size())));
}

TEST_F(ServerTest, WhatTheModelPrintsReachesTheLog) {
  add_model(
      "prints",
      "        print('hello from the model')\n        pb_utils.Logger.log_info('and a log line')\n"
      "        return x\n");
  ASSERT_TRUE(start());
  ASSERT_TRUE(infer("prints", 4, 0));
  server_.reset();
  EXPECT_THAT(log_->text(), HasSubstr("prints_0_0 stdout: hello from the model"));
  EXPECT_THAT(log_->text(), HasSubstr("prints_0_0: and a log line"));
}

}  // namespace
}  // namespace tensorferry::server
