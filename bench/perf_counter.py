"""The kernel's own count of the system calls of other processes: the event raw_syscalls:sys_enter of `perf stat -p`, opened
here by perf_event_open(2), so that it starts and stops with a round and needs no program. Nothing is traced or stopped: the
kernel adds one to a number.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from peers import Unavailable

# perf_event_open, futex, sched_yield
_NUMBERS = {"x86_64": (298, 202, 24), "aarch64": (241, 98, 124)}
_SIZE = 112  # of perf_event_attr, as of Linux 4.1
_TRACEPOINT = 2  # PERF_TYPE_TRACEPOINT
_DISABLED = 1
_SET_FILTER = 0x40082406  # PERF_EVENT_IOC_SET_FILTER
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_DISABLE_ALL, _ENABLE_ALL = 31, 32  # prctl: every event that this thread has opened


def _event_id() -> int:
    for folder in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        try:
            return int(Path(folder, "events/raw_syscalls/sys_enter/id").read_text())
        except OSError:
            continue
    raise Unavailable("tracefs can't be read (it takes root)")


class SystemCalls:
    """Counts of all threads that the processes have now: all, futex, sched_yield. A context manager.

    Counting is off outside of start() and stop(). A thread that one of them starts later is not seen.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        if platform.machine() not in _NUMBERS:
            raise Unavailable(f"system call numbers of {platform.machine()} are not known here")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._open_number, *filters = _NUMBERS[platform.machine()]
        self._files: dict[int, list[list[int]]] = {}
        event = _event_id()
        for pid in pids:
            threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
            self._files[pid] = [[self._open(event, thread, None) for thread in threads]]
            self._files[pid] += [[self._open(event, thread, number) for thread in threads] for number in filters]

    def _open(self, event: int, thread: int, number: int | None) -> int:
        attributes = struct.pack("=IIQQQQQ", _TRACEPOINT, _SIZE, event, 0, 0, 0, _DISABLED).ljust(_SIZE, b"\0")
        file: int = self._libc.syscall(
            self._open_number, attributes, ctypes.c_int(thread), ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_long(_CLOEXEC)
        )
        if file < 0:
            raise Unavailable(f"perf_event_open: {os.strerror(ctypes.get_errno())}")
        if number is not None:
            fcntl.ioctl(file, _SET_FILTER, f"id == {number}".encode() + b"\0")
        return file

    def start(self) -> None:
        self._libc.prctl(_ENABLE_ALL)

    def stop(self) -> None:
        """This call itself is seen, where this process is among those that are counted."""
        self._libc.prctl(_DISABLE_ALL)

    def read(self) -> dict[int, tuple[int, int, int]]:
        """By pid: system calls since the beginning, and of these futex and sched_yield."""

        def total(files: list[int]) -> int:
            return sum(struct.unpack("=Q", os.read(file, 8))[0] for file in files)

        return {pid: (total(files[0]), total(files[1]), total(files[2])) for pid, files in self._files.items()}

    def __enter__(self) -> SystemCalls:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for by_filter in self._files.values():
            for file in itertools.chain.from_iterable(by_filter):
                os.close(file)
