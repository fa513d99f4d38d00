"""Tables and plots of benchmark rows: ratios first, since absolute times belong to one host on one day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Protocol


class RowLike(Protocol):
    mechanism: str
    size: int
    best: float
    p50: float
    p99: float


def size_text(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def time_text(microseconds: float) -> str:
    if microseconds >= 1000:
        return f"{microseconds / 1000:.2f} ms"
    return f"{microseconds:.1f} us"


def table(rows: Sequence[RowLike]) -> str:
    """Markdown: per size the best round, p50, p99 and the ratio of each best to tensorferry's."""
    lines = ["| size | mechanism | best | p50 | p99 | x tensorferry |", "|---|---|--:|--:|--:|--:|"]
    ours = {row.size: row.best for row in rows if row.mechanism == "tensorferry"}
    for row in rows:
        ratio = row.best / ours[row.size] if ours.get(row.size) else math.nan
        lines.append(
            f"| {size_text(row.size)} | {row.mechanism} | {time_text(row.best)} | {time_text(row.p50)} "
            f"| {time_text(row.p99)} | {ratio:.2f} |"
        )
    return "\n".join(lines)


_COLOURS = ["#2563eb", "#16a34a", "#9ca3af", "#ea580c", "#dc2626", "#9333ea", "#0891b2"]
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 860, 440, 70, 30, 210, 50


def svg(rows: Sequence[RowLike]) -> str:
    """Best round over size, both logarithmic; readable on light and dark backgrounds."""
    sizes = sorted({row.size for row in rows})
    low = math.floor(math.log10(min(row.best for row in rows)))
    high = math.ceil(math.log10(max(row.best for row in rows)))

    def x(size: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * sizes.index(size) / max(1, len(sizes) - 1)

    def y(best: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(best)) / max(1, high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><style>text{fill:#111}.g{stroke:#8888;stroke-width:.5}'
        "@media(prefers-color-scheme:dark){text{fill:#eee}}</style>"
    ]
    for power in range(low, high + 1):
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10**power)}" y2="{y(10**power)}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(10**power) + 4}" text-anchor="end">{time_text(10**power)}</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size)}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{size_text(size)}</text>')
    names = list(dict.fromkeys(row.mechanism for row in rows))
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(row.size):.1f},{y(row.best):.1f}" for row in rows if row.mechanism == name)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = _TOP + 18 * number
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 15}" y="{height - 9}" width="12" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 33}" y="{height}">{escape(name)}</text>')
    parts.append("</svg>")
    return "\n".join(parts)
