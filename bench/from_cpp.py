"""How many requests of 4 bytes does a C++ program get through, one and 16 in flight, on two CPUs?

    python bench/from_cpp.py [--quick] [--json FILE]

Beside it in the same interleaved rounds: shared_memory + Pipe, one in flight and with as many slots.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import host
import program
from client import Client, Round
from measure import percentile
from peers import Array, SharedMemoryPeer, Unavailable
from report import OURS, from_cpp_table

IN_FLIGHT = 16


def window(peer: SharedMemoryPeer, in_flight: int, count: int) -> Round:
    """The same as the C++ client does: as many in flight, and the next takes the place of the one that came back."""
    arrays = [np.full(4, number, np.uint8) for number in range(in_flight)]
    begins = [0.0] * in_flight
    latencies = []
    begin = time.perf_counter()
    for sent in range(count + in_flight):
        slot = sent % in_flight
        if sent >= in_flight:
            slot, answer = peer.receive()
            if answer[0] != slot:
                raise SystemExit("shared_memory + Pipe returned something else than it was sent")
            latencies.append((time.perf_counter() - begins[slot]) * 1e6)
        if sent < count:
            begins[slot] = time.perf_counter()
            peer.submit(slot, arrays[slot])
    seconds = time.perf_counter() - begin
    return Round(seconds, statistics.median(latencies), percentile(latencies, 0.99), 0)


def single(peer: SharedMemoryPeer, array: Array, count: int) -> Round:
    latencies = []
    begin = time.perf_counter()
    for _ in range(count):
        sent = time.perf_counter()
        peer.call(array)
        latencies.append((time.perf_counter() - sent) * 1e6)
    seconds = time.perf_counter() - begin
    return Round(seconds, statistics.median(latencies), percentile(latencies, 0.99), 0)


def row(mechanism: str, in_flight: int, count: int, rounds: Sequence[Round]) -> dict[str, Any]:
    """The fastest round, and medians over rounds."""
    rates = [count / one.seconds for one in rounds]
    return {
        "mechanism": mechanism,
        "in_flight": in_flight,
        "best_per_s": max(rates),
        "p50_per_s": statistics.median(rates),
        "p50": statistics.median(one.p50 for one in rounds),
        "p99": statistics.median(one.p99 for one in rounds),
        "allocations": min(one.allocations for one in rounds) / count,
    }


def run(rounds: int, scale: int) -> dict[str, Any]:
    about = host.describe()
    one_peer, peers = SharedMemoryPeer(4), SharedMemoryPeer(4, slots=IN_FLIGHT)
    name, four = SharedMemoryPeer.name, np.arange(4, dtype=np.uint8)
    with one_peer, peers, Client() as client:
        # Name, in flight, requests of a round, how to do them.
        loads: list[tuple[str, int, int, Callable[[int], Round]]] = [
            (f"{OURS} from C++", 1, 8000 * scale, lambda count: client.round(1, count)),
            (f"{OURS} from C++", IN_FLIGHT, 20000 * scale, lambda count: client.round(IN_FLIGHT, count)),
            (name, 1, 2000 * scale, lambda count: single(one_peer, four, count)),
            (name, IN_FLIGHT, 4000 * scale, lambda count: window(peers, IN_FLIGHT, count)),
        ]
        done: list[list[Round]] = [[] for _ in loads]
        for _ in range(rounds):
            for load, results in zip(loads, done, strict=True):
                results.append(load[3](load[2]))
    rows = [row(load[0], load[1], load[2], results) for load, results in zip(loads, done, strict=True)]
    return {"host": about, "rows": rows}


def main() -> int:
    arguments = program.options(__doc__).parse_args()
    result: dict[str, Any] = {"skipped": "two CPUs are needed"}
    if host.keep_to(2):
        host.progress("from C++, 4 bytes, 1 and 16 in flight")
        try:
            result = run(arguments.rounds or (10 if arguments.quick else 25), scale=1 if arguments.quick else 2)
        except Unavailable as why:
            result = {"skipped": str(why)}
    return program.finish(result, from_cpp_table, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
