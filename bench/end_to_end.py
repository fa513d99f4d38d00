"""How long does a tensor take to a model in another process and back, and how does that compare?

    python bench/end_to_end.py [--quick] [--json FILE] [--svg FILE] [--one-core]

All peers run in the same rounds, interleaved, since hosts of one kind differ by 5x in what a wake-up costs: read the
ratios. The best round decides; p50 and p99 are printed beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import tensorferry
from peers import Array, PipePeer, SharedMemoryPeer, Unavailable, ZmqPeer
from report import svg, table

HERE = Path(__file__).resolve().parent
SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20]


@dataclass
class Row:
    """One mechanism at one size; times in microseconds per call."""

    mechanism: str
    size: int
    best: float
    p50: float
    p99: float


class Ferry:
    """tensorferry with an ordinary array: one copy in, none out."""

    name = "tensorferry"

    def __init__(self, model: tensorferry.Model) -> None:
        self._model = model

    def call(self, array: Array) -> Array:
        return np.asarray(self._model.infer({"IN": array})["OUT"])


class FerryEmpty(Ferry):
    """tensorferry with an array from model.empty: no copy at all."""

    name = "tensorferry, model.empty"

    def call(self, array: Array) -> Array:
        return np.asarray(self._model.infer({"IN": self._model.empty(array.shape, np.uint8)})["OUT"])


class WarmCopy:
    """A memcpy between two warm arrays: what one copy costs."""

    name = "memcpy"

    def __init__(self) -> None:
        self._to = np.zeros(0, np.uint8)

    def call(self, array: Array) -> Array:
        if self._to.size != array.size:
            self._to = np.zeros(array.size, np.uint8)
        np.copyto(self._to, array)
        return self._to


def calls_for(size: int, quick: bool) -> int:
    """Enough calls for a round of some tens of milliseconds."""
    calls = max(3, min(2000, int(2e9 / 20 / max(size, 50_000))))
    return max(3, calls // 10) if quick else calls


def time_round(call: Callable[[Array], Array], array: Array, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        call(array)
        times.append((time.perf_counter_ns() - begin) / 1000)
    return times


@contextlib.contextmanager
def mechanisms(size: int, model: tensorferry.Model) -> Iterator[dict[str, Callable[[Array], Array]]]:
    """Everything that runs at this size, started; what can't be had is said on stderr."""
    with contextlib.ExitStack() as stack:
        calls: dict[str, Callable[[Array], Array]] = {}
        for peer in (FerryEmpty(model), Ferry(model), WarmCopy()):
            calls[peer.name] = peer.call
        for process in (SharedMemoryPeer(size), PipePeer(), ZmqPeer()):
            if process.name == "Pipe" and size > 64 << 20:
                continue  # seconds per call, and nobody would
            try:
                stack.enter_context(process)
            except Unavailable as why:
                print(f"skipped: {process.name}: {why}", file=sys.stderr)
                continue
            calls[process.name] = process.call
        yield calls


def measure(size: int, model: tensorferry.Model, rounds: int, quick: bool) -> list[Row]:
    array = np.arange(size, dtype=np.uint8)
    with mechanisms(size, model) as calls:
        for name, call in calls.items():
            if "empty" not in name and not np.array_equal(call(array), array):
                raise SystemExit(f"{name} returned something else than it was sent")
            call(array)
        times: dict[str, list[list[float]]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(time_round(call, array, calls_for(size, quick)))
    rows = []
    for name, per_round in times.items():
        p50s = [statistics.median(one) for one in per_round]
        everything = np.concatenate([np.array(one) for one in per_round])
        rows.append(Row(name, size, min(p50s), statistics.median(p50s), float(np.percentile(everything, 99))))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, sizes up to 16 MiB")
    parser.add_argument("--one-core", action="store_true", help="pin everything to one CPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    if arguments.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = [size for size in SIZES if size <= 16 << 20] if arguments.quick else SIZES
    rounds = 3 if arguments.quick else 7
    rows: list[Row] = []
    with tensorferry.Server(HERE / "models", models=["identity"]) as server:
        model = server.model("identity")
        for size in sizes:
            rows += measure(size, model, rounds, arguments.quick)
    print(table(rows))
    if arguments.json:
        host = {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "one_core": arguments.one_core}
        arguments.json.write_text(json.dumps({"host": host, "rows": [asdict(row) for row in rows]}, indent=1))
    if arguments.svg:
        arguments.svg.write_text(svg(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
