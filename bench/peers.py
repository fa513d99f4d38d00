"""The same job, an identity in another Python process, by other means.

Each peer is a context manager whose ``call(array)`` sends the array and returns what came back. What a peer cannot do here
(a package that is not installed) raises `Unavailable` with the reason.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import tempfile
from multiprocessing import shared_memory
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


class Unavailable(Exception):
    """This peer cannot run here; the message says why."""


class Peer(Protocol):
    name: str

    def __enter__(self) -> Peer: ...
    def __exit__(self, *exc: object) -> None: ...
    def call(self, array: Array) -> Array: ...


class _ProcessPeer:
    """Starts `worker(*args)` and ends it by a None."""

    name = "?"

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Any = None

    def _start(self, worker: Any, *args: object) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=worker, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._pipe.send(None)
        assert self._process is not None
        self._process.join(10)


def _pipe_worker(pipe: multiprocessing.connection.Connection) -> None:
    while (array := pipe.recv()) is not None:
        pipe.send(array)


class PipePeer(_ProcessPeer):
    """multiprocessing.Pipe: pickled both ways."""

    name = "Pipe"

    def __enter__(self) -> PipePeer:
        self._start(_pipe_worker)
        return self

    def call(self, array: Array) -> Array:
        self._pipe.send(array)
        result: Array = self._pipe.recv()
        return result


def _shared_worker(pipe: multiprocessing.connection.Connection, name: str) -> None:
    memory = shared_memory.SharedMemory(name)
    while (size := pipe.recv()) is not None:
        view = np.ndarray((size,), np.uint8, memory.buf)
        pipe.send(view.size)
        del view
    memory.close()


class SharedMemoryPeer(_ProcessPeer):
    """shared_memory + Pipe: the best hand-made one. One copy in, a view out."""

    name = "shared_memory + Pipe"

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._memory = shared_memory.SharedMemory(create=True, size=max(capacity, 4096))
        self._view = np.ndarray((self._memory.size,), np.uint8, self._memory.buf)
        self._view[:] = 0  # its pages are there before anything is timed

    def __enter__(self) -> SharedMemoryPeer:
        self._start(_shared_worker, self._memory.name)
        return self

    def call(self, array: Array) -> Array:
        self._view[: array.size] = array
        self._pipe.send(array.size)
        result: Array = self._view[: self._pipe.recv()]
        return result

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        del self._view
        self._memory.close()
        self._memory.unlink()


def _zmq_worker(pipe: multiprocessing.connection.Connection, address: str) -> None:
    import zmq

    socket: Any = zmq.Context().socket(zmq.REP)
    socket.bind(address)
    pipe.send("ready")
    while len(frame := socket.recv(copy=False)) > 0:
        socket.send(np.frombuffer(frame, np.uint8), copy=False)
    socket.send(b"")


class ZmqPeer(_ProcessPeer):
    """pyzmq REQ/REP over ipc, copy=False."""

    name = "pyzmq"

    def __enter__(self) -> ZmqPeer:
        try:
            import zmq
        except ImportError as error:
            raise Unavailable("pyzmq is not installed") from error
        self._folder = tempfile.TemporaryDirectory()
        address = f"ipc://{self._folder.name}/socket"
        self._start(_zmq_worker, address)
        self._pipe.recv()
        self._socket: Any = zmq.Context.instance().socket(zmq.REQ)
        self._socket.connect(address)
        return self

    def call(self, array: Array) -> Array:
        self._socket.send(array, copy=False)
        answer: Array = np.frombuffer(memoryview(self._socket.recv(copy=False)), np.uint8)
        return answer

    def __exit__(self, *exc: Any) -> None:
        self._socket.send(b"")
        self._socket.recv()
        self._socket.close()
        assert self._process is not None
        self._process.join(10)
        self._folder.cleanup()
