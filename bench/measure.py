"""Timing in interleaved rounds.

Hosts of one kind differ by 5x in what a wake-up costs, and the scheduler's choice of CPUs moves anything that blocks by 2x
to 3x from one round to the next. So all candidates take turns, round by round, in one process, and the best round of each
is compared with the best round of the others; p50 and p99 say how usual that is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long to look: rounds of some seconds each, with so many calls at least and at most."""

    rounds: int
    seconds: float
    fewest: int = 3
    most: int = 4000


@dataclass(frozen=True)
class Candidate:
    """Something that can be called; `prepare` runs before each call and is not timed."""

    name: str
    call: Callable[[], object]
    prepare: Callable[[], None] | None = None


@dataclass(frozen=True)
class Timing:
    """Microseconds per call: the smallest p50 of a round, and the medians over rounds of the round's p50 and p99."""

    best: float
    p50: float
    p99: float


def one_round(candidate: Candidate, plan: Plan) -> list[float]:
    """Microseconds of each call."""
    call, prepare, clock = candidate.call, candidate.prepare, time.perf_counter_ns
    times: list[float] = []
    end = time.monotonic() + plan.seconds
    while len(times) < plan.fewest or (len(times) < plan.most and time.monotonic() < end):
        if prepare is not None:
            prepare()
        begin = clock()
        call()
        times.append((clock() - begin) / 1000)
    return times


def interleave(candidates: Sequence[Candidate], plan: Plan) -> dict[str, Timing]:
    """Each candidate has its turn in every round."""
    rounds: dict[str, list[list[float]]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        one_round(candidate, Plan(1, 0))  # what is only slow the first time
    for _ in range(plan.rounds):
        for candidate in candidates:
            rounds[candidate.name].append(one_round(candidate, plan))
    return {name: summary(times) for name, times in rounds.items()}


def summary(rounds: Sequence[Sequence[float]]) -> Timing:
    p50s = [statistics.median(times) for times in rounds]
    return Timing(min(p50s), statistics.median(p50s), statistics.median(percentile(times, 0.99) for times in rounds))


def percentile(times: Sequence[float], share: float) -> float:
    """The nearest rank."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
