"""Orders that nothing else here would miss: who has let go of device memory, and whose stream is still at work on it.

Each is what a mutation of tests/mutations breaks; mostly it is the emulated driver that notices, not an assertion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_model import Caller, ramp, same, served

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

NOTHING = 'return Response([Tensor("OUT", np.zeros(1, np.float32))])'


def test_an_input_that_a_stream_still_reads_is_not_given_to_the_next_caller(tmp_path: Path) -> None:
    body = """
    count, stream = tensor.shape()[0], self.gpu.device.create_stream()
    self.kept.append(self.gpu.device.allocate(4 * count, stream=stream))
    view = self.gpu.view_of(tensor, stream_ptr=int(stream.handle))
    (code,) = self.gpu.driver.cuMemcpyDtoDAsync(int(self.kept[-1].handle), view.ptr, 4 * count, stream.handle)
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
    self.gpu.stream = self.gpu.device.create_stream()
    self.gpu.copy(self.gpu.view(out), self.gpu.view(tensor), tensor.shape()[0])
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"].numpy()
        np.testing.assert_array_equal(answer[:4], 9)
        np.testing.assert_array_equal(answer[4:], ramp()[4:])


def test_what_an_output_was_copied_from_lives_until_the_copy_is_done(tmp_path: Path) -> None:
    body = """
    class Pooled:
        # Memory that its owner fills on another stream as soon as nobody holds it.
        def __init__(self, gpu, buffer, count):
            self.gpu, self.buffer, self.count = gpu, buffer, count
            stream = int(gpu.stream.handle)
            self.__cuda_array_interface__ = dict(
                version=3, typestr="<f4", shape=(count,), data=(int(buffer.handle), False), stream=stream)

        def __del__(self):
            other = self.gpu.device.create_stream()
            self.gpu.driver.cuMemsetD32Async(int(self.buffer.handle), 0, self.count, other.handle)

    count = tensor.shape()[0]
    self.kept.append(self.gpu.device.allocate(4 * count, stream=self.gpu.stream))
    pooled = Pooled(self.gpu, self.kept[-1], count)
    (code,) = self.gpu.driver.cuMemcpyDtoDAsync(
        int(self.kept[-1].handle), self.gpu.view(tensor).ptr, 4 * count, self.gpu.stream.handle)
    assert code == 0, code
    return Response([Tensor.from_dlpack("OUT", pooled)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        for number in range(4):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["OUT"]
            np.testing.assert_array_equal(answer.numpy(), ramp(number))


def test_a_graph_that_a_caller_captures_meanwhile_stays_whole(tmp_path: Path) -> None:
    body = """
    import time
    time.sleep(0.1)
    return Response([tensor])
    """
    caller = Caller()
    driver = caller.driver
    with served(tmp_path, body, outputs="IN", gpu=False) as model:
        answers = [model.infer({"IN": caller.given(model, ramp())})]  # all is open
        future = model.infer_async({"IN": caller.given(model, ramp(1))})
        stream = caller.device.create_stream()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        same(driver.cuStreamBeginCapture(stream.handle, mode), (0,))
        answers.append(future.result(60))
        code, _ = driver.cuStreamEndCapture(stream.handle)
        same(code, 0)
        np.testing.assert_array_equal(answers[1]["IN"].numpy(), ramp(1))


def test_a_device_that_has_another_number_in_the_stub_is_the_same_device(tmp_path: Path) -> None:
    body = """
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    gpu = Gpu()
    gpu.fill(gpu.view(tensor), 3, 8)
    return Response([tensor])
    """
    with served(tmp_path, body, outputs="IN", gpu=False) as model:
        answer = model.infer({"IN": model.empty((8,), np.float32, device="cuda:1")})["IN"]
        same(answer.device, "cuda:1")
        np.testing.assert_array_equal(answer.numpy(), 3)
