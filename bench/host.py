"""What a run has to say about the machine it ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def describe() -> dict[str, Any]:
    """Recorded beside every table; `cpus` are those that this process may use."""
    return {
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def line(host: Mapping[str, Any]) -> str:
    return (
        f"{host['cpu']}, {host['cpus']} CPU{'s' if host['cpus'] > 1 else ''}, load {host['load']} at the start, "
        f"Linux {host['kernel']}, Python {host['python']}, NumPy {host['numpy']}"
    )


def keep_to(cpus: int) -> bool:
    """Pins this process, and all that it starts, to so many CPUs, as taskset does. False where there are fewer."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cpus:
        return False
    os.sched_setaffinity(0, allowed[:cpus])
    return True


def keep_on(pid: int, cpus: Iterable[int]) -> None:
    """Pins a process, with the threads that it has now."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):  # it may end between the listing and here
            os.sched_setaffinity(int(thread), cpus)


@contextlib.contextmanager
def apart(first: int, second: int) -> Iterator[None]:
    """Each of two processes has a CPU of its own meanwhile."""
    allowed = sorted(os.sched_getaffinity(0))
    for pid, cpu in zip((first, second), allowed, strict=False):
        keep_on(pid, {cpu})
    try:
        yield
    finally:
        for pid in (first, second):
            keep_on(pid, allowed)


def progress(text: str) -> None:
    """To stderr, so that stdout is the result."""
    print(f"  {text}", file=sys.stderr, flush=True)
