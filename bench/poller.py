"""How late does an answer come after the device is done, and what does looking for that cost?

    ./dev fake-cuda -- python bench/poller.py [--quick] [--rounds N] [--json FILE]

Only the emulated driver says when an operation was complete, so this runs on no other. Each operation takes
FAKECUDA_DELAY_US there, unless FAKECUDA_SCHED says otherwise. A model edits its input in place; the time from completion to
answer stands beside what a wake-up from a futex took in the same rounds. CPU is that of the server's one thread that looks.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import host
import program
import tensorferry
from handover import Handover
from peers import Unavailable
from report import markdown, time_text

MODELS = Path(__file__).resolve().parent / "gpu_models"
MODEL = "edit_in_place"
THREAD = "ferry-gpu-poll"
IN_FLIGHT = (1, 16, 64)
BYTES = 4096
GOAL_US = 15  # beyond the wake-up
IDLE_SECONDS = 1.0
CALLS = (
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuStreamIsCapturing",
    "cuThreadExchangeStreamCaptureMode",
    "cuStreamWaitEvent",
    "cuEventRecord",
    "cuEventQuery",
    "cuMemcpyAsync",
    "cuMemsetD8Async",
)


class Emulator:
    """What the driver says beyond the real one: calls by function of any process, and when things were complete."""

    def __init__(self, state: Path) -> None:
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
            self.seen_completion = self.library.fakecuda_seen_completion
        except (OSError, AttributeError):
            raise Unavailable("no other driver than the emulated one says when something was complete") from None
        self.library.fakecuda_read_calls.restype = ctypes.c_uint64
        self.library.fakecuda_counter_names.restype = ctypes.c_char_p
        self.names = self.library.fakecuda_counter_names().decode().split(",")
        self.state = state

    def last_completion_ns(self) -> tuple[int, int]:
        """Of what this process last found complete: when it became so, and when that was seen."""
        times = (ctypes.c_uint64 * 2)()
        self.seen_completion(ctypes.byref(times), ctypes.byref(times, 8))
        return times[0], times[1]

    def calls(self, pid: int) -> dict[str, int]:
        file = os.fsencode(self.state / f"{pid}.fakecuda")
        counts = {name: int(self.library.fakecuda_read_calls(file, name.encode())) for name in CALLS}
        values = (ctypes.c_uint64 * len(self.names))()
        self.library.fakecuda_read_counters(file, ctypes.byref(values))
        counters = dict(zip(self.names, values, strict=True))
        return counts | {"others": counters["driver_calls"] - sum(counts.values())}


def poller_ns() -> int:
    """The CPU time of the thread that looks."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == THREAD:
            return int((task / "schedstat").read_text().split()[0])
    raise RuntimeError(f"there is no thread {THREAD}")


def ask(model: Any) -> Any:
    return model.infer_async({"IN": model.empty((BYTES,), np.uint8, device="cuda:0")})


def lateness(model: Any, emulator: Emulator, calls: int) -> tuple[float, float]:
    """Microseconds from completion until it is seen, and until the answer is there, one in flight: the medians."""
    seen_after, answered_after = [], []
    for _ in range(calls):
        model.infer({"IN": model.empty((BYTES,), np.uint8, device="cuda:0")})
        now = time.monotonic_ns()
        completed, seen = emulator.last_completion_ns()
        seen_after.append((seen - completed) / 1000)
        answered_after.append((now - completed) / 1000)
    return statistics.median(seen_after), statistics.median(answered_after)


def keep_in_flight(model: Any, count: int, calls: int) -> None:
    waiting: deque[Any] = deque()
    for _ in range(calls):
        if len(waiting) == count:
            waiting.popleft().result()
        waiting.append(ask(model))
    while waiting:
        waiting.popleft().result()


def cost(model: Any, emulator: Emulator, pids: tuple[int, int], count: int, calls: int) -> dict[str, Any]:
    """Per request: microseconds of the poller's CPU, and calls of the driver by the server and by the stub."""
    before, cpu = [emulator.calls(pid) for pid in pids], poller_ns()
    keep_in_flight(model, count, calls)
    spent, after = poller_ns() - cpu, [emulator.calls(pid) for pid in pids]
    per_call = [{name: (now[name] - then[name]) / calls for name in now} for then, now in zip(before, after, strict=True)]
    return {"in_flight": count, "cpu_us": spent / 1000 / calls, "server": per_call[0], "stub": per_call[1]}


def idle_cpu_us() -> float:
    time.sleep(0.1)
    before = poller_ns()
    time.sleep(IDLE_SECONDS)
    return (poller_ns() - before) / 1000


def run(state: Path, rounds: int, calls: int) -> dict[str, Any]:
    emulator = Emulator(state)
    late: list[tuple[float, float]] = []
    wake: list[float] = []
    with Handover() as handover, tensorferry.Server(MODELS) as server:
        model = server.model(MODEL)
        pids = (os.getpid(), int(server.statistics()[MODEL]["instances"][0]["pid"]))
        lateness(model, emulator, 20)
        for number in range(rounds):
            host.progress(f"round {number + 1} of {rounds}")
            late.append(lateness(model, emulator, calls))
            wake.append(statistics.median(handover.once() for _ in range(calls)))
        rows = [cost(model, emulator, pids, count, 4 * calls) for count in IN_FLIGHT]
        idle = idle_cpu_us()
    beyond = [answered - woken for (_, answered), woken in zip(late, wake, strict=True)]
    return {
        "host": host.describe(),
        "seen_us": statistics.median(seen for seen, _ in late),
        "late_us": statistics.median(answered for _, answered in late),
        "wake_us": statistics.median(wake),
        "beyond_us": statistics.median(beyond),
        "best_beyond_us": min(beyond),
        "idle_cpu_us": idle,
        "rows": rows,
    }


def table(result: Mapping[str, Any]) -> str:
    verdict = "met" if result["beyond_us"] <= GOAL_US else "missed"
    costs = markdown(
        ("in flight", "poller's CPU per request", "its queries"),
        [
            (str(row["in_flight"]), time_text(row["cpu_us"]), f"{row['server']['cuEventQuery']:.1f}")
            for row in result["rows"]
        ],
    )
    first = result["rows"][0]
    calls = markdown(
        ("calls of the driver per request, one in flight", "server", "stub"),
        [(name, f"{first['server'][name]:.2f}", f"{first['stub'][name]:.2f}") for name in (*CALLS, "others")],
    )
    return f"""## From completion to answer, on the emulated driver

{host.line(result["host"])}

One in flight, p50 of a round, median of the rounds: completion is seen after {time_text(result["seen_us"])}, the answer is
there after {time_text(result["late_us"])}; a wake-up from a futex takes {time_text(result["wake_us"])}. Beyond that:
{time_text(result["beyond_us"])}, best round {time_text(result["best_beyond_us"])}; the goal of {GOAL_US} µs is {verdict}.
Nothing in flight: {time_text(result["idle_cpu_us"])} of CPU in {IDLE_SECONDS:.0f} s.

{costs}

{calls}
"""


def main() -> int:
    options = program.options(__doc__).parse_args()
    rounds, calls = options.rounds or (3 if options.quick else 7), 60 if options.quick else 200
    os.environ.setdefault("FAKECUDA_SCHED", "steady")
    with tempfile.TemporaryDirectory(prefix="fakecuda-") as folder:
        state = Path(os.environ.setdefault("FAKECUDA_STATE", folder))
        try:
            result = run(state, rounds, calls)
        except Unavailable as error:
            result = {"skipped": str(error)}
    return program.finish(result, table, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
