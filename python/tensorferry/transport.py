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

An array from `empty`, or one that was received, is *given* by `send`: it moves without a copy, becomes read-only here,
and giving it twice is an error. Any other array is copied once, before `send` returns, and never touched again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Channel", "TransportError"]


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
    """

    def __init__(self, fd: int, *, first: bool) -> None:
        self._fd = fd
        self._first = first
        self._end: Any = None

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Two connected ends. The first one creates the shared memory of both once it is used."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(one.detach(), first=True), Channel(other.detach(), first=False)

    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """An uninitialised array in this end's shared memory, to be filled and sent without a copy."""
        dims = [shape] if isinstance(shape, int) else list(shape)
        array: NDArray[Any] = self._open().empty(dims, np.dtype(dtype))
        return array

    def send(self, tensors: Mapping[str, ArrayLike], *, timeout: float | None = None) -> None:
        """Sends arrays by name; anything that NumPy or DLPack can make an array of.

        Blocks only while the peer does not read and its ring is full, at most `timeout` seconds.

        Raises:
            TransportError: the peer is gone, the time is over, or the memory is used up.
            ValueError: an array was given by an earlier send.
        """
        self._open().send({name: _as_array(value) for name, value in tensors.items()}, timeout=timeout)

    def recv(self, *, timeout: float | None = None) -> dict[str, NDArray[Any]] | None:
        """The next message's arrays, writable and this process's own; None when the peer is gone.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
            TransportError: the peer broke the protocol.
        """
        try:
            message = self._open().recv(timeout)
        except TransportError as error:
            if error.code == "CLOSED":
                return None
            raise
        if message is None:
            raise TimeoutError(f"nothing came within {timeout} s")
        tensors: dict[str, NDArray[Any]] = message[1]
        return tensors

    @property
    def bytes_in_use(self) -> int:
        """Bytes of this end's arena that somebody holds, here or at the peer."""
        return int(self._open().bytes_in_use)

    def close(self) -> None:
        """Ends the connection on this side; arrays that were received stay valid."""
        if self._end is not None:
            self._end.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> Any:
        if self._end is None:
            if self._fd < 0:
                raise TransportError("this end was closed", "CLOSED")
            from . import _transport

            fd, self._fd = self._fd, -1
            self._end = _transport.End.create_on(fd) if self._first else _transport.End.connect(fd, 60.0)
        return self._end

    def __reduce__(self) -> tuple[Any, ...]:
        if self._end is not None or self._fd < 0:
            raise TypeError("an end that is open belongs to its process: send it before its first use")
        return _rebuild, (reduction.DupFd(self._fd), self._first)


def _rebuild(duplicate: Any, first: bool) -> Channel:
    return Channel(duplicate.detach(), first=first)


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    return np.from_dlpack(value)
