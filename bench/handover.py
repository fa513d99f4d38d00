"""What a wake-up from a futex takes here, in a Python process: no answer that somebody sleeps for comes earlier."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import struct
import time
from types import TracebackType

SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
FUTEX_WAIT, FUTEX_WAKE = 0, 1
PAUSE_SECONDS = 0.0005  # in which the other side falls asleep


class Handover:
    """A process that wakes this one when it is asked to. Made by a fork: before anything has used CUDA."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, mmap.PAGESIZE)  # the futex's word, then the time of the wake
        self.word = ctypes.c_uint32.from_buffer(self.page)
        self.libc = ctypes.CDLL(None)
        self.number = SYS_FUTEX[platform.machine()]
        theirs, self.orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.orders)
            try:
                self._wake(theirs)
            finally:
                os._exit(0)
        os.close(theirs)

    def _futex(self, operation: int, value: int) -> None:
        self.libc.syscall(self.number, ctypes.byref(self.word), operation, value, None, None, 0)

    def _wake(self, orders: int) -> None:
        while os.read(orders, 1):
            time.sleep(PAUSE_SECONDS)
            self.word.value += 1
            struct.pack_into("q", self.page, 8, time.monotonic_ns())
            self._futex(FUTEX_WAKE, 1)

    def once(self) -> float:
        """Microseconds from the wake to the first thing that the sleeper does."""
        before = self.word.value
        os.write(self.orders, b".")
        while self.word.value == before:
            self._futex(FUTEX_WAIT, before)
        now = time.monotonic_ns()
        return (now - int(struct.unpack_from("q", self.page, 8)[0])) / 1000

    def __enter__(self) -> Handover:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.orders)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
