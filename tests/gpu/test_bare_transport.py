"""Device tensors between two Python processes, by the bare transport."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from channel_worker import worker
from device_model import COUNT, Caller, Driver, needs_devices, ramp, same, since
from site_of_models import until

from tensorferry import _transport
from tensorferry.transport import Channel, TransportError

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

WAITS = ("stream_syncs", "event_syncs", "context_syncs", "implicit_syncs", "stream_queries")
OPENS = ("ipc_memory_opens", "ipc_memory_closes", "ipc_event_opens", "maps", "unmaps", "fd_imports", "fd_exports",
         "events_created", "streams_created", "contexts_created")  # fmt: skip


def received(end: Channel) -> dict[str, Any]:
    message = end.recv(timeout=60)
    assert message is not None, "the other end is gone"
    return message


class Gpu(Caller):
    """What a process has to work with a tensor on a stream of its own, which outlives the tensors that it was told of."""

    kept: ClassVar[list[Gpu]] = []

    def __init__(self) -> None:
        super().__init__()
        self.kept.append(self)

    def given(self, end: Any, values: Any) -> Any:
        return self.write(end.empty(values.shape, values.dtype, device="cuda:0"), values)

    def fill(self, tensor: Any, value: float, count: int) -> None:
        (bits,) = np.float32([value]).view(np.uint32)
        (code,) = self.driver.cuMemsetD32Async(self.view(tensor).ptr, int(bits), count, self.stream.handle)
        assert code == 0, code

    def copy(self, to: Any, of: Any) -> None:
        count = int(np.prod(of.shape)) * 4
        (code,) = self.driver.cuMemcpyDtoDAsync(self.view(to).ptr, self.view(of).ptr, count, self.stream.handle)
        assert code == 0, code


def bytes_in_use_settle_at(end: Channel, expected: int) -> None:
    gc.collect()
    give_up = time.monotonic() + 20
    while end.bytes_in_use != expected and time.monotonic() < give_up:
        with pytest.raises(TimeoutError):
            end.recv(timeout=0.01)
    same(end.bytes_in_use, expected)


def marks_in_place(end: Channel) -> None:
    """Writes 7 to the first three elements of what comes and sends it back, until the other end is gone."""
    gpu = Gpu()
    while (tensors := end.recv(timeout=60)) is not None:
        if "x" not in tensors:
            end.send({"device_counts": np.array([_transport.device_counts()[key] for key in ("d2d", "host_waits")])})
            continue
        gpu.fill(tensors["x"], 7, 3)
        end.send(tensors)


def test_memory_of_an_end_goes_there_and_back_without_a_copy_and_in_order() -> None:
    gpu, values = Gpu(), ramp()
    with worker(marks_in_place) as (here, _process):
        for start in range(4):
            before = _transport.device_counts()["d2d"]
            here.send({"x": gpu.given(here, values + start)})
            answer = received(here)["x"]
            same(_transport.device_counts()["d2d"], before)
            same((answer.dtype, answer.shape, answer.device), ("float32", (COUNT,), "cuda:0"))
            there = answer.numpy()
            np.testing.assert_array_equal(there[3:], values[3:] + start)
            np.testing.assert_array_equal(there[:3], 7)
        here.send({"how": np.zeros(1)})
        same(int(received(here)["device_counts"][0]), 0)
        del answer
        bytes_in_use_settle_at(here, 0)


def test_once_warm_nobody_waits_or_opens_anything() -> None:
    gpu, driver, values = Gpu(), Driver(), ramp()
    with worker(marks_in_place) as (here, process):
        for _ in range(3):
            here.send({"x": gpu.given(here, values)})
            answers = [received(here)["x"]]
        here.send({"how": np.zeros(1)})
        waited_there = int(received(here)["device_counts"][1])
        waited = _transport.device_counts()["host_waits"]
        ours, theirs = driver.counters(), driver.counters(process.pid)
        for _ in range(10):
            here.send({"x": gpu.given(here, values)})
            answers.append(received(here)["x"])
        here_, there = since(ours, driver.counters()), since(theirs, driver.counters(process.pid))
        same({name: here_.get(name, 0) for name in (*WAITS, *OPENS)}, dict.fromkeys((*WAITS, *OPENS), 0))
        same({name: there.get(name, 0) for name in (*WAITS, *OPENS)}, dict.fromkeys((*WAITS, *OPENS), 0))
        same(_transport.device_counts()["host_waits"], waited)
        here.send({"how": np.zeros(1)})
        same(int(received(here)["device_counts"][1]), waited_there)
        same(len(answers), 11)


def test_memory_of_another_library_is_copied_once_on_the_device() -> None:
    gpu, values = Gpu(), ramp(3)
    with worker(marks_in_place) as (here, _process):
        before = _transport.device_counts()["d2d"]
        buffer = gpu.buffer(values)
        here.send({"x": buffer}, stream=gpu.stream)
        buffer.fill(0xFF, stream=gpu.stream)  # the receiver doesn't see it
        same(_transport.device_counts()["d2d"], before + 1)
        answer = received(here)["x"]
        same((answer.dtype, answer.shape), ("int8", (values.nbytes,)))
        np.testing.assert_array_equal(answer.numpy().view(np.float32)[3:], values[3:])


def test_a_library_that_names_no_stream_is_waited_for() -> None:
    gpu, values = Gpu(), ramp(5)
    with worker(marks_in_place) as (here, _process):
        here.send({"x": gpu.buffer(values)})
        np.testing.assert_array_equal(received(here)["x"].numpy().view(np.float32)[3:], values[3:])


class ArrayInterface:
    """An array that has nothing but the CUDA array interface, with its stream."""

    def __init__(self, gpu: Gpu, values: Any) -> None:
        self.buffer = gpu.buffer(values)
        self.__cuda_array_interface__ = {
            "shape": values.shape, "typestr": values.dtype.str, "data": (int(self.buffer.handle), False),
            "version": 3, "strides": None, "stream": int(gpu.stream.handle),
        }  # fmt: skip


def test_an_array_with_the_cuda_array_interface_is_copied_on_the_stream_that_it_names() -> None:
    gpu, values = Gpu(), ramp(9)
    with worker(marks_in_place) as (here, _process):
        before = _transport.device_counts()
        here.send({"x": ArrayInterface(gpu, values)})
        answer = received(here)["x"]
        same(since(before, _transport.device_counts()).get("d2d"), 1)
        same(answer.dtype, "float32")
        np.testing.assert_array_equal(answer.numpy()[3:], values[3:])


def answers_with_a_copy(end: Channel) -> None:
    """Copies what comes to memory of its own in the stream's time, lets go of it, and sends the copy."""
    gpu = Gpu()
    while (tensors := end.recv(timeout=60)) is not None:
        x = tensors.pop("x")
        y = end.empty(x.shape, x.dtype, device=x.device)
        gpu.copy(y, x)
        del x
        end.send({"y": y})


def test_memory_is_used_anew_only_when_the_receivers_streams_are_done_with_it() -> None:
    gpu, values = Gpu(), ramp()
    with worker(answers_with_a_copy) as (here, _process):
        for number in range(12):
            here.send({"x": gpu.given(here, values + number)})
        for number in range(12):
            np.testing.assert_array_equal(received(here)["y"].numpy(), values + number)
        bytes_in_use_settle_at(here, 0)


def copies_and_lets_go(end: Channel) -> None:
    """Says that it has let go of what came while its stream may still be at work on it."""
    gpu, x = Gpu(), received(end)["x"]
    y = end.empty(x.shape, x.dtype, device=x.device)
    gpu.copy(y, x)
    del x
    end.send({"let_go": np.zeros(1)})
    received(end)
    end.send({"y": y})
    end.recv(timeout=60)


def test_memory_that_was_let_go_of_is_not_written_while_the_receivers_stream_reads_it() -> None:
    gpu, values = Gpu(), ramp()
    with worker(copies_and_lets_go) as (here, _process):
        here.send({"x": gpu.given(here, values)})
        received(here)
        kept = [gpu.given(here, values + 100) for _ in range(3)]
        here.send({"written": np.zeros(1)})
        np.testing.assert_array_equal(received(here)["y"].numpy(), values)
        same(len(kept), 3)


def sends_three(end: Channel) -> None:
    """Sends three tensors of its own, and waits until it has their memory back, or the other end is gone."""
    gpu = Gpu()
    for number in range(3):
        end.send({"x": gpu.given(end, ramp(number))})
    assert end.bytes_in_use > 0
    end.recv(timeout=60)
    bytes_in_use_settle_at(end, 0)


def test_the_second_end_sends_memory_of_its_own_too() -> None:
    with worker(sends_three) as (here, _process):
        kept = [received(here)["x"] for _ in range(3)]
        for number in range(3):
            np.testing.assert_array_equal(kept[number].numpy(), ramp(number))
        kept.clear()
        gc.collect()
        here.send({"done": np.zeros(1)})
        same(here.recv(timeout=60), None)


def test_what_was_received_outlives_the_peer() -> None:
    with worker(sends_three, ends_well=False) as (here, process):
        kept = [received(here)["x"] for _ in range(3)]
        process.kill()
        process.join()
        same(here.recv(timeout=60), None)
        for number in range(3):
            np.testing.assert_array_equal(kept[number].numpy(), ramp(number))


def writes_what_it_sums_up(end: Channel) -> None:
    """Lets the other end close, then writes the sum of what comes to the file whose name came first."""
    name = bytes(received(end)["name"]).decode()
    end.send({"x": Gpu().given(end, ramp())})  # both have opened the device
    time.sleep(0.2)
    Path(name).write_text(str(received(end)["x"].numpy().sum()))


def test_what_was_sent_before_a_close_still_comes(tmp_path: Path) -> None:
    gpu, values = Gpu(), ramp(4)
    name = tmp_path / "sum"
    with worker(writes_what_it_sums_up) as (here, process):
        here.send({"name": np.frombuffer(str(name).encode(), np.uint8)})
        received(here)
        here.send({"x": gpu.given(here, values)})
        here.close()
        process.join(60)
        same(name.read_text(), str(values.sum()))


def dies_at_work(end: Channel) -> None:
    gpu = Gpu()
    end.send({"x": gpu.given(end, ramp())})
    received(end)
    end.send({"x": gpu.given(end, ramp(1)), "y": np.zeros(3)})
    os.kill(os.getpid(), signal.SIGKILL)


def outcome_of_recv(end: Channel) -> str:
    try:
        return " ".join(received(end))
    except TransportError as error:
        return f"{error.code} {error}"


def test_a_peer_that_dies_at_work_costs_its_message_and_nothing_waits_for_it(scheduler: str) -> None:
    with worker(dies_at_work, ends_well=False) as (here, _process):
        received(here)
        here.send({"go": np.zeros(1)})
        said = outcome_of_recv(here)
        # What was done of its work before it died is known of two schedulers only.
        assert scheduler != "eager" or said == "x y", said
        assert scheduler != "lazy" or said.startswith("STUB_DIED gpu_peer_died: "), said
        assert said == "x y" or said.startswith("STUB_DIED gpu_peer_died: "), said
        same(here.recv(timeout=60), None)
        with pytest.raises(TransportError, match="closed or its process has ended"):
            here.empty(10, device="cuda:0")


def holds_until_killed(end: Channel) -> None:
    kept = [received(end)["x"] for _ in range(3)]
    gpu = Gpu()
    gpu.fill(kept[0], 1, 3)
    end.send({"ready": np.zeros(1)})
    time.sleep(600)


def test_what_a_dead_peer_held_is_free() -> None:
    gpu = Gpu()
    with worker(holds_until_killed, ends_well=False) as (here, process):
        for _ in range(3):
            here.send({"x": gpu.given(here, ramp())})
        received(here)
        assert here.bytes_in_use > 0
        process.kill()
        same(here.recv(timeout=60), None)
        until(lambda: here.bytes_in_use == 0)
        same(here.bytes_in_use, 0)


def test_a_device_goes_by_its_uuid() -> None:
    needs_devices(2)
    values = ramp(6)
    from cuda.core import Device

    second = "GPU-" + Device(1).uuid
    with worker(tells_where_it_lies, CUDA_VISIBLE_DEVICES=second) as (here, _process):
        Device(1).set_current()
        stream = Device(1).create_stream()
        x = here.empty(values.shape, values.dtype, device="cuda:1")
        gpu = Gpu()
        view = gpu.view_of(x, stream_ptr=int(stream.handle))
        (code,) = gpu.driver.cuMemcpyHtoDAsync(view.ptr, values.ctypes.data, values.nbytes, stream.handle)
        assert code == 0, code
        here.send({"x": x})
        answer = received(here)
        same(bytes(answer["where"]).decode(), "cuda:0")
        same(answer["x"].device, "cuda:1")
        np.testing.assert_array_equal(answer["x"].numpy(), values)
        Device(0).set_current()


def tells_where_it_lies(end: Channel) -> None:
    while (tensors := end.recv(timeout=60)) is not None:
        end.send({"where": np.frombuffer(tensors["x"].device.encode(), np.uint8), "x": tensors["x"]})


def tells_what_comes(end: Channel) -> None:
    end.send({"said": np.frombuffer(outcome_of_recv(end).encode(), np.uint8)})
    end.recv(timeout=60)


def test_a_peer_that_does_not_see_the_device_says_so_and_so_does_the_next_send() -> None:
    gpu = Gpu()
    with worker(tells_what_comes, CUDA_VISIBLE_DEVICES="") as (here, _process):
        here.send({"x": gpu.given(here, ramp())})
        error = bytes(received(here)["said"]).decode()
        assert error.startswith("NOT_FOUND tensor 'x' can't be received: gpu_no_device: "), error
        x = gpu.given(here, ramp())
        with pytest.raises(TransportError, match="the other end can't receive tensors of device 0: gpu_no_device"):
            here.send({"x": x})
        np.testing.assert_array_equal(x.numpy(), ramp())  # a send that raises has given nothing
        del x
        bytes_in_use_settle_at(here, 0)


def test_cuda_is_refused_in_a_forked_child() -> None:
    gpu = Gpu()
    gpu.stream.sync()
    with worker(makes_a_device_tensor, "fork") as (here, _process):
        error = bytes(received(here)["error"]).decode()
        assert error.startswith("gpu_forked: "), error
        assert "spawn" in error, error


def makes_a_device_tensor(end: Channel) -> None:
    try:
        end.empty(10, device="cuda:0")
    except TransportError as error:
        end.send({"error": np.frombuffer(str(error).encode(), np.uint8)})
    end.recv(timeout=60)


def echo(end: Channel) -> None:
    while (tensors := end.recv(timeout=60)) is not None:
        end.send(tensors)


def test_who_sends_arrays_only_calls_no_driver() -> None:
    driver = Driver()
    before = driver.counters()["driver_calls"]
    with worker(echo) as (here, process):
        x = here.empty(10_000)
        x[:] = 3
        here.send({"x": x, "small": np.arange(3)})
        same(received(here)["x"][-1], 3)
        same(driver.counters(process.pid)["driver_calls"], 0)
    same(driver.counters()["driver_calls"], before)


def test_it_is_given_once_and_sent_by_whom_it_belongs_to() -> None:
    gpu, values = Gpu(), ramp(2)
    with worker(echo) as (here, _process), worker(echo) as (there, _other):
        x = gpu.given(here, values)
        before = _transport.device_counts()["d2d"]
        there.send({"x": x})  # another end's is copied
        same(_transport.device_counts()["d2d"], before + 1)
        here.send({"x": x, "twice": x})  # so is a second one in the same message
        same(_transport.device_counts()["d2d"], before + 2)
        with pytest.raises(ValueError, match=r"'x' was given by an earlier send.*empty"):
            here.send({"x": x})
        with pytest.raises(ValueError, match="given by an earlier send"):
            x.__dlpack__(stream=1)
        for answer in (received(there), received(here)):
            for tensor in answer.values():
                np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_shapes_and_small_tensors_cross(shape: tuple[int, ...]) -> None:
    gpu = Gpu()
    values = np.arange(int(np.prod(shape)), dtype=np.int16).reshape(shape)
    with worker(echo) as (here, _process):
        x = here.empty(shape, np.int16, device="cuda")
        here.send({"x": gpu.write(x, values) if values.size else x})
        answer = received(here)["x"]
        same((answer.dtype, answer.shape, answer.device), ("int16", shape, "cuda:0"))
        np.testing.assert_array_equal(np.asarray(answer), values)


def test_a_tensor_shows_itself_to_other_libraries() -> None:
    gpu = Gpu()
    with worker(echo) as (here, _process):
        x = gpu.given(here, ramp().reshape(2, -1))
        same(x.__dlpack_device__(), (2, 0))
        interface = x.__cuda_array_interface__
        same((interface["shape"], interface["typestr"], interface["version"]), ((2, COUNT // 2), "<f4", 3))
        same(repr(x), f"DeviceTensor(dtype=float32, shape=(2, {COUNT // 2}), device='cuda:0')")
        with pytest.raises(BufferError, match="cuda:0"):
            x.__dlpack__(stream=1, dl_device=(1, 0))
        with pytest.raises(BufferError, match="consumer"):
            x.__dlpack__(stream=1, copy=True)
        with pytest.raises(ValueError, match="stream 0"):
            x.__dlpack__(stream=0)
        with pytest.raises(ValueError, match="no array without a copy"):
            np.asarray(x, copy=False)
        same(here.empty(4, "bool", device="cpu").flags.writeable, True)
        with pytest.raises(ValueError, match="device 'tpu'"):
            here.empty(4, device="tpu")
        with pytest.raises(TransportError, match="gpu_no_device"):
            here.empty(4, device="cuda:99")


def test_a_message_behind_one_that_is_not_complete_keeps_its_place() -> None:
    gpu, values = Gpu(), ramp(8)
    with worker(echo) as (here, _process):
        for number in range(6):
            here.send({"x": gpu.given(here, values + number)})
            here.send({"n": np.array([number])})
        for number in range(6):
            np.testing.assert_array_equal(received(here)["x"].numpy(), values + number)
            same(int(received(here)["n"][0]), number)
