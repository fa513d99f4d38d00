"""Orders that nothing else here would miss: who has let go of device memory, and whose stream is still at work on it.

Each is what a mutation of tests/mutations breaks; mostly it is the emulated driver that notices, not an assertion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_model import Caller, needs_devices, ramp, same, served

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

NOTHING = 'return Response([Tensor("OUT", np.zeros(1, np.float32))])'


def test_an_input_that_a_stream_still_reads_is_not_given_to_the_next_caller(tmp_path: Path) -> None:
    body = """
    count, stream = tensor.shape()[0], self.gpu.device.create_stream()
    buffer = self.gpu.device.allocate(4 * count, stream=stream)
    self.kept += [stream, buffer]
    view = self.gpu.view_of(tensor, stream_ptr=int(stream.handle))
    (code,) = self.gpu.driver.cuMemcpyDtoDAsync(int(buffer.handle), view.ptr, 4 * count, stream.handle)
    assert code == 0, code
    del view
    """
    caller = Caller()
    with served(tmp_path, body + NOTHING) as model:
        for number in range(6):
            model.infer({"IN": caller.given(model, ramp(number))})


def test_an_input_that_nobody_touched_is_free_when_its_callers_stream_is_done(tmp_path: Path) -> None:
    callers = (Caller(), Caller())
    with served(tmp_path, NOTHING, gpu=False) as model:
        for number in range(6):
            model.infer({"IN": callers[number % 2].given(model, ramp(number))})


def test_memory_that_a_caller_lets_go_of_is_free_when_its_stream_is_done(tmp_path: Path) -> None:
    callers = (Caller(), Caller())
    with served(tmp_path, NOTHING, gpu=False) as model:
        for number in range(6):
            callers[number % 2].given(model, ramp(number))


def test_a_second_stream_of_the_model_comes_after_the_first(tmp_path: Path) -> None:
    body = """
    self.gpu.fill(self.gpu.view(tensor), 9, 4)
    out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
    self.kept, self.gpu.stream = self.gpu.stream, self.gpu.device.create_stream()
    self.gpu.copy(self.gpu.view(out), self.gpu.view(tensor), tensor.shape()[0])
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"].numpy()
        np.testing.assert_array_equal(answer[:4], 9)
        np.testing.assert_array_equal(answer[4:], ramp()[4:])


def test_memory_that_the_model_throws_away_is_used_again_after_its_stream(tmp_path: Path) -> None:
    body = """
    self.gpu.fill(self.gpu.view(pb_utils.empty((3000,), "float32", device="cuda:0")), 5, 3000)
    self.kept.append(self.gpu.stream)
    self.gpu.stream = self.gpu.device.create_stream()
    out = pb_utils.empty((3000,), "float32", device="cuda:0")
    self.gpu.fill(self.gpu.view(out), 6, 3000)
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        for number in range(4):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["OUT"]
            np.testing.assert_array_equal(answer.numpy(), 6)


def test_what_an_output_was_copied_from_lives_until_the_copy_is_done(tmp_path: Path) -> None:
    body = """
    class Pooled:
        # Memory that its owner fills on another stream as soon as nobody holds it.
        def __init__(self, gpu, buffer, count):
            self.gpu, self.at, self.count = gpu, int(buffer.handle), count
            self.__cuda_array_interface__ = dict(
                version=3, typestr="<f4", shape=(count,), data=(self.at, False), stream=int(gpu.stream.handle))

        def __del__(self):
            self.gpu.driver.cuMemsetD32Async(self.at, 0, self.count, self.gpu.other.handle)
            self.gpu.stream.wait(self.gpu.other)

    self.gpu.other = getattr(self.gpu, "other", None) or self.gpu.device.create_stream()
    count = tensor.shape()[0]
    buffer = self.gpu.device.allocate(4 * count, stream=self.gpu.stream)
    self.kept.append(buffer)
    view, stream = self.gpu.view(tensor), self.gpu.stream.handle
    (code,) = self.gpu.driver.cuMemcpyDtoDAsync(int(buffer.handle), view.ptr, 4 * count, stream)
    assert code == 0, code
    return Response([Tensor.from_dlpack("OUT", Pooled(self.gpu, buffer, count))])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        for number in range(4):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["OUT"]
            np.testing.assert_array_equal(answer.numpy(), ramp(number))


def test_a_device_that_has_another_number_in_the_stub_is_the_same_device(tmp_path: Path) -> None:
    needs_devices(2)
    body = """
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    self.kept = gpu = Gpu()
    gpu.fill(gpu.view(tensor), 3, 8)
    return Response([tensor])
    """
    with served(tmp_path, body, outputs="IN", gpu=False) as model:
        answer = model.infer({"IN": model.empty((8,), np.float32, device="cuda:1")})["IN"]
        same(answer.device, "cuda:1")
        np.testing.assert_array_equal(answer.numpy(), 3)
