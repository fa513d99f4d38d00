"""Two processes and a channel, without a server."""

from __future__ import annotations

import multiprocessing
import pickle

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


@pytest.mark.parametrize("method", ["fork", "spawn"])
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
