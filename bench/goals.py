"""What the project promises, each as a ratio or a count within one run, and whether this run kept it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from end_to_end import ARENA_COPY, FERRY, FERRY_EMPTY
from from_cpp import IN_FLIGHT
from peers import SharedMemoryBytesPeer, SharedMemoryPeer
from report import markdown, size_text

HAND_MADE = SharedMemoryPeer.name
KIB, MIB = 1 << 10, 1 << 20
# What counts as none, per request: the machine has work of its own even in the best round of a thousand.
NONE = 0.01

Results = Mapping[str, Mapping[str, Any]]  # by part


class NotMeasured(Exception):
    """The message says why."""


@dataclass(frozen=True)
class Goal:
    """`measured` is nothing where it could not be measured; `how` says why, or how it was."""

    text: str
    measured: float | None
    limit: float
    at_least: bool
    unit: str
    how: str

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def part(results: Results, name: str) -> Mapping[str, Any]:
    found = results.get(name)
    if found is None:
        raise NotMeasured("not run")
    if "skipped" in found:
        raise NotMeasured(str(found["skipped"]))
    return found


def best(result: Mapping[str, Any], mechanism: str, size: int) -> float:
    for row in result["rows"]:
        if row["mechanism"] == mechanism and row["size"] == size:
            return float(row["best"])
    raise NotMeasured(f"{mechanism} was not run at {size_text(size)}")


def small_request(results: Results, name: str) -> tuple[float, str]:
    result = part(results, name)
    peer, ours = best(result, HAND_MADE, 4), best(result, FERRY, 4)
    how = f"{peer:.2f} ÷ {ours:.2f} µs"
    with contextlib.suppress(NotMeasured):
        how += f"; with 8 raw bytes instead of a pickled number {best(result, SharedMemoryBytesPeer.name, 4) / ours:.2f} x"
    return peer / ours, how


def flat(results: Results) -> tuple[float, str]:
    result = part(results, "unpinned")
    large, small = best(result, FERRY_EMPTY, 256 * MIB), best(result, FERRY_EMPTY, 64 * KIB)
    return large / small, f"{large:.2f} ÷ {small:.2f} µs"


def one_copy(results: Results) -> tuple[float, str]:
    result = part(results, "unpinned")
    sizes = sorted({row["size"] for row in result["rows"] if row["size"] >= MIB})
    if not sizes:
        raise NotMeasured("no size from 1 MiB up was run")
    shares = {
        size: (best(result, FERRY, size) - best(result, FERRY_EMPTY, size)) / best(result, ARENA_COPY, size)
        for size in sizes
    }
    return max(shares.values()), ", ".join(f"{size_text(size)}: {share:.2f}" for size, share in shares.items())


def copies(results: Results, mechanism: str, side: str) -> tuple[float, str]:
    counted = part(results, "unpinned")["copies"][mechanism]
    return float(counted[side]), f"server {counted['server']:g}, stub {counted['stub']:g} per call, by the counters"


def rate(results: Results) -> tuple[float, str]:
    rows = part(results, "from_cpp")["rows"]
    ours = max(row["best_per_s"] for row in rows if row["mechanism"] != HAND_MADE and row["in_flight"] == IN_FLIGHT)
    peer = max(row["best_per_s"] for row in rows if row["mechanism"] == HAND_MADE)  # however many it has in flight
    return ours / peer, f"{ours:,.0f} ÷ {peer:,.0f} per s"


def system_calls(results: Results) -> tuple[float, str]:
    result = part(results, "system_calls")
    totals = {row["load"]: row["best_of_both"] for row in result["rows"] if "best_of_both" in row}
    return max(totals.values()), "; ".join(f"{load}: {calls:.4f}" for load, calls in totals.items())


def allocations(results: Results) -> tuple[float, str]:
    ours = [row for row in part(results, "from_cpp")["rows"] if row["mechanism"] != HAND_MADE]
    return max(row["allocations"] for row in ours), "calls of operator new by the thread that submits and waits"


def stub(results: Results, key: str) -> tuple[float, float]:
    for row in part(results, "stub_cost")["rows"]:
        if row["key"] == key:
            return float(row["stub"]), float(row["plain"])
    raise NotMeasured("not run")


def pss(results: Results) -> tuple[float, str]:
    ours, plain = stub(results, "pss")
    return ours - plain, f"{ours:.1f} - {plain:.1f} MB"


def ready(results: Results) -> tuple[float, str]:
    ours, plain = stub(results, "ready")
    return ours / plain, f"{ours:.1f} ÷ {plain:.1f} ms"


def gone(results: Results) -> tuple[float, str]:
    ours, plain = stub(results, "gone")
    return (ours - 3) / plain, f"({ours:.1f} - 3) ÷ {plain:.1f} ms"


def goals(results: Results) -> list[Goal]:
    """In the order of the page on performance."""

    def goal(
        text: str, limit: float, find: Callable[[], tuple[float, str]], unit: str = "x", at_least: bool = False
    ) -> Goal:
        try:
            measured, how = find()
        except NotMeasured as why:
            return Goal(text, None, limit, at_least, unit, f"not measured: {why}")
        return Goal(text, measured, limit, at_least, unit, how)

    return [
        goal(f"4 B from Python, unpinned: {HAND_MADE} ÷ ours", 4, lambda: small_request(results, "unpinned"), at_least=True),
        goal(
            f"4 B from Python, one core: {HAND_MADE} ÷ ours", 2.5, lambda: small_request(results, "one_core"), at_least=True
        ),
        goal(f"4 B, {IN_FLIGHT} in flight from C++: our rate ÷ {HAND_MADE}", 3, lambda: rate(results), at_least=True),
        goal("model.empty passed through: 256 MiB ÷ 64 KiB", 1.5, lambda: flat(results)),
        goal("ordinary array: (time - model.empty's) ÷ warm memcpy", 1.25, lambda: one_copy(results)),
        goal("copies out, ordinary array", 0, lambda: copies(results, FERRY, "stub"), ""),
        goal("copies in, model.empty", 0, lambda: copies(results, FERRY_EMPTY, "server"), ""),
        goal("system calls per 4 B request, both sides", NONE, lambda: system_calls(results), ""),
        goal("allocations per 4 B request in the server, warm", NONE, lambda: allocations(results), ""),
        goal("PSS of a stub with numpy over a plain interpreter", 3, lambda: pss(results), "MB"),
        goal("stub ready ÷ interpreter with its imports", 1.3, lambda: ready(results)),
        goal("(unload until reaped - 3 ms) ÷ a plain interpreter's exit", 1.2, lambda: gone(results)),
    ]


def goals_table(found: Iterable[Goal]) -> str:
    answers = {None: "–", True: "yes", False: "**no**"}

    def number(value: float | None, unit: str) -> str:
        return "–" if value is None else f"{value:.3g} {unit}".rstrip()

    return markdown(
        ("goal", "measured", "goal", "met", "from"),
        (
            (
                one.text,
                number(one.measured, one.unit),
                ("≥ " if one.at_least else "≤ ") + number(one.limit, one.unit),
                answers[one.met],
                one.how,
            )
            for one in found
        ),
    )
