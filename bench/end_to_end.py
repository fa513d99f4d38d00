"""How long does a tensor take to a model in another process and back, and how does that compare?

    python bench/end_to_end.py [--quick] [--one-core] [--json FILE]

All peers run in the same interleaved rounds. `--one-core` keeps everything on one CPU, as `taskset -c 0` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import host
import program
import tensorferry
from measure import Candidate, Plan, interleave
from peers import Array, Peer, PipePeer, SharedMemoryBytesPeer, SharedMemoryPeer, Unavailable, ZmqPeer
from report import end_to_end_table
from tensorferry import _server

MODELS = Path(__file__).resolve().parent / "models"
SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20]
QUICK_SIZES = [4, 64 << 10, 1 << 20, 16 << 20, 256 << 20]

FERRY, FERRY_EMPTY, ARENA_COPY = "tensorferry", "tensorferry, model.empty", "memcpy into the warm arena"
# Where a peer would take seconds per call.
LARGEST = {PipePeer.name: 64 << 20, ZmqPeer.name: 256 << 20}
QUICK_LARGEST = {PipePeer.name: 1 << 20, ZmqPeer.name: 16 << 20}


@dataclass(frozen=True)
class Row:
    """One mechanism at one size; times in microseconds per call."""

    mechanism: str
    size: int
    best: float
    p50: float
    p99: float


class Ferry:
    """A model called with an ordinary array, with one from model.empty, and the copy that is between the two."""

    def __init__(self, model: tensorferry.Model, array: Array) -> None:
        self._model, self._array = model, array
        self._into = array

    def ordinary(self) -> Array:
        return np.asarray(self._model.infer({"IN": self._array})["OUT"])

    def given(self) -> Array:
        return np.asarray(self._model.infer({"IN": self._model.empty(self._array.shape, np.uint8)})["OUT"])

    def fetch_warm_block(self) -> None:
        self._into = self._array  # lets the last one go first, so that its block is the one that comes back
        self._into = self._model.empty(self._array.shape, np.uint8)

    def copy_in(self) -> None:
        np.copyto(self._into, self._array)

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(FERRY_EMPTY, self.given),
            Candidate(FERRY, self.ordinary),
            Candidate(ARENA_COPY, self.copy_in, self.fetch_warm_block),
        ]


def plan_for(size: int, quick: bool, rounds: int | None) -> Plan:
    """Small sizes, whose rounds differ most, get most rounds."""
    if size >= 64 << 20:
        return Plan(rounds or (3 if quick else 5), seconds=0.05)
    usual = (16 if quick else 40) if size < 4096 else (8 if quick else 20)
    return Plan(rounds or usual, seconds=0.03 if quick else 0.05)


def processes(size: int, quick: bool) -> Iterator[Peer]:
    largest = QUICK_LARGEST if quick else LARGEST
    for kind in (PipePeer, ZmqPeer):
        if size <= largest[kind.name]:
            yield kind()
    for shared in (SharedMemoryPeer, SharedMemoryBytesPeer):
        try:
            yield shared(size)
        except Unavailable as why:
            host.progress(f"left out at {size} bytes: {shared.name}: {why}")


def calling(peer: Peer, array: Array) -> Candidate:
    return Candidate(peer.name, lambda: peer.call(array))


@contextlib.contextmanager
def candidates(size: int, model: tensorferry.Model, array: Array, quick: bool) -> Iterator[list[Candidate]]:
    """Everything that runs at this size, started, and seen to return what it was sent."""
    with contextlib.ExitStack() as stack:
        found = Ferry(model, array).candidates()
        for peer in processes(size, quick):
            try:
                stack.enter_context(peer)
            except Unavailable as why:
                host.progress(f"left out: {peer.name}: {why}")
                continue
            found.append(calling(peer, array))
        for candidate in found:
            carries_data = candidate.name not in (FERRY_EMPTY, ARENA_COPY)
            if carries_data and not np.array_equal(np.asarray(candidate.call()), array):
                raise SystemExit(f"{candidate.name} returned something else than it was sent")
        yield found


def measure(size: int, model: tensorferry.Model, quick: bool, rounds: int | None) -> list[Row]:
    array = np.arange(size, dtype=np.uint8)
    with candidates(size, model, array, quick) as found:
        timings = interleave(found, plan_for(size, quick, rounds))
    return [Row(name, size, timing.best, timing.p50, timing.p99) for name, timing in timings.items()]


def copies_per_call(server: tensorferry.Server, size: int = 1 << 20, calls: int = 20) -> dict[str, dict[str, float]]:
    """Copies of payload by the counters, in sizes of the payload: in the server and in the stub."""
    model = server.model("identity")
    ferry = Ferry(model, np.arange(size, dtype=np.uint8))
    found = {}
    for name, call in ((FERRY, ferry.ordinary), (FERRY_EMPTY, ferry.given)):
        before = (_server.copy_counts()["host_bytes"], server.statistics()["identity"]["stub_copied_bytes"])
        for _ in range(calls):
            call()
        after = (_server.copy_counts()["host_bytes"], server.statistics()["identity"]["stub_copied_bytes"])
        found[name] = {side: (b - a) / size / calls for side, a, b in zip(("server", "stub"), before, after, strict=True)}
    return found


def run(sizes: Sequence[int], quick: bool, rounds: int | None) -> dict[str, Any]:
    about = host.describe()
    rows: list[Row] = []
    with tensorferry.Server(MODELS, models=["identity"]) as server:
        for size in sizes:
            host.progress(f"end to end, {size} bytes, {about['cpus']} CPU")
            rows += measure(size, server.model("identity"), quick, rounds)
        copies = copies_per_call(server)
    return {"host": about, "rows": [asdict(row) for row in rows], "copies": copies}


def main() -> int:
    parser = program.options(__doc__)
    parser.add_argument("--one-core", action="store_true", help="keep everything on one CPU")
    parser.add_argument("--sizes", type=int, nargs="+", help="bytes")
    arguments = parser.parse_args()
    if arguments.one_core:
        host.keep_to(1)
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    return program.finish(run(sizes, arguments.quick, arguments.rounds), end_to_end_table, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
