// Stubs of another build, or none at all, at the other end of the control socket: scripts that say
// what they want to. Each costs itself its life, with an error that says what it did.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <tensorferry/transport/version.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "field_walk.h"
#include "no_gpus.h"
#include "stub_session.h"

namespace tensorferry::server {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AnyOf;
using testing::HasSubstr;

constexpr const char* kPrologue = R"(
import array, os, socket, struct, sys, time
s = socket.socket(fileno=int(sys.argv[1]))
HELLO, WELCOME, SEGMENT, REQUEST, DENIED, DROPPED, COMPLETE, LOAD, REPLY, FINALIZE, LOG, TRIM = range(1, 13)

def message(kind, body=b"", version=VERSION, magic=0x59524654):
    return struct.pack("<IHH", magic, version, kind) + body

def text(value):
    return struct.pack("<I", len(value)) + value

def hello(build=BUILD, version=VERSION):
    body = text(build) + struct.pack("<q", os.getpid()) + text(b"cpython") + text(b"3") + text(b"python")
    return message(HELLO, body, version)

def reply(to, what=b"", more=0, failed=0):
    return message(REPLY, struct.pack("<HBBB", to, more, failed, 1) + text(what))

def begin():
    s.send(hello())
    s.recv(1 << 17)  # Welcome

def until_read():  # what was sent so far: this is denied, unless the server has ended the talk
    s.send(message(REQUEST, struct.pack("<QQBi", 5, 1 << 40, 1, 0)))
    while (answer := s.recv(1 << 17)) and struct.unpack_from("<IHH", answer)[2] != DENIED:
        pass

def await_load():
    while struct.unpack_from("<IHH", s.recv(1 << 17))[2] != LOAD:
        pass

)";

class HandshakeTest : public testing::Test, public InstanceEvents {
 protected:
  void SetUp() override {
    folder_ =
        fs::temp_directory_path() / ("tensorferry-handshake-" + std::to_string(::getpid()) + "-" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
    stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    const char* python = std::getenv("TENSORFERRY_TEST_PYTHON");
    command_.interpreter = python ? python : "/usr/bin/python3";
    if (!fs::exists(command_.interpreter)) GTEST_SKIP() << "no interpreter to play a stub with";
    command_.launcher = folder_ / "stub.py";
  }
  void TearDown() override {
    fs::remove_all(folder_);
    EXPECT_EQ(host_->arena().bytes_in_use(), 0u);
  }

  void batch_done(std::size_t) noexcept override {}
  void give_back(Batch) noexcept override {}
  void executed(std::uint64_t, std::uint64_t) noexcept override {}

  // Lets the script be a stub from its start until it ends or is ended; how that is told.
  std::string run(const std::string& script, milliseconds patience = seconds(60)) {
    return check(how_it_ended(script, patience));
  }

  Error how_it_ended(const std::string& script, milliseconds patience = seconds(60)) {
    std::string prologue = kPrologue;
    auto put = [&](const std::string& name, const std::string& value) {
      for (std::size_t at; (at = prologue.find(name)) != std::string::npos;)
        prologue.replace(at, name.size(), value);
    };
    put("VERSION", std::to_string(protocol::kProtocolVersion));
    put("BUILD", "b'" + std::string(kBuildId) + "'");
    std::ofstream(command_.launcher) << prologue << script;
    LinkOptions options;
    options.model = "m";
    options.instance = "m_0_0";
    options.arena.max_bytes = 4 << 20;
    auto session = StubSession::start(command_, options, segments_, {host_, gpus_}, *this, logger_,
                                      stop_.get(), patience);
    if (!session) return session.error();
    const pid_t pid = (*session)->pid();
    auto loaded = (*session)->load("model.py", "{}", Clock::now() + seconds(60));
    Result<void> served;
    if (loaded) served = (*session)->serve({});
    const Error error = !loaded ? loaded.error() : !served ? served.error() : Error{};
    if (error.code == ErrorCode::StubDied) {
      EXPECT_NE(::kill(pid, 0), 0) << "it was ended and reaped";
      EXPECT_TRUE((*session)->link()->closed());
    }
    return error;
  }

  // Says the message with each of its fields changed, one at a time, once `before` has run. Where
  // that is refused, `says` is why; else the stub goes on as it likes, here to its end. How many
  // were refused.
  template <class Message>
  int change_each_field(const Message& message, const std::string& before,
                        const testing::Matcher<std::string>& says, const std::string& after = {}) {
    std::vector<std::byte> valid(encoded_bytes(message));
    encode(message, valid);
    const auto script = [&](std::span<const std::byte> body) {
      std::string hex;
      for (std::byte each : body) {
        constexpr const char* kDigits = "0123456789abcdef";
        hex += kDigits[std::to_integer<int>(each >> 4)];
        hex += kDigits[std::to_integer<int>(each & std::byte{15})];
      }
      return before + "\ns.send(message(" + std::to_string(static_cast<int>(Message::kKind)) +
             ", bytes.fromhex('" + hex + "')))\n" + after + "\nos._exit(9)\n";
    };
    EXPECT_THAT(run(script(valid)), HasSubstr("exited with code 9")) << "unchanged";
    int refused = 0;
    for (const EncodedField& field : FieldWalk::of(message)) {
      for (const auto& changed : mutations(valid, field)) {
        SCOPED_TRACE("field " + field.path);
        const Error error = how_it_ended(script(changed));
        if (error.message.find("exited with code 9") != std::string::npos) continue;
        EXPECT_THAT(error.message, says);
        ++refused;
      }
    }
    return refused;
  }

  static std::string check(const Error& error) {
    EXPECT_EQ(error.code, ErrorCode::StubDied) << error.message;
    EXPECT_EQ(error.context.instance, "m_0_0");
    return error.message;
  }

  fs::path folder_;
  StubCommand command_;
  std::shared_ptr<Logger> logger_ = null_logger();
  UniqueFd stop_;
  std::shared_ptr<SegmentAuthority> segments_ = std::make_shared<SegmentAuthority>();
  std::shared_ptr<HostArena> host_ = std::make_shared<HostArena>(segments_, ArenaOptions{});
  std::shared_ptr<GpuArenas> gpus_ = no_gpus(segments_);
};

// ---------------------------------------------------------------- the first words

TEST_F(HandshakeTest, AnotherProtocolVersionIsNamed) {
  EXPECT_THAT(run("s.send(hello(version=999)); time.sleep(60)"),
              HasSubstr("speaks protocol version 999, this one " +
                        std::to_string(protocol::kProtocolVersion)));
}

TEST_F(HandshakeTest, AnotherBuildIsNamed) {
  std::string said = run("s.send(hello(build=b'0.0.1+of-old')); time.sleep(60)");
  EXPECT_THAT(said, HasSubstr("its payload is build '0.0.1+of-old' and the server is build '"));
  EXPECT_THAT(said, HasSubstr("which cpython 3, 'python' ran"));
  EXPECT_THAT(said, HasSubstr("set the payload path"));
}

TEST_F(HandshakeTest, GarbageIsNoHello) {
  EXPECT_THAT(run("s.send(b'GET / HTTP/1.1'); time.sleep(60)"), HasSubstr("no control message"));
  EXPECT_THAT(run("s.send(b'x'); time.sleep(60)"), HasSubstr("too short for its header"));
  EXPECT_THAT(run("s.send(message(REPLY)); time.sleep(60)"), HasSubstr("did not begin with Hello"));
  EXPECT_THAT(run("s.send(hello()[:20]); time.sleep(60)"), HasSubstr("Hello: it ends too early"));
  EXPECT_THAT(run("s.send(hello() + b'more'); time.sleep(60)"), HasSubstr("4 bytes are left over"));
}

TEST_F(HandshakeTest, WhoNeverSaysHelloIsNotWaitedForWithoutEnd) {
  EXPECT_THAT(run("time.sleep(60)", milliseconds(200)),
              HasSubstr("did not say Hello within 200 ms"));
}

TEST_F(HandshakeTest, AStartCanBeGivenUp) {
  std::uint64_t one = 1;
  ASSERT_EQ(::write(stop_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  EXPECT_THAT(run("time.sleep(60)"), HasSubstr("told to stop while it started"));
}

TEST_F(HandshakeTest, AnExitOrAClosedSocketBeforeHelloIsTold) {
  EXPECT_THAT(run("print('no licence', file=sys.stderr, flush=True); os._exit(5)"),
              testing::AllOf(HasSubstr("exited with code 5"), HasSubstr("no licence")));
  EXPECT_THAT(run("s.close(); time.sleep(60)"), HasSubstr("its control socket was closed"));
}

// ---------------------------------------------------------------- descriptors

TEST_F(HandshakeTest, SurplusDescriptorsAreClosedAndTold) {
  const std::string with = R"(
def with_descriptors(data, count):
    fds = array.array("i", [1] * count)
    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

)";
  const auto open_here = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator{});
  };
  (void)run("os._exit(0)");
  const auto before = open_here();
  EXPECT_THAT(run(with + "with_descriptors(hello(), 2); time.sleep(60)"),
              HasSubstr("came with 2 descriptors"));
  EXPECT_THAT(run(with + "with_descriptors(hello(), 40); time.sleep(60)"),
              HasSubstr("longer than allowed"));
  // One that is of no use is closed, and no more.
  EXPECT_THAT(run(with + "with_descriptors(hello(), 1); s.recv(1 << 17); os._exit(9)"),
              HasSubstr("exited with code 9"));
  EXPECT_EQ(open_here(), before);
}

// ---------------------------------------------------------------- after the handshake

TEST_F(HandshakeTest, HelloIsSaidOnce) {
  EXPECT_THAT(run("begin(); s.send(hello()); time.sleep(60)"),
              HasSubstr("control message 1, which is not a stub's to send"));
}

TEST_F(HandshakeTest, WhatOnlyAServerSaysIsRefused) {
  for (const char* kind : {"WELCOME", "SEGMENT", "DENIED", "COMPLETE", "LOAD", "FINALIZE", "TRIM",
                           "0", "13", "0xFFFF"}) {
    EXPECT_THAT(run(std::string("begin(); s.send(message(") + kind + ")); time.sleep(60)"),
                HasSubstr("is not a stub's to send"))
        << kind;
  }
}

TEST_F(HandshakeTest, AReplyThatWasNotAskedForIsRefused) {
  EXPECT_THAT(run("begin(); await_load(); s.send(reply(FINALIZE)); time.sleep(60)"),
              HasSubstr("replied to what it was not asked"));
  EXPECT_THAT(
      run("begin(); await_load(); s.send(reply(LOAD)); s.send(reply(LOAD)); time.sleep(60)"),
      HasSubstr("replied to what it was not asked"));
}

TEST_F(HandshakeTest, AReplyWithoutEndIsCutShort) {
  EXPECT_THAT(run("begin(); await_load()\nwhile True: s.send(reply(LOAD, b'x' * 65536, more=1))"),
              HasSubstr("its reply is longer than " + std::to_string(protocol::kMaxTextBytes)));
}

TEST_F(HandshakeTest, BodiesThatDoNotParseAreRefused) {
  for (const char* kind : {"REQUEST", "DROPPED", "REPLY", "LOG"}) {
    EXPECT_THAT(
        run(std::string("begin(); s.send(message(") + kind + ", b'\\x01')); time.sleep(60)"),
        HasSubstr("it ends too early"))
        << kind;
  }
}

// ---------------------------------------------------------------- every field, changed

TEST_F(HandshakeTest, EveryFieldOfHelloChanged) {
  const protocol::Hello hello{kBuildId, 7, "cpython", "3", "python"};
  EXPECT_GT(change_each_field(hello, "",
                              AnyOf(HasSubstr("Hello: "), HasSubstr("its payload is build '"))),
            10);
}

TEST_F(HandshakeTest, EveryFieldOfAReplyChanged) {
  const protocol::Reply reply{protocol::ControlKind::Load, false, false, ErrorCode::Internal,
                              "as the model says"};
  EXPECT_GT(change_each_field(reply, "begin(); await_load()",
                              AnyOf(HasSubstr("Reply: "), HasSubstr("what it was not asked"),
                                    HasSubstr("as the model says"))),
            10);
}

TEST_F(HandshakeTest, EveryFieldOfALogRecordChanged) {
  const protocol::Log log{protocol::LogLevel::Info, "model.py", 3, "text"};
  EXPECT_GT(change_each_field(log, "begin()", HasSubstr("Log: "), "until_read()"), 10);
}

TEST_F(HandshakeTest, ASegmentRequestMayHaveAnyNumbersButNotAnyKindOfDevice) {
  const protocol::SegmentRequest request{5, 4096};
  EXPECT_GT(change_each_field(request, "begin()", HasSubstr("SegmentRequest: "), "until_read()"),
            0);
}

// ---------------------------------------------------------------- the last words

class Gathered : public Logger {
 public:
  void write(const LogRecord& record) noexcept override {
    if (record.file == "model.py") lines.emplace_back(record.text);
  }
  std::vector<std::string> lines;  // written by the test's own thread
};

TEST_F(HandshakeTest, WhatAStubLoggedBeforeItDiedIsWritten) {
  auto log = std::make_shared<Gathered>();
  logger_ = log;
  EXPECT_THAT(run(R"(
begin()
for line in range(100):
    s.send(message(LOG, b"\x01" + text(b"model.py") + struct.pack("<I", 1) + text(b"line %d" % line)))
os._exit(3)
)"),
              HasSubstr("exited with code 3"));
  ASSERT_EQ(log->lines.size(), 100u);
  EXPECT_EQ(log->lines.back(), "line 99");
}

TEST_F(HandshakeTest, ASegmentThatItDoesNotHaveCannotBeDropped) {
  EXPECT_THAT(run("begin(); s.send(message(DROPPED, struct.pack('<I', 77))); time.sleep(60)"),
              HasSubstr("drops segment 77, which it doesn't have"));
}

TEST_F(HandshakeTest, MemoryWithoutMeasureIsDeniedAndNobodyDies) {
  EXPECT_THAT(run(R"(
begin()
for size in (0, 1, 1 << 40, (1 << 64) - 1):
    s.send(message(REQUEST, struct.pack("<QQBi", 5, size, 1, 0)))
    while struct.unpack_from("<IHH", s.recv(1 << 17))[2] not in (SEGMENT, DENIED):
        pass
os._exit(3)
)"),
              HasSubstr("exited with code 3"));
}

}  // namespace
}  // namespace tensorferry::server
