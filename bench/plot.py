"""An SVG of time over size, both logarithmic, readable on light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from report import size_text

_COLOURS = ("#3b82f6", "#22a55b", "#e8590c", "#64748b", "#db2777", "#9333ea", "#0891b2", "#a16207")
_DASHED = "another run"
_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 420, 400, 64, 40, 40, 24

# Colours of text follow the reader's scheme, and the one of the host page where there is none.
_STYLE = (
    "text{fill:#1f2328}.grid{stroke:#8b949e;stroke-opacity:.35;stroke-width:1}"
    "polyline{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)

Panels = Mapping[str, Sequence[Mapping[str, Any]]]


class Scale:
    """Where a size and a time lie in a panel; the same for all panels."""

    def __init__(self, panels: Panels) -> None:
        rows = [row for panel in panels.values() for row in panel]
        self.sizes = sorted({row["size"] for row in rows})
        self.low = math.floor(math.log10(min(row["best"] for row in rows)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(row["best"] for row in rows))))

    def x(self, size: int) -> float:
        return _LEFT + (_PANEL - _LEFT - 16) * self.sizes.index(size) / max(1, len(self.sizes) - 1)

    def y(self, microseconds: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - math.log10(microseconds)) / (self.high - self.low)


def _power_text(power: int) -> str:
    if power >= 6:
        return f"{10 ** (power - 6)} s"
    return f"{10 ** (power - 3)} ms" if power >= 3 else f"{10**power:g} µs"


def _axes(scale: Scale, title: str) -> list[str]:
    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    for power in range(scale.low, scale.high + 1):
        y = scale.y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_PANEL - 16}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_power_text(power)}</text>')
    for size in scale.sizes:
        x, y = scale.x(size), _HEIGHT - _BOTTOM + 18
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" font-size="10">{size_text(size)}</text>')
    return parts


def _line_style(names: Sequence[str], name: str) -> str:
    dash = ' stroke-dasharray="5 4"' if _DASHED in name else ""
    return f'stroke="{_COLOURS[names.index(name) % len(_COLOURS)]}"{dash}'


def _curves(scale: Scale, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    parts = []
    for name in dict.fromkeys(row["mechanism"] for row in rows):
        points = " ".join(f"{scale.x(r['size']):.1f},{scale.y(r['best']):.1f}" for r in rows if r["mechanism"] == name)
        parts.append(f'<polyline {_line_style(names, name)} points="{points}"><title>{escape(name)}</title></polyline>')
    return parts


def _legend(names: Sequence[str], width: int) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        x, y = _LEFT + (number % 2) * (width // 2), _HEIGHT + 14 + number // 2 * _LEGEND
        parts.append(f'<polyline {_line_style(names, name)} points="{x},{y - 4} {x + 26},{y - 4}"/>')
        parts.append(f'<text x="{x + 34}" y="{y}">{escape(name)}</text>')
    return parts


def svg(panels: Panels) -> str:
    """One panel per entry: its title, and its rows (mechanism, size, best in microseconds)."""
    scale = Scale(panels)
    names = list(dict.fromkeys(row["mechanism"] for rows in panels.values() for row in rows))
    width = _PANEL * len(panels) + 16
    height = _HEIGHT + 20 + (len(names) + 1) // 2 * _LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f"<style>{_STYLE}</style>",
    ]
    for number, (title, rows) in enumerate(panels.items()):
        parts += [
            f'<g transform="translate({number * _PANEL} 0)">',
            *_axes(scale, title),
            *_curves(scale, rows, names),
            "</g>",
        ]
    return "\n".join([*parts, *_legend(names, width), "</svg>"])
