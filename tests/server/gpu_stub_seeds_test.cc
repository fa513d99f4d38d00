// A stub at work on several streams. Short, since it is run under many seeds of the emulated
// driver's random scheduler (tools/seeds.py): what each says is the same as under any other.
#include <map>

#include "gpu_stub_fixture.h"

namespace tensorferry::server {
namespace {

using testing::Each;
using testing::SizeIs;

// In turn: an input is edited and passed on, copied into another library's memory, copied into the
// server's, and kept until the next turn.
constexpr const char* kFourWays = R"(
import tiny

if not hasattr(self, "streams"):
    self.streams = [tiny.new_stream() for _ in range(3)]
    self.turn, self.kept = -1, None
self.turn += 1
stream, way = self.streams[self.turn % 3], self.turn % 4
at, keep = tiny.take(tensor, stream)
if way == 0:
    tiny.fill(at, 100, 65536, stream)
    return [tensor]
if way == 3:
    self.kept = keep, tensor
    return [tensor]
if way == 1:
    result = tiny.Buffer((65536,), stream)
    self.buffers = getattr(self, "buffers", []) + [result]
    to = result.at
else:
    result = pb_utils.empty((65536,), "uint8", device="cuda:0")
    to, hold = tiny.take(result, stream)
tiny.copy(to, at, 65536, stream)
return [Tensor.from_dlpack("OUT", result)]
)";

class TwoProcessesOfAStub : public GpuStubTest {
 protected:
  // What the stub gave back is written over at once, where it lay.
  void overwrite_all(const std::vector<SeenRelease>& releases) {
    for (const auto& one : releases) {
      const auto lent = lent_.find(one.lease);
      if (lent == lent_.end()) continue;
      overwrite(lent->second, one);
      lent_.erase(lent);
    }
  }
  std::map<std::uint64_t, protocol::MemoryRef> lent_;
};

TEST_F(TwoProcessesOfAStub, SeeEachOthersWorkInOrder) {
  load(kFourWays, 64);
  if (HasFatalFailure() || IsSkipped()) return;
  for (int turn = 0; turn < 12; ++turn) {
    const auto value = static_cast<std::byte>(turn);
    const auto tensor = input(value);
    lent_[last_lease_] = tensor.memory;
    send(tensor);
    const SeenAnswer seen = answer();
    ASSERT_EQ(seen.error, "");
    ASSERT_THAT(seen.outputs, SizeIs(1));
    EXPECT_THAT(read(seen, seen.outputs[0]), Each(turn % 4 == 0 ? std::byte{100} : value));
    overwrite_all(seen.releases);
    give_back(seen);
    overwrite_all(releases(0));
  }
}

}  // namespace
}  // namespace tensorferry::server
