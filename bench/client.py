"""The C++ client of client.cc, started and told what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import tensorferry
from peers import Unavailable

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(__file__).resolve().parent / "models"


def built(name: str) -> Path:
    """What CMake's target tensorferry_bench made: in $TENSORFERRY_BENCH_BIN, or in the preset bench's build folder."""
    path = Path(os.environ.get("TENSORFERRY_BENCH_BIN", ROOT / "build" / "bench" / "bin")) / name
    if not path.exists():
        raise Unavailable(f"{path} is not built (cmake --preset bench && cmake --build --preset bench -t tensorferry_bench)")
    return path


class Round(NamedTuple):
    """Latencies from submit to the answer taken, in microseconds; calls of operator new."""

    seconds: float
    p50: float
    p99: float
    allocations: int


class Client:
    """The model `identity` served and called by a C++ program. A context manager."""

    def __init__(self) -> None:
        payload = Path(tensorferry.__file__).parent / "payload"
        command = [built("tensorferry_bench_client"), MODELS, payload, sys.executable]
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.stub_pid = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the C++ client ended with {self._process.wait()}")
        return line

    def round(self, in_flight: int, count: int) -> Round:
        """`count` requests of 4 bytes, `in_flight` at a time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{in_flight} {count}\n")
        self._process.stdin.flush()
        seconds, p50, p99, allocations = self._line().split()
        return Round(float(seconds), float(p50), float(p99), int(allocations))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
