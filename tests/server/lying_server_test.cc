// A real stub whose server lies: it says what was wrong and exits; it never crashes or hangs.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <tensorferry/transport/channel.h>
#include <tensorferry/transport/control_socket.h>
#include <tensorferry/transport/version.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "field_walk.h"
#include "segment_authority.h"
#include "stub_process.h"

namespace tensorferry::server {
namespace {

using testing::HasSubstr;

class LyingServerTest : public testing::Test {
 protected:
  static constexpr std::size_t kRing = 64 << 10;

  void SetUp() override {
    const char* payload = std::getenv("TENSORFERRY_PAYLOAD");
    const char* python = std::getenv("TENSORFERRY_TEST_PYTHON");
    if (!payload || !python) GTEST_SKIP() << "the stub's payload is not built in this preset";
    auto sockets = ControlSocket::pair().value();
    socket_.emplace(std::move(sockets.first));
    StubCommand command;
    command.interpreter = python;
    command.launcher = std::string(payload) + "/launch.py";
    auto started = StubProcess::spawn(command, sockets.second.release());
    ASSERT_TRUE(started) << started.error().message;
    process_.emplace(std::move(*started));
    auto hello = socket_->receive(Clock::now() + std::chrono::seconds(60));
    ASSERT_TRUE(hello && *hello);
    ASSERT_EQ((*hello)->kind, protocol::ControlKind::Hello);
    ring_ = segments_.create(channel_bytes(kRing)).value();
    writer_.emplace(ring_->data(), kRing);
    reader_.emplace(ring_->data() + ring_bytes(kRing), kRing);
  }

  protocol::Welcome welcome() {
    protocol::Welcome welcome;
    welcome.build_id = kBuildId;
    welcome.instance = "m_0_0";
    welcome.ring_capacity = kRing;
    welcome.arena_initial_bytes = welcome.arena_growth_bytes = 1 << 20;
    welcome.arena_max_bytes = 16 << 20;
    return welcome;
  }
  void shake_hands() { ASSERT_TRUE(socket_->send(welcome(), ring_->fd())); }

  // A record for the stub, as it is.
  template <class Message>
  void put(const Message& message, protocol::RecordKind kind = Message::kKind) {
    std::vector<std::byte> body(encoded_bytes(message));
    encode(message, body);
    put_bytes(body, kind);
  }
  void put_bytes(std::span<const std::byte> body, protocol::RecordKind kind) {
    auto room = writer_->claim(body.size()).value().value();
    std::memcpy(room.data(), body.data(), body.size());
    writer_->commit(kind, body.size(), false, Urgency::Urgent);
  }
  void say(std::string_view text) {
    ASSERT_EQ(::send(socket_->fd(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  // It ends by itself, by an exit code and not a signal, and says why on stderr.
  void expect_exit(const std::string& words) {
    pollfd ended{process_->pidfd(), POLLIN, 0};
    ASSERT_EQ(::poll(&ended, 1, 60'000), 1) << "it lives on";
    const ExitStatus status = process_->reap();
    EXPECT_EQ(status.signal, 0) << status.describe();
    EXPECT_THAT(status.code, testing::AnyOf(70, 78));
    char text[16 << 10];
    const ssize_t got = ::read(process_->stderr_fd(), text, sizeof text);
    const std::string said(text, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    EXPECT_THAT(said, testing::AllOf(HasSubstr("tensorferry"), HasSubstr(words)));
    EXPECT_THAT(said, testing::Not(HasSubstr("Traceback")));
  }

  SegmentAuthority segments_;
  std::optional<ControlSocket> socket_;
  std::optional<StubProcess> process_;
  std::shared_ptr<Segment> ring_;
  std::optional<RingWriter> writer_;
  std::optional<RingReader> reader_;
};

TEST_F(LyingServerTest, GarbageInsteadOfWelcome) {
  say("good day to you, whoever you are");
  expect_exit("no control message");
}

TEST_F(LyingServerTest, AnotherMessageInsteadOfWelcome) {
  ASSERT_TRUE(socket_->send(protocol::Trim{}));
  expect_exit("did not begin with Welcome");
}

TEST_F(LyingServerTest, AWelcomeOfAnotherBuild) {
  protocol::Welcome other = welcome();
  other.build_id = "0.0.1+of-old";
  ASSERT_TRUE(socket_->send(other, ring_->fd()));
  expect_exit("build");
}

TEST_F(LyingServerTest, AWelcomeWithoutADescriptor) {
  ASSERT_TRUE(socket_->send(welcome()));
  expect_exit("segment 0 came without its descriptor");
}

TEST_F(LyingServerTest, ARingThatIsSmallerThanItSays) {
  protocol::Welcome large = welcome();
  large.ring_capacity = kRing * 2;
  ASSERT_TRUE(socket_->send(large, ring_->fd()));
  expect_exit("segment 0 has " + std::to_string(ring_->bytes()) + " bytes, " +
              std::to_string(Segment::rounded(channel_bytes(2 * kRing))) + " were announced");
}

TEST_F(LyingServerTest, ARingOfAnImpossibleSize) {
  protocol::Welcome odd = welcome();
  odd.ring_capacity = ~std::uint64_t{0};
  ASSERT_TRUE(socket_->send(odd, ring_->fd()));
  expect_exit("a ring of 18446744073709551615 bytes");
}

TEST_F(LyingServerTest, AMemfdThatCanStillShrink) {
  const UniqueFd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(loose.get(), static_cast<off_t>(ring_->bytes())), 0);
  ASSERT_TRUE(socket_->send(welcome(), loose.get()));
  expect_exit("seal");
}

TEST_F(LyingServerTest, AControlMessageThatIsNotAServers) {
  shake_hands();
  ASSERT_TRUE(socket_->send(protocol::Log{}));
  expect_exit("unexpected control message");
}

TEST_F(LyingServerTest, ASegmentWithoutItsDescriptor) {
  shake_hands();
  ASSERT_TRUE(socket_->send(protocol::Segment{9, protocol::SegmentRole::Host, 4096, 0}));
  expect_exit("segment 9 came without its descriptor");
}

TEST_F(LyingServerTest, AnExecuteThatDoesNotParse) {
  shake_hands();
  put_bytes(std::vector<std::byte>(11, std::byte{0xEE}), protocol::RecordKind::Execute);
  expect_exit("Execute: ");
}

TEST_F(LyingServerTest, AReleaseOfWhatItDoesNotHold) {
  shake_hands();
  const protocol::LeaseRelease release{5, {}};
  put(protocol::Release{std::span(&release, 1)});
  expect_exit("gives back what it doesn't hold");
}

TEST_F(LyingServerTest, ATensorBeyondItsSegment) {
  shake_hands();
  auto segment = segments_.create(1 << 20).value();
  ASSERT_TRUE(socket_->send(
      protocol::Segment{segment->id(), protocol::SegmentRole::Host, segment->bytes(), 0},
      segment->fd()));
  const std::int64_t shape[] = {8192};
  protocol::TensorRecord input;
  input.name = "IN";
  input.dtype = kUint8;
  input.shape = shape;
  input.memory = {protocol::MemoryKind::Segment, segment->id(), (1 << 20) - 4096, 8192, 1};
  protocol::RequestRecord request;
  request.request = 1;
  request.inputs = std::span(&input, 1);
  protocol::Execute execute;
  execute.batch = 1;
  execute.requests = std::span(&request, 1);
  put(execute);
  expect_exit("leave segment");
}

// ---------------------------------------------------------------- every field of Execute, changed

class ChangedExecute : public LyingServerTest {
 protected:
  void SetUp() override {
    LyingServerTest::SetUp();
    if (!IsSkipped()) load();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A stub with a model that looks at its requests, and a segment of the server's.
  void load() {
    shake_hands();
    segment_ = segments_.create(1 << 20).value();
    ASSERT_TRUE(socket_->send(
        protocol::Segment{segment_->id(), protocol::SegmentRole::Host, segment_->bytes(), 0},
        segment_->fd()));
    std::filesystem::create_directories(folder_ / "1");
    std::ofstream(folder_ / "1" / "model.py") << kModel;
    const std::string path = folder_ / "1" / "model.py";
    ASSERT_TRUE(socket_->send(protocol::Load{path, R"({"model_config": "{}"})"}));
    auto reply = socket_->receive(Clock::now() + std::chrono::seconds(60));
    ASSERT_TRUE(reply && *reply);
    Scratch scratch;
    const auto loaded = decode<protocol::Reply>((*reply)->body, scratch).value();
    ASSERT_FALSE(loaded.failed) << loaded.text;
  }

  // One of everything, but for releases: the stub has lent nothing.
  std::vector<std::byte> execute_of_everything() {
    static constexpr std::int64_t kLarge[] = {8192}, kMatrix[] = {2, 2};
    static constexpr std::byte kBytes[4] = {};
    // The inline one names the segment too: said to lie there it is refused at once, while a stub
    // waits for a segment that may be on its way.
    const protocol::TensorRecord inputs[] = {
        {"IN",
         kUint8,
         {},
         kLarge,
         {},
         {protocol::MemoryKind::Segment, segment_->id(), 4096, 8192, 1},
         {}},
        {"SMALL",
         kUint8,
         {},
         kMatrix,
         {},
         {protocol::MemoryKind::Inline, segment_->id(), 0, 4, 0},
         kBytes}};
    const protocol::Parameter parameters[] = {
        {"number", protocol::ParameterKind::Int, 5, 0.5, ""},
        {"text", protocol::ParameterKind::String, 0, 0, "value"}};
    const std::string_view output = "OUT";
    protocol::RequestRecord request{
        1, "r", 2, "c", 3, 4, 5, "t", parameters, std::span(&output, 1), inputs};
    const protocol::EventSlot slot;
    const protocol::Execute message{1, std::span(&request, 1), std::span(&slot, 1), {}};
    fields_ = FieldWalk::of(message);
    std::vector<std::byte> bytes(encoded_bytes(message));
    encode(message, bytes);
    return bytes;
  }

  // Until the stub has answered or ended; whether it answered.
  bool answered() {
    pollfd ended{process_->pidfd(), POLLIN, 0};
    const auto limit = Clock::now() + std::chrono::seconds(60);
    while (Clock::now() < limit) {
      if (auto record = reader_->peek().value()) {
        const auto kind = record->kind;
        reader_->consume();
        if (kind == protocol::RecordKind::Responses) return true;
      } else if (::poll(&ended, 1, 1) == 1) {
        return false;
      }
    }
    ADD_FAILURE() << "neither answers nor ends";
    return false;
  }

  static constexpr const char* kModel = R"(
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for r in requests:
            r.request_id(), r.correlation_id(), r.parameters(), r.timeout(), r.flags()
            [(i.name(), i.shape(), i.triton_dtype()) for i in r.inputs()]
        return [pb_utils.InferenceResponse([]) for r in requests]
)";
  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("tensorferry-lying-" + std::to_string(::getpid()));
  std::shared_ptr<Segment> segment_;
  std::vector<EncodedField> fields_;
};

TEST_F(ChangedExecute, EndsTheStubWithItsReasonOrIsAnswered) {
  put_bytes(execute_of_everything(), protocol::RecordKind::Execute);
  ASSERT_TRUE(answered()) << "unchanged";
  const auto fields = fields_;
  int refused = 0, harmless = 0;
  for (const EncodedField& field : fields) {
    // A segment that it doesn't know is waited for, as it may be on its way.
    if (field.path == ".1[0].10[0].5.1") continue;
    for (std::size_t which = 0;; ++which) {
      const auto changed = mutations(execute_of_everything(), field);
      if (which >= changed.size()) break;
      SCOPED_TRACE("field " + field.path + ", change " + std::to_string(which));
      put_bytes(changed[which], protocol::RecordKind::Execute);
      if (answered()) {
        ++harmless;
        continue;
      }
      ++refused;
      expect_exit("tensorferry stub: ");
      if (HasFailure()) return;
      SetUp();
    }
  }
  EXPECT_GT(refused, harmless) << "most of a message is checked";
}

TEST_F(LyingServerTest, AnOverwrittenRing) {
  shake_hands();
  auto* header = reinterpret_cast<protocol::RingHeader*>(ring_->data());
  header->tail.store(0xFFFF'FFFF'FFFFull);
  header->wake_foreground.fetch_add(1);
  put(protocol::Cancel{1});  // wakes it
  header->tail.store(0xFFFF'FFFF'FFFFull);
  expect_exit("the ring was overwritten");
}

TEST_F(LyingServerTest, AServerThatIsGoneTakesItsStubAlong) {
  shake_hands();
  socket_.reset();
  pollfd ended{process_->pidfd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 60'000), 1) << "it lives on";
  EXPECT_EQ(process_->reap().signal, SIGKILL);
}

}  // namespace
}  // namespace tensorferry::server
