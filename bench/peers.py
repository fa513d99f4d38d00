"""The same job, an identity in another Python process, by other means.

Each peer is a context manager whose ``call(array)`` sends the array and returns what came back. What a peer cannot do here
(a package that is not installed) raises `Unavailable` with the reason.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import tempfile
from multiprocessing import shared_memory
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
    """Starts `worker(pipe, *args)` and ends it by a None."""

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

    def __exit__(self, *exc: object) -> None:
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


def _shared_worker(pipe: multiprocessing.connection.Connection, memory: shared_memory.SharedMemory, each: int) -> None:
    while (message := pipe.recv()) is not None:
        slot, size = message if each else (0, message)
        view = np.ndarray((size,), np.uint8, memory.buf, slot * each)
        pipe.send((slot, view.size) if each else view.size)
        del view
    memory.close()


def _bytes_worker(pipe: multiprocessing.connection.Connection, memory: shared_memory.SharedMemory) -> None:
    while len(message := pipe.recv_bytes()) == 8:
        view = np.ndarray((int.from_bytes(message, "little"),), np.uint8, memory.buf)
        pipe.send_bytes(view.size.to_bytes(8, "little"))
        del view
    memory.close()


class SharedMemoryPeer(_ProcessPeer):
    """shared_memory + Pipe: what people make by hand. One copy in, a view out, sizes through the pipe.

    It does less than it might: any other dtype or shape, a second array, an error or an answer that outlives the next call
    would need more words. With `slots`, so many can be in flight.
    """

    name = "shared_memory + Pipe"

    def __init__(self, capacity: int, slots: int = 0) -> None:
        super().__init__()
        self._each = max(capacity, 64) if slots else 0
        bytes_needed = max(self._each * slots, capacity, 4096)
        free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
        if free < bytes_needed:
            raise Unavailable(f"/dev/shm has {free} bytes free, and {bytes_needed} are needed")
        self._memory = shared_memory.SharedMemory(create=True, size=bytes_needed)
        self._view = np.ndarray((self._memory.size,), np.uint8, self._memory.buf)
        self._view[:] = 0  # its pages are there before anything is timed

    def __enter__(self) -> SharedMemoryPeer:
        self._start(_shared_worker, self._memory, self._each)
        return self

    def call(self, array: Array) -> Array:
        self._view[: array.size] = array
        self._pipe.send(array.size)
        result: Array = self._view[: self._pipe.recv()]
        return result

    def submit(self, slot: int, array: Array) -> None:
        at = slot * self._each
        self._view[at : at + array.size] = array
        self._pipe.send((slot, array.size))

    def receive(self) -> tuple[int, Array]:
        slot, size = self._pipe.recv()
        return slot, self._view[slot * self._each : slot * self._each + size]

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        del self._view
        self._memory.close()
        self._memory.unlink()


class SharedMemoryBytesPeer(SharedMemoryPeer):
    """The same with eight bytes through the pipe instead of a pickled number: leaner, and can say nothing but a size."""

    name = "shared_memory + Pipe, 8 raw bytes"

    def __enter__(self) -> SharedMemoryBytesPeer:
        self._start(_bytes_worker, self._memory)
        return self

    def call(self, array: Array) -> Array:
        self._view[: array.size] = array
        self._pipe.send_bytes(array.size.to_bytes(8, "little"))
        result: Array = self._view[: int.from_bytes(self._pipe.recv_bytes(), "little")]
        return result


def _zmq_worker(pipe: multiprocessing.connection.Connection, address: str) -> None:
    import zmq

    socket: Any = zmq.Context().socket(zmq.REP)
    socket.bind(address)
    pipe.send("ready")
    while len(frame := socket.recv(copy=False)) > 0:
        socket.send(np.frombuffer(frame, np.uint8), copy=False)
    socket.send(b"")


class ZmqPeer(_ProcessPeer):
    """pyzmq REQ/REP over ipc; copy=False, which pyzmq itself takes as copy=True below 64 KiB."""

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

    def __exit__(self, *exc: object) -> None:
        self._socket.send(b"")
        self._socket.recv()
        self._socket.close()
        assert self._process is not None
        self._process.join(10)
        self._folder.cleanup()
