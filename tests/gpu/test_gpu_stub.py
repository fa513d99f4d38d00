"""What a model.py can do with device tensors, and what the stub does for it: whom it waits for, what it copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import COUNT, Caller, Driver, needs_devices, pid_of, ramp, same, served

from tensorferry import _server

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated(devices=2)


def counted(pid: int, name: str, key: str) -> dict[str, int]:
    """A process's counters of that name by the label `key`, without those at zero."""
    return {
        dict(sample["labels"])[key]: sample["value"]
        for sample in _server.read_counters(pid)
        if sample["name"] == name and sample["value"] and not sample["labels"].get("device")
    }


def host_waits(model: Any) -> dict[str, int]:
    waits = counted(pid_of(model), "host_waits", "reason")
    waits.pop("probe", None)  # when the device was opened
    return waits


def device_copies(model: Any) -> int:
    return counted(pid_of(model), "copies", "kind").get("d2d", 0)


def ask(model: Any, caller: Caller, start: float = 0) -> Any:
    return model.infer({"IN": caller.given(model, ramp(start))})["OUT"]


# ------------------------------------------------------------------------------------- taking inputs


def test_what_dlpack_can_not_give_is_refused_with_the_reason(tmp_path: Path) -> None:
    body = """
    def refused(kind, **how):
        try:
            tensor.__dlpack__(**how)
        except kind as error:
            return str(error)

    assert tensor.__dlpack_device__() == (2, 0)
    assert "ambiguous" in refused(ValueError, stream=0)
    assert "copy the result" in refused(BufferError, copy=True)
    assert "another device" in refused(BufferError, dl_device=(1, 0))
    assert "another device" in refused(BufferError, dl_device=(2, 1))
    assert refused(TypeError, stream="fast")
    assert 'dltensor_versioned' in repr(tensor.__dlpack__(max_version=(1, 0), dl_device=(2, 0)))
    return Response([Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        np.testing.assert_array_equal(ask(model, caller).numpy(), ramp())


@pytest.mark.parametrize(
    ("how", "waits"),
    [
        ("tensor.__dlpack__()", {}),
        ("tensor.__dlpack__(stream=1)", {}),
        ("tensor.__dlpack__(stream=2)", {}),
        ("tensor.__dlpack__(stream=int(self.gpu.stream.handle))", {}),
        ("tensor.__cuda_array_interface__", {}),
        ("tensor.__dlpack__(stream=-1)", {"no_stream": 1}),
        ("tensor.to_dlpack()", {"bare_capsule": 1}),
    ],
)
def test_only_who_names_no_stream_is_waited_for_on_a_thread(tmp_path: Path, how: str, waits: dict[str, int]) -> None:
    with served(tmp_path, f"{how}\nreturn Response([tensor])", outputs="IN") as model:
        caller = Caller()
        answer = model.infer({"IN": caller.given(model, ramp())})["IN"]
        np.testing.assert_array_equal(answer.numpy(), ramp())
        same(host_waits(model), waits)


def test_a_stream_that_is_being_captured_waits_on_the_thread_and_the_graph_stays_whole(tmp_path: Path) -> None:
    body = """
    driver, stream = self.gpu.driver, self.gpu.stream.handle
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    assert driver.cuStreamBeginCapture(stream, mode) == (0,)
    view = self.gpu.view(tensor)
    out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
    there = self.gpu.view(out)
    self.gpu.copy(there, view, tensor.shape()[0])
    code, graph = driver.cuStreamEndCapture(stream)
    assert code == 0, code
    code, ready = driver.cuGraphInstantiate(graph, 0)
    assert code == 0, code
    assert driver.cuGraphLaunch(ready, stream) == (0,)
    del view, there
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        np.testing.assert_array_equal(ask(model, caller, 3).numpy(), ramp(3))
        same(host_waits(model), {"capture": 1})


def test_numpy_of_an_input_sees_what_streams_have_done_to_it(tmp_path: Path) -> None:
    body = """
    view = self.gpu.view(tensor)
    self.gpu.fill(view, 7, 5)
    array = tensor.as_numpy()
    assert array is tensor.as_numpy() and not tensor.is_cpu()
    return Response([Tensor("OUT", array)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        answer = np.asarray(ask(model, caller))
        assert (answer[:5] == 7).all()
        np.testing.assert_array_equal(answer[5:], ramp()[5:])
        same(host_waits(model), {"host_array": 1})


def test_strict_models_get_tritons_refusal_of_numpy(tmp_path: Path) -> None:
    body = """
    try:
        tensor.as_numpy()
    except pb_utils.TritonModelException as error:
        assert str(error) == "Tensor is stored in GPU and cannot be converted to NumPy.", error
    else:
        raise AssertionError("it was converted")
    return Response([tensor])
    """
    strict = 'parameters { key: "TENSORFERRY_STRICT" value: { string_value: "1" } }'
    with served(tmp_path, body, gpu=False, outputs="IN", more=strict) as model:
        caller = Caller()
        np.testing.assert_array_equal(model.infer({"IN": caller.given(model, ramp())})["IN"].numpy(), ramp())


def test_a_forked_child_is_told_to_be_spawned(tmp_path: Path) -> None:
    body = """
    def said_by_a_child(use):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                use()
                os.write(write, b"it worked")
            except Exception as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.close(write)
        said = select.select([read], [], [], 20)[0] and os.read(read, 4000).decode()
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return said or "nothing"

    import select, signal
    for use in (tensor.__dlpack__, tensor.as_numpy, lambda: pb_utils.empty(3, "float32", "cuda:0")):
        said = said_by_a_child(use)
        assert "gpu_forked" in said and "spawn" in said and "copy the tensor before the fork" in said, said
    return Response([Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        np.testing.assert_array_equal(ask(model, caller).numpy(), ramp())


# ---------------------------------------------------------------------------------- giving outputs


def test_a_library_that_orders_nothing_is_copied_after_all_of_its_context(tmp_path: Path) -> None:
    body = """
    self.kept.append(stream := self.gpu.device.create_stream())
    view = self.gpu.view_of(tensor, stream_ptr=int(stream.handle))
    buffer = self.gpu.device.allocate(4 * tensor.shape()[0], stream=stream)
    (code,) = self.gpu.driver.cuMemcpyDtoDAsync(int(buffer.handle), view.ptr, 4 * tensor.shape()[0], stream.handle)
    assert code == 0
    del view
    self.kept.append(buffer)
    return Response([Tensor.from_dlpack("OUT", buffer)])
    """
    with served(tmp_path, body, dtype="TYPE_INT8") as model:
        caller = Caller()
        values = np.arange(6000).astype(np.int8)
        for number in range(3):
            given = caller.given(model, values + np.int8(number))
            answer = model.infer({"IN": given})["OUT"]
            np.testing.assert_array_equal(answer.numpy()[:6000], values + np.int8(number))
        same(host_waits(model), {})


OBJECT = """
class Object:
    def __init__(self, owner, **interface):
        self.owner, self.__cuda_array_interface__ = owner, dict(version=3, typestr="<f4", **interface)
"""


def test_the_cuda_array_interface_gives_outputs_on_the_stream_that_it_names(tmp_path: Path) -> None:
    body = (
        OBJECT
        + """
view, count = self.gpu.view(tensor), tensor.shape()[0]
buffer = self.gpu.device.allocate(4 * count, stream=self.gpu.stream)
(code,) = self.gpu.driver.cuMemcpyDtoDAsync(int(buffer.handle), view.ptr, 4 * count, self.gpu.stream.handle)
assert code == 0
rows = Object(buffer, shape=(30, 20), strides=(400, 4), data=(int(buffer.handle), False), stream=int(self.gpu.stream.handle))
return Response([Tensor.from_dlpack("OUT", rows)])
"""
    )
    with served(tmp_path, body) as model:
        caller = Caller()
        for start in range(3):
            np.testing.assert_array_equal(ask(model, caller, start).numpy(), ramp(start).reshape(30, 100)[:, :20])
        same((host_waits(model), device_copies(model)), ({}, 3))


def test_memory_of_empty_that_comes_back_from_another_library_needs_no_copy(tmp_path: Path) -> None:
    body = (
        OBJECT
        + """
there, count = self.gpu.view(pb_utils.empty(tensor.shape(), "float32", device="cuda:0")), tensor.shape()[0]
self.gpu.copy(there, self.gpu.view(tensor), count)
made = Object(there, shape=(count,), data=(there.ptr, False), stream=int(self.gpu.stream.handle))
return Response([Tensor.from_dlpack("OUT", made)])
"""
    )
    with served(tmp_path, body) as model:
        caller = Caller()
        for start in range(3):
            np.testing.assert_array_equal(ask(model, caller, start).numpy(), ramp(start))
        same((host_waits(model), device_copies(model)), ({}, 0))


def test_an_input_is_edited_in_place_and_goes_back_without_a_copy(tmp_path: Path) -> None:
    body = """
    view = self.gpu.view(tensor)
    self.gpu.fill(view, 9, 4)
    del view
    return Response([tensor])
    """
    with served(tmp_path, body, outputs="IN") as model:
        caller = Caller()
        answer = model.infer({"IN": caller.given(model, ramp())})["IN"]
        assert (answer.numpy()[:4] == 9).all()
        np.testing.assert_array_equal(answer.numpy()[4:], ramp()[4:])
        same((host_waits(model), device_copies(model)), ({}, 0))


def test_an_input_that_the_model_keeps_is_copied_once_and_stays_as_it_was(tmp_path: Path) -> None:
    body = """
    view = self.gpu.view(tensor)
    self.gpu.fill(view, len(self.kept), 4)
    self.kept.append(view)
    if len(self.kept) == 4:
        for number, old in enumerate(self.kept):
            copy = np.empty(tensor.shape(), np.float32)
            assert self.gpu.driver.cuMemcpyDtoHAsync(copy.ctypes.data, old.ptr, copy.nbytes, self.gpu.stream.handle) == (0,)
            self.gpu.stream.sync()
            assert (copy[:4] == number).all() and (copy[4:] == np.arange(4, copy.size) + number).all(), (number, copy)
    return Response([tensor])
    """
    with served(tmp_path, body, outputs="IN") as model:
        caller = Caller()
        for number in range(4):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["IN"]
            caller.sent.append(answer)
            assert (answer.numpy()[:4] == number).all()
        same(device_copies(model), 4)


def test_what_is_given_moves_once_though_the_model_holds_it(tmp_path: Path) -> None:
    body = """
    if not self.kept:
        self.kept = [pb_utils.empty(tensor.shape(), "float32", device="cuda")]
        self.gpu.fill(self.gpu.view(self.kept[0]), 5, 3000)
        pb_utils.give(self.kept[0])
    return Response([Tensor.from_dlpack("OUT", self.kept[0])])
    """
    with served(tmp_path, body) as model:
        caller = Caller()
        answers = [ask(model, caller) for _ in range(3)]
        for answer in answers:
            assert (answer.numpy() == 5).all()
        same(device_copies(model), 2)


def test_one_tensor_in_two_outputs_is_copied_for_the_second(tmp_path: Path) -> None:
    body = """
    return Response([Tensor.from_dlpack("OUT", tensor), Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        np.testing.assert_array_equal(ask(model, caller).numpy(), ramp())
        same(device_copies(model), 1)


def test_a_model_that_gets_the_cpus_tensors_answers_with_a_devices(tmp_path: Path) -> None:
    needs_devices(2)
    body = """
    array = tensor.as_numpy()
    out = pb_utils.empty(array.shape, array.dtype, device="cuda:1")
    self.gpu.driver.cuCtxSynchronize()
    device = out.__dlpack_device__()
    assert device == (2, 1), device
    from cuda.core import Device
    other = Device(1)
    other.set_current()
    self.kept.append(stream := other.create_stream())
    view = self.gpu.view_of(out, stream_ptr=int(stream.handle))
    assert self.gpu.driver.cuMemcpyHtoDAsync(view.ptr, array.ctypes.data, array.nbytes, stream.handle) == (0,)
    self.gpu.device.set_current()
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    with served(tmp_path, body) as model:
        for start in range(2):
            answer = model.infer({"IN": ramp(start)})["OUT"]
            same(answer.device, "cuda:1")
            np.testing.assert_array_equal(answer.numpy(), ramp(start))


def test_numpy_of_what_the_model_made_is_its_own_copy(tmp_path: Path) -> None:
    body = """
    out = pb_utils.empty((10,), "float32", device="cuda:0")
    self.gpu.fill(self.gpu.view(out), 4, 10)
    array = out.as_numpy()
    assert (array == 4).all(), array
    return Response([Tensor("OUT", array)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        assert (np.asarray(ask(model, caller)) == 4).all()


def test_arguments_of_empty_are_checked(tmp_path: Path) -> None:
    body = """
    def refused(*arguments):
        try:
            pb_utils.empty(*arguments)
        except Exception as error:
            return type(error).__name__ + ": " + str(error)

    assert refused(3, "float32", "tpu:0").startswith("ValueError"), refused(3, "float32", "tpu:0")
    assert refused(3, "float32", "cuda:x").startswith("ValueError")
    assert "gpu_no_device" in refused(3, "float32", "cuda:99"), refused(3, "float32", "cuda:99")
    assert "gpu_oom" in refused(1 << 40, "float32", "cuda:0"), refused(1 << 40, "float32", "cuda:0")
    return Response([Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        ask(model, caller)


# --------------------------------------------------------------------------------------- lifetimes


def test_buffers_that_the_model_throws_away_are_used_again_after_their_streams(tmp_path: Path) -> None:
    body = """
    view = self.gpu.view(tensor)
    for _ in range(4):
        self.gpu.copy(self.gpu.view(pb_utils.empty(tensor.shape(), "float32", device="cuda:0")), view, 3000)
    out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
    self.kept.append(self.gpu.stream)
    self.gpu.stream = self.gpu.device.create_stream()
    view = self.gpu.view(tensor)
    there = self.gpu.view(out)
    self.gpu.copy(there, view, 3000)
    del view, there
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    with served(tmp_path, body) as model:
        caller = Caller()
        for start in range(6):
            np.testing.assert_array_equal(ask(model, caller, start).numpy(), ramp(start))


def test_tensors_dropped_by_other_threads_come_home(tmp_path: Path) -> None:
    body = """
    import threading
    self.kept.append(self.gpu.view(tensor))
    def work(old):
        self.gpu.fill(old[0], 1, 8)
        old.clear()
    old = [self.kept.pop(0)] if len(self.kept) > 2 else []
    if old:
        thread = threading.Thread(target=work, args=(old,))
        del old
        thread.start()
        thread.join()
    return Response([Tensor.from_dlpack("OUT", pb_utils.empty((8,), "float32", device="cuda:0"))])
    """
    with served(tmp_path, body) as model:
        caller = Caller()
        for start in range(8):
            ask(model, caller, start)


def test_a_model_that_ends_with_device_tensors_in_its_hands_ends_well(tmp_path: Path) -> None:
    body = """
    import builtins
    builtins.kept_for_ever = [tensor, self.gpu.view(tensor), pb_utils.empty((10,), "float32", device="cuda:0")]
    return Response([Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body) as model:
        np.testing.assert_array_equal(ask(model, caller).numpy(), ramp())


def test_a_hundred_requests_under_way_take_their_turns(tmp_path: Path) -> None:
    body = """
    view = self.gpu.view(tensor)
    out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
    self.gpu.copy(self.gpu.view(out), view, 3000)
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    caller, driver = Caller(), Driver()
    with served(tmp_path, body) as model:
        ask(model, caller)  # opens the device
        before = driver.counters(pid_of(model))["event_queries"]
        futures = [model.infer_async({"IN": caller.given(model, ramp(start))}) for start in range(100)]
        for start, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(60)["OUT"].numpy(), ramp(start))
        same(driver.counters(pid_of(model))["event_queries"], before)
        assert COUNT == 3000
