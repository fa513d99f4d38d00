"""How many system calls does a request of 4 bytes make under load, in the server's process and in the stub's?

    python bench/system_calls.py [--quick] [--preloaded] [--json FILE]

None when both sides are awake; to see to that, each is kept on a CPU of its own, and since every round begins with a stub
that fell asleep while the counter was started, what counts is what a round of twice as many requests does more. Rounds are
short, since whatever else runs there puts one of them to sleep. The witness is the kernel's counter of
raw_syscalls:sys_enter (perf_counter.py); where it can't be used, a preloaded library that counts the calls of libc's
wrappers (call_counter.cc). Neither stops or wakes anybody; strace and ptrace would put each peer to sleep at each call of
the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import host
import program
import tensorferry
from client import MODELS, Client, built
from peers import Unavailable
from perf_counter import SystemCalls
from report import system_calls_table

FOLDER = "TENSORFERRY_CALL_COUNTS"  # where call_counter.cc writes
IN_FLIGHT = 16
COUNT = 1000  # requests of a round
KERNEL = "the kernel's raw_syscalls:sys_enter, as perf stat counts it"
PRELOADED = (
    "a preloaded counter of libc's syscall(), sched_yield() and I/O calls (what libc calls inside itself is not seen)"
)
Counts = dict[int, tuple[int, int, int]]  # by pid: all, futex, sched_yield


class Witness(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def read(self) -> Counts: ...


class PreloadedCalls:
    """Reads what call_counter.cc counts in each process; it counts always."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._files = {pid: Path(os.environ[FOLDER], str(pid)) for pid in pids}
        for pid, file in self._files.items():
            if not file.exists():
                raise Unavailable(f"process {pid} did not take the preloaded counter")

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def read(self) -> Counts:
        counts = {}
        for pid, file in self._files.items():
            syscalls, yields, transfers = struct.unpack("=QQQ", file.read_bytes())
            counts[pid] = (syscalls + yields + transfers, syscalls, yields)
        return counts


@contextlib.contextmanager
def witness_of(pids: Iterable[int]) -> Iterator[Witness]:
    if FOLDER in os.environ:
        yield PreloadedCalls(pids)
    else:
        with SystemCalls(pids) as counter:
            yield counter


def rows_of(load: str, server: int, stub: int, call: Callable[[int], object], rounds: int) -> list[dict[str, Any]]:
    """Per request, what each process does more in a round of twice COUNT than in the best one of COUNT."""
    once: list[Counts] = []
    twice: list[Counts] = []
    with host.apart(server, stub), witness_of((server, stub)) as witness:
        call(5 * COUNT)
        for _ in range(rounds):
            once.append(counted(witness, lambda: call(COUNT)))
            twice.append(counted(witness, lambda: call(2 * COUNT)))

    def more(of: Callable[[list[int]], float], pids: Iterable[int], kind: int) -> float:
        short, long = ([sum(one[pid][kind] for pid in pids) for one in done] for done in (once, twice))
        return max(0.0, of(long) - min(short)) / COUNT

    rows = []
    for process, pid in (("server", server), ("stub", stub)):
        row = {"load": load, "process": process, "best": more(min, [pid], 0), "p50": more(statistics.median, [pid], 0)}
        rows.append(row | {"futexes": more(min, [pid], 1), "yields": more(min, [pid], 2)})
    rows[0]["best_of_both"] = more(min, [server, stub], 0)
    return rows


def counted(witness: Witness, call: Callable[[], object]) -> Counts:
    before = witness.read()
    witness.start()
    call()
    witness.stop()
    return {pid: (a - before[pid][0], b - before[pid][1], c - before[pid][2]) for pid, (a, b, c) in witness.read().items()}


def from_python(rounds: int) -> list[dict[str, Any]]:
    with tensorferry.Server(MODELS, models=["identity"]) as server:
        model, array = server.model("identity"), np.arange(4, dtype=np.uint8)

        def call(count: int) -> None:
            for _ in range(count):
                model.infer({"IN": array})

        stub = int(server.statistics()["identity"]["instances"][0]["pid"])
        return rows_of("Python, 1 in flight", os.getpid(), stub, call, rounds)


def from_cpp(rounds: int) -> list[dict[str, Any]]:
    with Client() as client:
        load = f"C++, {IN_FLIGHT} in flight"
        return rows_of(load, client.pid, client.stub_pid, lambda count: client.round(IN_FLIGHT, count), rounds)


def run(rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {"host": host.describe(), "witness": PRELOADED if FOLDER in os.environ else KERNEL, "rows": []}
    result["rows"] += from_python(rounds)
    try:
        result["rows"] += from_cpp(rounds)
    except Unavailable as why:
        host.progress(f"left out: {why}")
    return result


def run_preloaded(rounds: int) -> dict[str, Any]:
    """Itself once more, with the counter in all processes."""
    library = built("libtensorferry_call_counter.so")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "result.json")
        command = [sys.executable, __file__, "--json", str(output), "--rounds", str(rounds)]
        environment = dict(os.environ, LD_PRELOAD=str(library), **{FOLDER: folder})
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        result: dict[str, Any] = json.loads(output.read_text())
        return result


def kernels_count(rounds: int) -> dict[str, Any]:
    try:
        return run(rounds)
    except Unavailable as why:
        return {"skipped": str(why)}


def main() -> int:
    parser = program.options(__doc__)
    parser.add_argument("--preloaded", action="store_true", help="by the preloaded library, even where the kernel tells")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (100 if arguments.quick else 400)
    result: dict[str, Any] = {"skipped": "two CPUs are needed for both sides to be awake"}
    if host.keep_to(2):
        host.progress("system calls of a request")
        result = {"skipped": "not asked"} if arguments.preloaded else kernels_count(rounds)
        if "skipped" in result and FOLDER not in os.environ:
            host.progress(f"{KERNEL}: {result['skipped']}")
            try:
                result = run_preloaded(rounds)
            except Unavailable as why:
                result = {"skipped": f"{result['skipped']}; {why}"}
    return program.finish(result, system_calls_table, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
