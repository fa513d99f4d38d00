"""Just the transport: tensors between two Python processes through shared memory, without a server.

    from multiprocessing import Process
    from tensorferry.transport import Channel

    def worker(end):
        while (tensors := end.recv()) is not None:
            end.send(tensors)                      # goes back without a copy

    here, there = Channel.pair()
    Process(target=worker, args=(there,)).start()
    there.close()                                  # this process's copy of the other end
    x = here.empty((1024, 1024), "float32")        # born in shared memory
    x[:] = 1
    here.send({"x": x})                            # x is given: read-only from now on
    y = here.recv()["x"]                           # yours, writable
    here.close()                                   # ends the worker's loop

An array from `empty`, or one that was received, is *given* by `send`: it moves without a copy, becomes read-only here,
and giving it twice is an error. Any other array is copied once, before `send` returns, and never touched again.

Tensors in device memory go the same way: from `empty(..., device="cuda:0")` or received ones without a copy, those of other
libraries (DLPack, ``__cuda_array_interface__``) by one copy on the device. They arrive as `DeviceTensor`.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from ._transport import DeviceTensor

__all__ = ["Channel", "TransportError"]

# How long an end waits for the other one to open before it gives up.
_GREETING_SECONDS = 60.0
_DEFAULT_MAX_BYTES = 1 << 30


class TransportError(Exception):
    """What went wrong with a channel.

    Attributes:
        code: the kind of error, e.g. ``"CLOSED"`` or ``"OUT_OF_SHARED_MEMORY"``.
    """

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class Channel:
    """One end of a connection between two processes.

    An end can be pickled to a process that multiprocessing starts (spawn, fork, forkserver) until it is first used; it
    opens at its first use. As with ``multiprocessing.Pipe``, close the copy of the other end that stays in this process,
    or the death of the peer cannot be noticed. Thread-safe, but for `recv`: one thread at a time.

    An end that was open when its process forked belongs to the parent: in the child its calls raise, and arrays that the
    child inherited keep their values whatever the parent does.
    """

    def __init__(self, fd: int, *, first: bool, max_bytes: int = _DEFAULT_MAX_BYTES) -> None:
        """Takes over `fd`, one end of a SOCK_SEQPACKET socket pair; the first end decides on `max_bytes`."""
        self._fd = fd
        self._first = first
        self._max_bytes = max_bytes
        self._end: Any = None
        self._closed = False
        self._opening = threading.Lock()
        self._process = os.getpid()
        self._other: weakref.ref[Channel] | None = None

    @staticmethod
    def pair(*, max_bytes: int = _DEFAULT_MAX_BYTES) -> tuple[Channel, Channel]:
        """Two connected ends, which may each have up to `max_bytes` of shared memory.

        The first one creates the shared memory of both once it is used.
        """
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first = Channel(one.detach(), first=True, max_bytes=max_bytes)
        second = Channel(other.detach(), first=False)
        first._other, second._other = weakref.ref(second), weakref.ref(first)
        return first, second

    @overload
    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = ..., device: None = None) -> NDArray[Any]: ...
    @overload
    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = ..., *, device: str) -> NDArray[Any] | DeviceTensor: ...
    def empty(
        self, shape: Sequence[int] | int, dtype: DTypeLike = np.float64, device: str | None = None
    ) -> NDArray[Any] | DeviceTensor:
        """An uninitialised array in this end's shared memory, to be filled and sent without a copy.

        With ``device="cuda:0"`` (by this process's count) a `DeviceTensor` in memory there: `from_dlpack` of a framework is
        a view of it. Its first one makes a CUDA context, unless the process has one.

        Raises:
            TransportError: the memory is used up (``OUT_OF_SHARED_MEMORY``), the peer is gone, or there is no such device.
            TypeError: the dtype does not cross.
        """
        dims = [shape] if isinstance(shape, int) else list(shape)
        made: NDArray[Any] | DeviceTensor = self._open().empty(dims, np.dtype(dtype), device)
        return made

    def send(self, tensors: Mapping[str, Any], *, timeout: float | None = None, stream: object = None) -> None:
        """Sends arrays by name; anything that NumPy or DLPack can make an array of.

        Blocks only while the peer does not read and its ring is full, at most `timeout` seconds. When it raises, nothing
        was sent, and no array was given.

        Of tensors on a GPU `stream` is the one that the caller works with them on: a number, or a stream of cuda.core,
        PyTorch or CuPy. It need not be said of PyTorch's tensors, nor where a stream was named as the memory was taken by
        DLPack. Nobody waits for the device, but where no stream is known, and in the first sends of a device, until the peer
        has answered.

        Raises:
            TransportError: the peer is gone or can't receive tensors of that device, the time is over, or the memory is
                used up.
            ValueError: an array was given by an earlier send.
            TypeError: something is no array, or of a dtype that does not cross (objects, other byte orders).
            BufferError: a tensor on a GPU is not in C order.
        """
        end = self._open()
        end.send({name: _sendable(value) for name, value in tensors.items()}, timeout=timeout, stream=stream)

    def recv(self, *, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message's arrays, writable and this process's own; None when the peer is gone.

        Tensors on a GPU are `DeviceTensor`s, and complete: a message comes when all work on them is done.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
            TransportError: the peer broke the protocol, or this end was closed; or a tensor on a GPU is lost, since the
                peer's process ended before its work on it was done (``STUB_DIED``) or this process can't reach it. Then
                the next call gives the next message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        end = self._open(timeout)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            message = end.recv(left)
        except TransportError as error:
            if error.code == "CLOSED":
                return None
            raise
        if message is None:
            raise TimeoutError(f"nothing came within {timeout} s")
        tensors: dict[str, Any] = message[1]
        return tensors

    @property
    def bytes_in_use(self) -> int:
        """Bytes of this end's memory, shared or on devices, that somebody holds, here or at the peer."""
        return int(self._open().bytes_in_use)

    def trim(self) -> int:
        """Gives idle shared memory of this end back to the system; returns how many bytes."""
        return int(self._open().trim())

    def close(self) -> None:
        """Ends the connection on this side; arrays that were received stay valid. Harmless when it is done twice."""
        self._closed = True
        if self._end is not None:
            self._end.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._end is None and self._fd >= 0:
            os.close(self._fd)

    def _open(self, timeout: float | None = None) -> Any:
        if self._end is None:
            with self._opening:
                if self._end is None and not self._closed:
                    self._open_now(timeout)
        if self._closed:
            raise TransportError("this end was closed", "CLOSED")
        if self._process != os.getpid():
            raise TransportError(
                "this end was open when its process forked and belongs to the parent: make a pair of its own here",
                "FORKED",
            )
        return self._end

    def _open_now(self, timeout: float | None) -> None:
        from . import _transport

        self._let_go_of_the_other()
        if not self._first:
            self._await_greeting(timeout)
        fd, self._fd = self._fd, -1
        self._process = os.getpid()
        self._end = _transport.End.create_on(fd, self._max_bytes) if self._first else _transport.End.connect(fd, 1.0)

    def _let_go_of_the_other(self) -> None:
        """In a forked process that uses one end of its parent's pair: a copy of the other would hide the parent's death."""
        other = self._other() if self._other is not None else None
        if other is not None and other._end is None and self._process != os.getpid():
            other.close()

    def _await_greeting(self, timeout: float | None) -> None:
        """Until the first end is opened; signals are seen meanwhile."""
        readable = select.poll()
        readable.register(self._fd, select.POLLIN)
        patience = _GREETING_SECONDS if timeout is None else min(timeout, _GREETING_SECONDS)
        if readable.poll(patience * 1000):
            return
        if timeout is not None and timeout <= _GREETING_SECONDS:
            raise TimeoutError(f"the first end was not opened within {timeout} s")
        raise TransportError(f"the first end was not opened within {_GREETING_SECONDS} s", "DEADLINE_EXCEEDED")

    def __reduce__(self) -> tuple[Any, ...]:
        if self._end is not None or self._fd < 0:
            raise TypeError("an end that is open belongs to its process: send it before its first use")
        return _rebuild, (reduction.DupFd(self._fd), self._first, self._max_bytes)


def _rebuild(duplicate: Any, first: bool, max_bytes: int) -> Channel:
    return Channel(duplicate.detach(), first=first, max_bytes=max_bytes)


def _sendable(value: Any) -> NDArray[Any] | DeviceTensor:
    if isinstance(value, np.ndarray):
        return value
    from . import _transport

    if isinstance(value, _transport.DeviceTensor) or _transport.is_on_device(value):
        return value  # type: ignore[no-any-return]
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
