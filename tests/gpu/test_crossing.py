"""Device tensors from a caller to a model and back: what is copied, what waits, what order keeps."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from device_model import COUNT, Caller, Driver, copies, pid_of, ramp, same, served, since

import tensorferry

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

ADDS_ITS_NUMBER = """
view = self.gpu.view(tensor)
out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
there = self.gpu.view(out)
self.gpu.copy(there, view, tensor.shape()[0])
self.gpu.fill(there, 7, 3)
del there, view
return Response([Tensor.from_dlpack("OUT", out)])
"""


def test_given_memory_goes_and_comes_without_a_copy_and_in_order(tmp_path: Path) -> None:
    caller, values = Caller(), ramp()
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        for start in range(4):
            before = copies()
            answer = model.infer({"IN": caller.given(model, values + start)})["OUT"]
            same(since(before, copies()), {})
            assert answer.device == "cuda:0"
            assert answer.dtype == "float32"
            there = answer.numpy()
            np.testing.assert_array_equal(there[3:], values[3:] + start)
            np.testing.assert_array_equal(there[:3], 7)
        assert model.server.statistics()["m"]["stub_copied_bytes"] == 0


def test_once_warm_no_thread_of_a_request_waits_or_opens_anything(tmp_path: Path) -> None:
    caller, driver, values = Caller(), Driver(), ramp()
    waits = ("stream_syncs", "event_syncs", "context_syncs", "implicit_syncs", "stream_queries")
    opened = ("ipc_memory_opens", "ipc_memory_closes", "ipc_event_opens", "maps", "unmaps", "fd_imports", "fd_exports",
              "events_created", "streams_created", "contexts_created")  # fmt: skip
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        for _ in range(3):
            del_me = model.infer({"IN": caller.given(model, values)})["OUT"]
        del del_me
        stub = pid_of(model)
        ours, theirs = driver.counters(), driver.counters(stub)
        answers = [model.infer({"IN": caller.given(model, values)})["OUT"] for _ in range(10)]
        here, there = since(ours, driver.counters()), since(theirs, driver.counters(stub))
        same({name: here.get(name, 0) for name in (*waits, *opened)}, dict.fromkeys((*waits, *opened), 0))
        same({name: there.get(name, 0) for name in (*waits, *opened)}, dict.fromkeys((*waits, *opened), 0))
        assert "event_queries" not in there, "only the server looks"
        assert here["event_queries"] > 0
        assert len(answers) == 10


def test_an_input_that_nobody_touched_passes_through_without_a_context_in_the_stub(tmp_path: Path) -> None:
    caller, driver, values = Caller(), Driver(), ramp(5)
    with served(tmp_path, "return Response([tensor])", gpu=False, outputs="IN") as model:
        before = copies()
        answer = model.infer({"IN": caller.given(model, values)})["IN"]
        same(since(before, copies()), {})
        np.testing.assert_array_equal(answer.numpy(), values)
        same(driver.counters(pid_of(model))["driver_calls"], 0)


def test_numpy_of_a_device_input_needs_no_context_in_the_stub(tmp_path: Path) -> None:
    caller, driver, values = Caller(), Driver(), ramp(2)
    body = 'return Response([Tensor("OUT", tensor.as_numpy() * 2)])'
    with served(tmp_path, body, gpu=False) as model:
        before = copies()
        answer = model.infer({"IN": caller.given(model, values)})["OUT"]
        np.testing.assert_array_equal(np.asarray(answer), values * 2)
        same(since(before, copies()), {"d2h_calls": 1, "d2h_bytes": values.nbytes})
        same(driver.counters(pid_of(model))["contexts_created"], 0)


def test_unless_the_config_says_otherwise_inputs_come_to_the_cpu(tmp_path: Path) -> None:
    caller, values = Caller(), ramp(1)
    body = 'assert tensor.is_cpu()\nreturn Response([Tensor("OUT", tensor.as_numpy() + 1)])'
    with served(tmp_path, body, cpu_inputs=True, gpu=False) as model:
        for _ in range(2):
            before = copies()
            answer = model.infer({"IN": caller.given(model, values)})["OUT"]
            np.testing.assert_array_equal(np.asarray(answer), values + 1)
            same(since(before, copies()), {"d2h_calls": 1, "d2h_bytes": values.nbytes})


def test_memory_of_another_library_is_copied_once_on_the_device(tmp_path: Path) -> None:
    caller, values = Caller(), ramp(3).view(np.int8)
    body = 'assert not tensor.is_cpu()\nreturn Response([Tensor("OUT", tensor.as_numpy())])'
    with served(tmp_path, body, gpu=False, dtype="TYPE_INT8") as model:
        before = copies()
        buffer = caller.buffer(values)
        answer = model.infer({"IN": buffer}, stream=caller.stream)["OUT"]
        moved = since(before, copies())
        same((moved.pop("d2d_calls"), moved.pop("d2d_bytes")), (1, values.nbytes))
        same(moved, {"d2h_calls": 1, "d2h_bytes": values.nbytes})  # as_numpy() in the stub is the server's
        np.testing.assert_array_equal(np.asarray(answer), values)


def test_a_library_that_names_no_stream_is_waited_for_on_the_device(tmp_path: Path) -> None:
    caller, values = Caller(), ramp(6).view(np.int8)
    with served(tmp_path, 'return Response([Tensor("OUT", tensor.as_numpy())])', gpu=False, dtype="TYPE_INT8") as model:
        answer = model.infer({"IN": caller.buffer(values)})["OUT"]
        np.testing.assert_array_equal(np.asarray(answer), values)


def test_what_a_caller_writes_after_infer_async_does_not_reach_the_model(tmp_path: Path) -> None:
    caller, values = Caller(), ramp(4).view(np.int8)
    body = 'return Response([Tensor("OUT", tensor.as_numpy())])'
    with served(tmp_path, body, gpu=False, dtype="TYPE_INT8") as model:
        buffer = caller.buffer(values)
        future = model.infer_async({"IN": buffer}, stream=caller.stream)
        buffer.fill(0xFF, stream=caller.stream)
        np.testing.assert_array_equal(np.asarray(future.result()["OUT"]), values)


def test_a_buffer_that_the_model_refills_for_each_request_arrives_as_it_was(tmp_path: Path) -> None:
    caller = Caller()
    body = """
    if not self.kept:
        self.kept = [self.gpu.device.allocate(4 * tensor.shape()[0], stream=self.gpu.stream), 0]
    buffer = self.kept[0]
    self.kept[1] += 1
    (code,) = self.gpu.driver.cuMemsetD32Async(int(buffer.handle), self.kept[1], tensor.shape()[0], self.gpu.stream.handle)
    return Response([Tensor.from_dlpack("OUT", Produced(self.gpu, buffer))])
    """
    with served(tmp_path, body, dtype="TYPE_INT8") as model:
        answers = [model.infer({"IN": caller.given(model, np.zeros(6000, np.int8))})["OUT"] for _ in range(4)]
        for number, answer in enumerate(answers, 1):
            seen = answer.numpy().view(np.uint32)
            assert (seen == number).all(), seen


def test_one_answer_is_given_on_to_the_next_request_by_one_copy_or_none(tmp_path: Path) -> None:
    caller, values = Caller(), ramp()
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        first = model.infer({"IN": caller.given(model, values)})["OUT"]
        before = copies()
        second = model.infer({"IN": first})["OUT"]
        same(since(before, copies()), {"d2d_calls": 1, "d2d_bytes": values.nbytes})
        np.testing.assert_array_equal(second.numpy(), first.numpy())


# Operations run after so many looks that the poller has not seen the copy done when the message is sent: that orders, too.
@pytest.mark.emulated(schedulers=("lazy",), variables={"FAKECUDA_POLLS": "200"})
def test_a_copy_that_nobody_has_seen_done_is_waited_for_by_the_stub(tmp_path: Path) -> None:
    caller, values = Caller(), ramp()
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        first = model.infer({"IN": caller.given(model, values)})["OUT"]
        second = model.infer({"IN": first})["OUT"]
        np.testing.assert_array_equal(second.numpy(), first.numpy())


def test_what_was_given_can_not_be_given_again(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        given = caller.given(model, ramp())
        model.infer({"IN": given})
        with pytest.raises(tensorferry.errors.InvalidRequest, match="was given to an earlier request"):
            model.infer({"IN": given})


def test_tensors_that_the_model_keeps_stay_as_they_are(tmp_path: Path) -> None:
    caller = Caller()
    body = """
    self.kept.append(tensor)
    first = self.kept[0].as_numpy()
    return Response([Tensor("OUT", first)])
    """
    with served(tmp_path, body, gpu=False) as model:
        for number in range(5):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["OUT"]
            np.testing.assert_array_equal(np.asarray(answer), ramp(0))


def test_a_tensor_without_elements_crosses_without_memory(tmp_path: Path) -> None:
    body = """
    assert not tensor.is_cpu() and tensor.shape() == [0]
    return Response([Tensor.from_dlpack("OUT", pb_utils.empty((0,), "float32", device="cuda:0"))])
    """
    with served(tmp_path, body) as model:
        answer = model.infer({"IN": model.empty((0,), np.float32, device="cuda:0")})["OUT"]
        assert (answer.shape, answer.device) == ((0,), "cuda:0")
        assert answer.numpy().shape == (0,)


def test_all_memory_comes_home(tmp_path: Path) -> None:
    caller, values = Caller(), ramp()
    with served(tmp_path, ADDS_ITS_NUMBER) as model:
        answers = [model.infer({"IN": caller.given(model, values)})["OUT"] for _ in range(20)]
        del answers
        gc.collect()
        model.infer({"IN": caller.given(model, values)})  # takes along what was given back
        gpu = model.server.statistics()["m"]["gpus"]["cuda:0"]
        assert gpu["arena_bytes_in_use"] <= 2 * 4 * 4096, gpu
        assert COUNT * 4 <= 12288
