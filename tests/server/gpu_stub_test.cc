// A stub's side of device memory: what it names, which events it records, and what it leaves alone.
#include "gpu_stub_fixture.h"

namespace tensorferry::server {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST_F(GpuStubTest, AnInputPassedThroughUntouchedIsNamedByItsLeaseAndLoadsNoDriver) {
  load("assert not has_cuda()\nassert not tensor.is_cpu()\nreturn [tensor]");
  const SeenAnswer seen = ask(std::byte{5});
  ASSERT_EQ(seen.error, "");
  ASSERT_THAT(seen.outputs, SizeIs(1));
  EXPECT_EQ(seen.outputs[0].memory.lease, last_lease_);
  EXPECT_EQ(seen.outputs[0].device, kDevice);
  EXPECT_THAT(seen.ready, IsEmpty());
  ASSERT_THAT(seen.releases, SizeIs(1));
  EXPECT_THAT(seen.releases[0].after, IsEmpty());
}

TEST_F(GpuStubTest, NumPyOfAnInputIsTheServersCopyAndLoadsNoDriver) {
  load(
      "array = tensor.as_numpy()\n"
      "assert array is tensor.as_numpy()\n"
      "assert (array == 5).all() and array.size == 65536, array\n"
      "assert not has_cuda()\n"
      "return []");
  EXPECT_EQ(ask(std::byte{5}).error, "");
  EXPECT_EQ(reads_asked_, 1u);
  EXPECT_THAT(releases(1), SizeIs(testing::Ge(1u)));
}

TEST_F(GpuStubTest, AnInputEditedInPlaceMovesAfterTheStreamThatEditedIt) {
  load(
      "import tiny\n"
      "stream = tiny.new_stream()\n"
      "at, keep = tiny.take(tensor, stream)\n"
      "tiny.fill(at + 1, 9, 65535, stream)\n"
      "return [tensor]");
  const SeenAnswer seen = ask(std::byte{5});
  ASSERT_EQ(seen.error, "");
  ASSERT_THAT(seen.outputs, SizeIs(1));
  EXPECT_EQ(seen.outputs[0].memory.lease, last_lease_);
  EXPECT_THAT(seen.ready, SizeIs(1));
  const auto bytes = read(seen, seen.outputs[0]);
  EXPECT_EQ(bytes[0], std::byte{5}) << "the input was written before the stream touched it";
  EXPECT_EQ(bytes[1], std::byte{9});
  EXPECT_EQ(chunks_asked_, 0u);
}

TEST_F(GpuStubTest, AnotherLibrarysTensorIsCopiedOnceOnItsStream) {
  load(
      "import tiny\n"
      "stream = tiny.new_stream()\n"
      "at, keep = tiny.take(tensor, stream)\n"
      "result = tiny.Buffer((65536,), stream)\n"
      "tiny.copy(result.at, at, 65536, stream)\n"
      "out = Tensor.from_dlpack('OUT', result)\n"
      "tiny.fill(result.at, 8, 4, stream)\n"
      "return [out]");
  const SeenAnswer seen = ask(std::byte{5});
  ASSERT_EQ(seen.error, "");
  ASSERT_THAT(seen.outputs, SizeIs(1));
  EXPECT_NE(seen.outputs[0].memory.place, 1000u);
  EXPECT_THAT(seen.ready, SizeIs(1));
  const auto bytes = read(seen, seen.outputs[0]);
  EXPECT_EQ(bytes[0], std::byte{8}) << "what was put on the stream before the answer is in it";
  EXPECT_EQ(bytes[4], std::byte{5});
  ASSERT_THAT(releases(1), SizeIs(1));
}

TEST_F(GpuStubTest, AKeptInputIsCopiedAndComesBackAfterItsStreams) {
  load(
      "import tiny\n"
      "self.stream = tiny.new_stream()\n"
      "old = getattr(self, 'old', None)\n"
      "self.old = (tiny.take(tensor, self.stream), tensor)\n"
      "return [tensor]");
  const SeenAnswer first = ask(std::byte{5});
  ASSERT_EQ(first.error, "");
  ASSERT_THAT(first.outputs, SizeIs(1));
  EXPECT_NE(first.outputs[0].memory.place, 1000u) << "it is held: a copy goes";
  EXPECT_THAT(read(first, first.outputs[0]), Each(std::byte{5}));
  give_back(first);
  const SeenAnswer second = ask(std::byte{6});
  std::vector<SeenRelease> all = second.releases;
  if (all.empty()) all = releases(1);
  ASSERT_THAT(all, SizeIs(1));
  EXPECT_EQ(all[0].lease, 1u);
  EXPECT_THAT(all[0].after, SizeIs(1));
}

TEST_F(GpuStubTest, MemoryOfEmptyCrossesWithoutACopy) {
  load(
      "import tiny\n"
      "stream = tiny.new_stream()\n"
      "result = pb_utils.empty((256, 256), 'uint8', device='cuda:0')\n"
      "at, keep = tiny.take(result, stream)\n"
      "tiny.fill(at, 3, 65536, stream)\n"
      "self.at = at\n"
      "return [Tensor.from_dlpack('OUT', result)]");
  const SeenAnswer seen = ask(std::byte{5});
  ASSERT_EQ(seen.error, "");
  ASSERT_THAT(seen.outputs, SizeIs(1));
  EXPECT_EQ(seen.outputs[0].shape, (std::vector<std::int64_t>{256, 256}));
  EXPECT_THAT(read(seen, seen.outputs[0]), Each(std::byte{3}));
  EXPECT_EQ(chunks_asked_, 1u);
}

TEST_F(GpuStubTest, AStridedTensorIsPackedByItsOneCopy) {
  load(
      "import tiny\n"
      "stream = tiny.new_stream()\n"
      "result = tiny.Buffer((128, 64), stream, (256, 1))\n"
      "tiny.fill(result.at, 1, 128 * 256, stream)\n"
      "tiny.fill(result.at, 7, 64, stream)\n"
      "tiny.fill(result.at + 256 * 127, 7, 64, stream)\n"
      "return [Tensor.from_dlpack('OUT', result)]");
  const SeenAnswer seen = ask(std::byte{5});
  ASSERT_EQ(seen.error, "");
  const auto bytes = read(seen, seen.outputs.at(0));
  ASSERT_THAT(bytes, SizeIs(128 * 64));
  EXPECT_EQ(bytes[63], std::byte{7});
  EXPECT_EQ(bytes[64], std::byte{1});
  EXPECT_EQ(bytes[127 * 64], std::byte{7});
}

TEST_F(GpuStubTest, WhereAllEventsAreUnderWayItWaitsForOneToComeBack) {
  load(
      "import tiny\n"
      "self.stream = getattr(self, 'stream', None) or tiny.new_stream()\n"
      "result = tiny.Buffer((65536,), self.stream)\n"
      "return [Tensor.from_dlpack('OUT', result)]",
      4);
  std::vector<SeenAnswer> seen;
  for (int i = 0; i < 3; ++i) seen.push_back(ask(std::byte{5}));
  for (const auto& one : seen) {
    EXPECT_EQ(one.error, "");
    EXPECT_THAT(one.ready, SizeIs(1));
  }
  for (const auto& one : seen) give_back(one);
}

TEST_F(GpuStubTest, AForkedChildIsToldToBeSpawned) {
  load(
      "read, write = os.pipe()\n"
      "if os.fork() == 0:\n"
      "    try:\n"
      "        tensor.__dlpack__(stream=1)\n"
      "    except Exception as error:\n"
      "        os.write(write, str(error).encode())\n"
      "    os._exit(0)\n"
      "os.wait()\n"
      "raise ValueError(os.read(read, 1000).decode())");
  const std::string error = ask(std::byte{5}).error;
  EXPECT_THAT(error, HasSubstr("gpu_forked"));
  EXPECT_THAT(error, HasSubstr("spawn"));
}

}  // namespace
}  // namespace tensorferry::server
