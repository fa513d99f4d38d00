"""Two processes and a channel, without a server."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorferry import _transport
from tensorferry.transport import Channel, TransportError


def echo(end: Channel) -> None:
    """Adds one in place and sends back, until the other end is gone."""
    while (tensors := end.recv(timeout=60)) is not None:
        for array in tensors.values():
            array += 1
        end.send(tensors)


# Python 3.12 warns of every fork beside threads; that it is safe here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

METHODS = ["fork", "spawn", "forkserver"]
Worker = Callable[[Channel], None]


@contextmanager
def worker(target: Worker, method: str = "fork", **options: int) -> Iterator[tuple[Channel, Any]]:
    """A process that runs `target` on the other end; ended at the end."""
    here, there = Channel.pair(**options)
    process = multiprocessing.get_context(method).Process(target=target, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield here, process
    finally:
        here.close()
        process.join(30)
        process.kill()


def received(end: Channel) -> dict[str, Any]:
    answer = end.recv(timeout=60)
    assert answer is not None
    return answer


@pytest.mark.parametrize("method", METHODS)
def test_arrays_go_to_another_process_and_back_without_a_copy(method: str) -> None:
    here, there = Channel.pair()
    process = multiprocessing.get_context(method).Process(target=echo, args=(there,), daemon=True)
    process.start()
    there.close()
    for i in range(5):
        x = here.empty((64, 1024), np.float32)
        x[:] = i
        before = _transport.host_copies()
        here.send({"x": x})
        answer = here.recv(timeout=60)
        assert answer is not None
        assert _transport.host_copies() == before
        assert np.all(answer["x"] == i + 1)
        assert not x.flags.writeable
    del answer, x
    here.close()
    process.join(30)
    assert process.exitcode == 0


def test_an_array_is_given_once() -> None:
    here, there = Channel.pair()
    x = here.empty(4096, np.uint8)
    x[:] = 1
    here.send({"x": x})
    with pytest.raises(ValueError, match="empty"):
        here.send({"x": x})
    here.close()
    there.close()


def test_an_ordinary_array_is_copied_once_and_stays_the_callers() -> None:
    here, there = Channel.pair()
    a = np.ones(8192, np.float64)
    here.send({"a": a, "small": np.arange(3)})
    a[:] = 7
    received = there.recv(timeout=10)
    assert received is not None
    assert np.all(received["a"] == 1)
    assert list(received["small"]) == [0, 1, 2]


def test_a_peer_that_is_gone_ends_the_stream() -> None:
    here, there = Channel.pair()
    here.empty(1, np.uint8)  # opens the first end, which the second one waits for
    there.send({"last": np.zeros(10_000)})
    there.close()
    assert here.recv(timeout=10) is not None
    assert here.recv(timeout=10) is None
    with pytest.raises(TransportError):
        here.send({"x": np.zeros(3)})


def test_nothing_to_receive_is_a_timeout() -> None:
    here, there = Channel.pair()
    here.send({})
    assert there.recv(timeout=10) == {}
    with pytest.raises(TimeoutError):
        there.recv(timeout=0.05)


def test_an_open_end_cannot_be_pickled() -> None:
    here, _there = Channel.pair()
    here.empty(1, np.uint8)
    with pytest.raises(TypeError, match="before its first use"):
        pickle.dumps(here)


def copies_of_an_echo(end: Channel) -> None:
    """Sends back what comes, then how often this process has copied payload."""
    end.send(received(end))
    end.send({"copies": np.array(_transport.host_copies()[0])})
    end.recv(timeout=60)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_copied_on_either_side(method: str) -> None:
    with worker(copies_of_an_echo, method) as (here, _process):
        before = _transport.host_copies()
        x = here.empty(1 << 20, np.uint8)
        x[:] = 3
        here.send({"x": x})
        assert received(here)["x"][-1] == 3
        assert _transport.host_copies() == before
        # A forked process inherits its parent's count.
        inherited = before[0] if method == "fork" else 0
        assert int(received(here)["copies"]) == inherited


def test_what_is_received_is_writable_and_ones_own() -> None:
    here, there = Channel.pair()
    mine = np.zeros(8192, np.uint8)
    here.send({"a": mine, "again": mine})
    tensors = received(there)
    assert tensors["a"].flags.writeable
    tensors["a"][:] = 1
    assert not mine.any()
    assert not tensors["again"].any()


def test_one_array_of_ours_in_two_places_is_copied_for_the_second() -> None:
    here, there = Channel.pair()
    x = here.empty(8192, np.uint8)
    x[:] = 4
    here.send({"a": x, "b": x})
    tensors = received(there)
    tensors["a"][:] = 5
    assert np.all(tensors["b"] == 4)


def test_an_array_of_another_channel_is_copied_and_stays() -> None:
    (here, there), (other, _) = Channel.pair(), Channel.pair()
    x = other.empty(8192, np.uint8)
    x[:] = 6
    here.send({"x": x})
    x[:] = 7
    assert np.all(received(there)["x"] == 6)


def test_a_view_is_copied() -> None:
    here, there = Channel.pair()
    x = here.empty((128, 128), np.float32)
    x[:] = 1
    before = _transport.host_copies()
    here.send({"rows": x[:64], "columns": x[:, ::2], "turned": x.T})
    calls, count = _transport.host_copies()
    assert (calls - before[0], count - before[1]) == (3, 2 * x.nbytes)
    x[:] = 2
    tensors = received(there)
    assert all(np.all(part == 1) for part in tensors.values())
    assert tensors["columns"].shape == (128, 64)


class Exported:
    """An array that is known by DLPack only, as another library's would be."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_dlpack_goes_in_and_comes_out() -> None:
    here, there = Channel.pair()
    here.send({"x": Exported(np.arange(5000, dtype=np.int64))})
    tensor = received(there)["x"]
    assert np.array_equal(np.from_dlpack(tensor), np.arange(5000))


def test_every_numpy_type_that_crosses_crosses() -> None:
    here, there = Channel.pair()
    names = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
    for length in (0, 1, 3000):
        sent = {name: np.ones((length, 2), name) for name in names} | {"scalar": np.float32(3)}
        here.send(sent)
        for name, tensor in received(there).items():
            assert tensor.dtype == sent[name].dtype
            assert tensor.shape == sent[name].shape
            assert np.all(tensor == sent[name])


def test_bfloat16_crosses_where_numpy_has_it() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    here, there = Channel.pair()
    x = here.empty(3000, ml_dtypes.bfloat16)
    x[:] = 1.5
    here.send({"x": x})
    tensor = received(there)["x"]
    assert tensor.dtype == ml_dtypes.bfloat16
    assert np.all(tensor == 1.5)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, ">f4"),
        np.array([b"bytes"], object),
        np.array(["text"]),
        np.zeros(3, np.complex64),
        np.zeros(3, "M8[s]"),
        np.zeros(3, [("x", "f4")]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_does_not_cross_is_refused_by_its_name(array: Any) -> None:
    here, there = Channel.pair()
    given = here.empty(8192, np.uint8)
    with pytest.raises(TypeError, match="does not cross"):
        here.send({"given": given, "x": array})
    given[:] = 8
    here.send({"given": given})
    assert np.all(received(there)["given"] == 8)


def test_a_send_that_fails_gives_nothing() -> None:
    here, there = Channel.pair(max_bytes=1 << 20)
    x = here.empty(1 << 19, np.uint8)
    x[:] = 1
    with pytest.raises(TransportError) as error:
        here.send({"x": x, "large": np.zeros(1 << 20, np.uint8)})
    assert error.value.code == "OUT_OF_SHARED_MEMORY"
    x[:] = 2
    here.send({"x": x})
    assert np.all(received(there)["x"] == 2)
    with pytest.raises(TransportError, match="1048576"):
        there.empty(2 << 20, np.uint8)


def test_memory_comes_back_when_the_receiver_lets_go() -> None:
    here, there = Channel.pair()
    here.send({"x": here.empty(1 << 20, np.uint8)})
    tensors = received(there)
    assert here.bytes_in_use >= 1 << 20
    del tensors
    deadline = time.monotonic() + 30
    while here.trim() == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert here.bytes_in_use == 0


def echo_counted(end: Channel) -> None:
    for i in range(3000):
        tensors = received(end)
        assert int(tensors["i"][0]) == i
        end.send(tensors)


@pytest.mark.parametrize("bytes_each", [8, 8192])
def test_thousands_of_messages_leave_nothing_behind(bytes_each: int) -> None:
    with worker(echo_counted) as (here, process):
        for i in range(3000):
            x = here.empty(bytes_each // 8, np.int64)
            x[0] = i
            here.send({"i": x})
            assert received(here)["i"][0] == i
        del x
        assert here.recv(timeout=60) is None
        process.join(30)
        assert process.exitcode == 0
        assert here.bytes_in_use == 0


def send_and_wait(end: Channel) -> None:
    x = end.empty(1 << 20, np.uint8)
    x[:] = 9
    end.send({"x": x})
    signal.pause()


@pytest.mark.faults
def test_what_came_from_a_killed_process_stays() -> None:
    with worker(send_and_wait) as (here, process):
        here.send({"lent": here.empty(1 << 20, np.uint8)})
        x = received(here)["x"]
        os.kill(process.pid, signal.SIGKILL)
        assert here.recv(timeout=60) is None
        assert np.all(x == 9)
        with pytest.raises(TransportError) as error:
            here.send({})
        assert error.value.code == "CLOSED"


@pytest.mark.faults
def test_a_forked_worker_sees_that_its_parent_has_died(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    parent = os.fork()
    if parent == 0:
        here, there = Channel.pair()
        child = os.fork()
        if child == 0:
            assert there.recv(timeout=60) is not None
            answer = there.recv(timeout=60)
            seen.write_text("gone" if answer is None else "?")
            os._exit(0)
        there.close()
        here.send({})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 60
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert seen.read_text() == "gone"


@contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C for this thread soon, which must end what it waits for."""
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


def test_ctrl_c_ends_a_recv_and_loses_nothing() -> None:
    here, there = Channel.pair()
    here.send({})
    received(there)
    with interrupted():
        there.recv(timeout=60)
    here.send({"x": np.ones(1)})
    assert received(there)["x"][0] == 1


def test_ctrl_c_ends_the_wait_for_the_other_end_to_open() -> None:
    _here, there = Channel.pair()
    with interrupted():
        there.recv()
    with pytest.raises(TimeoutError):
        there.recv(timeout=0.05)


def send_without_end(end: Channel, array: Any) -> None:
    while True:
        end.send({"x": array}, timeout=0.2)


@pytest.mark.faults
def test_ctrl_c_ends_a_send_to_a_process_that_does_not_read() -> None:
    with worker(send_and_wait) as (here, process):
        received(here)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            small = np.zeros(400)
            with pytest.raises(TransportError) as error:
                send_without_end(here, small)
            assert error.value.code == "DEADLINE_EXCEEDED"
            given = here.empty(8192, np.uint8)
            with interrupted():
                here.send({"x": small, "given": given})
            assert given.flags.writeable
        finally:
            os.kill(process.pid, signal.SIGKILL)


def test_a_closed_end_says_so() -> None:
    here, there = Channel.pair()
    x = here.empty(8192, np.uint8)
    x[:] = 1
    there.send({})
    here.close()
    here.close()
    for use in (lambda: here.recv(), lambda: here.send({}), lambda: here.empty(1)):
        with pytest.raises(TransportError, match="this end was closed"):
            use()
    assert np.all(x == 1)
    there.close()
    with pytest.raises(TransportError, match="this end was closed"):
        there.recv()
    _one, never_opened = Channel.pair()
    never_opened.close()
    with pytest.raises(TransportError, match="this end was closed"):
        never_opened.recv()


def test_closing_an_end_ends_a_recv_of_another_thread() -> None:
    here, there = Channel.pair()
    here.send({})
    received(there)
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(there.recv(timeout=60)))
    thread.start()
    time.sleep(0.1)
    there.close()
    thread.join(60)
    assert answers == [None]


def test_after_a_fork_the_child_keeps_its_values_and_its_end_is_void() -> None:
    here, there = Channel.pair()
    own = here.empty(8192, np.uint8)
    own[:] = 1
    there.send({"x": np.full(8192, 2, np.uint8)})
    got = received(here)["x"]
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)
        good = bool(np.all(own == 1) and np.all(got == 2))
        try:
            here.recv(timeout=1)
            good = False
        except TransportError as error:
            good = good and error.code == "FORKED"
        here.close()
        os._exit(0 if good else 1)
    own[:] = 3
    got[:] = 4
    os.close(ready)
    os.close(go)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    there.send({})
    assert here.recv(timeout=60) == {}


def test_idle_ends_and_descriptors_are_let_go_of() -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    for opened in (False, True):
        here, there = Channel.pair()
        if opened:
            here.send({"x": np.zeros(8192)})
            there.recv(timeout=60)
        del here, there
    assert open_descriptors() == before
