"""The traces of one run, put together (docs/debugging.md).

With TENSORFERRY_TRACE=FOLDER each process writes a file of its own there; `merge(FOLDER)` makes one document of them that
ui.perfetto.dev and chrome://tracing open, with an arrow for each crossing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import Error, NotFound

Event = dict[str, Any]

# From the end of the one to the begin of the other: a message on its way.
_CROSSINGS = {"send": "receive", "respond": "answer"}


def read(file: str | os.PathLike[str]) -> list[Event]:
    """The events of one process's file, also of one that still writes or was killed: a last line that is cut is left out."""
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    if lines and lines[0].strip() != "[":
        raise Error(f"'{file}' is no trace of tensorferry's: it does not begin with '['", "INVALID_ARG")
    events: list[Event] = []
    for number, line in enumerate(lines[1:], 2):
        try:
            events.append(json.loads(line.rstrip().rstrip(",")))
        except ValueError as error:
            if number == len(lines):
                break
            raise Error(f"{file}:{number}: {error}", "INVALID_ARG") from error
    return events


def _arrows(events: list[Event]) -> list[Event]:
    """Flow events between the processes, for each number that crossed once."""
    by_step: dict[tuple[str, int], list[Event]] = {}
    for event in events:
        if event["ph"] == "X":
            by_step.setdefault((event["name"], event["args"]["number"]), []).append(event)
    arrows: list[Event] = []
    for (name, number), begins in by_step.items():
        ends = by_step.get((_CROSSINGS.get(name, ""), number), [])
        if len(begins) != 1 or len(ends) != 1:
            continue
        for phase, event in (("s", begins[0]), ("f", ends[0])):
            place = {key: event[key] for key in ("pid", "tid", "ts")}
            arrows.append({"name": name, "cat": "crossing", "ph": phase, "bp": "e", "id": f"{name} {number}", **place})
    return arrows


def merge(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """All traces in `folder` as one document of Chrome's trace format, its events in the order of their times."""
    files = sorted(Path(folder).glob("trace-*.json"))
    if not files:
        raise NotFound(f"'{folder}' has no traces: was TENSORFERRY_TRACE set to it when the server started?", "NOT_FOUND")
    events = [event for file in files for event in read(file)]
    events += _arrows(events)
    return {"displayTimeUnit": "ns", "traceEvents": sorted(events, key=lambda event: float(event.get("ts", 0)))}
