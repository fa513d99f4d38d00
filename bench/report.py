"""Tables in Markdown: ratios of one run first, since absolute times belong to one host on one day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OURS = "tensorferry"


def size_text(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def time_text(microseconds: float) -> str:
    if microseconds >= 1000:
        return f"{microseconds / 1000:.2f} ms"
    return f"{microseconds:.1f} µs" if microseconds < 100 else f"{microseconds:.0f} µs"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are words and the others numbers."""
    lines = [header, ["---" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def end_to_end_table(result: Mapping[str, Any]) -> str:
    """Per size the best round, p50, p99, and how many times tensorferry's best each best is."""
    rows = result["rows"]
    ours = {row["size"]: row["best"] for row in rows if row["mechanism"] == OURS}
    return markdown(
        ("size", "mechanism", "best", "p50", "p99", "best ÷ tensorferry's"),
        (
            (
                size_text(row["size"]),
                row["mechanism"],
                *(time_text(row[key]) for key in ("best", "p50", "p99")),
                f"{row['best'] / ours[row['size']]:.2f}",
            )
            for row in rows
        ),
        left=2,
    )


def from_cpp_table(result: Mapping[str, Any]) -> str:
    """Requests per second, and microseconds of one in flight."""
    return markdown(
        ("mechanism", "in flight", "best", "p50", "latency p50", "p99"),
        (
            (
                row["mechanism"],
                str(row["in_flight"]),
                f"{row['best_per_s']:,.0f}/s",
                f"{row['p50_per_s']:,.0f}/s",
                time_text(row["p50"]),
                time_text(row["p99"]),
            )
            for row in result["rows"]
        ),
    )


def system_calls_table(result: Mapping[str, Any]) -> str:
    """The best round and the median one, and who counted."""
    table = markdown(
        ("load", "in", "best round", "median round", "of these sched_yield", "futex"),
        (
            (row["load"], row["process"], *(f"{row[key]:.4f}" for key in ("best", "p50", "yields", "futexes")))
            for row in result["rows"]
        ),
        left=2,
    )
    return f"{table}\n\nWitness: {result['witness']}."


def stub_cost_table(result: Mapping[str, Any]) -> str:
    return markdown(
        ("", "stub", "plain interpreter", ""),
        (
            (row["what"], f"{row['stub']:.1f} {row['unit']}", f"{row['plain']:.1f} {row['unit']}", row["note"])
            for row in result["rows"]
        ),
    )


def triton_table(figures: Sequence[Mapping[str, Any]]) -> str:
    return markdown(
        ("size", "best", "p50", "p99", "floor of Triton's core, p50"),
        ((size_text(row["size"]), *(time_text(row[key]) for key in ("best", "p50", "p99", "floor_p50"))) for row in figures),
    )
