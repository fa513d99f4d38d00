"""The traces of one run, put together (docs/debugging.md).

With TENSORFERRY_TRACE=FOLDER each process writes a file of its own there; `merge(FOLDER)` makes one document of them that
ui.perfetto.dev and chrome://tracing open, with an arrow that follows each request through the processes. `record(file)` does
all of that around a piece of a program.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from . import _server
from .errors import Error, NotFound

Event = dict[str, Any]

# What a request goes through, in this order: in the server, in the stub, in the server again.
_STEPS = ("submit", "send", "receive", "execute", "respond", "answer")


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


def _flow(number: int, steps: list[Event]) -> list[Event]:
    """One arrow through the spans, which are those of one request in their order."""
    phases = ["s", *("t" for _ in steps[2:]), "f"]
    return [
        {"name": "request", "cat": "request", "ph": phase, "bp": "e", "id": number}
        | {key: step[key] for key in ("pid", "tid", "ts")}
        for phase, step in zip(phases, steps, strict=True)
    ]


def _flows(events: list[Event]) -> list[Event]:
    """A flow for each number whose spans crossed once; of one that was cut short, as far as it came."""
    spans: dict[int, dict[str, list[Event]]] = {}
    for event in events:
        if event["ph"] == "X" and event["name"] in _STEPS:
            spans.setdefault(event["args"]["number"], {}).setdefault(event["name"], []).append(event)
    flows: list[Event] = []
    for number, by_name in spans.items():
        steps = [step for name in _STEPS for step in by_name.get(name, [])]
        once = all(len(found) == 1 for found in by_name.values())
        if once and len({step["pid"] for step in steps}) > 1:
            flows += _flow(number, steps)
    return flows


def _document(files: list[Path]) -> Event:
    events = [event for file in files for event in read(file)]
    events += _flows(events)
    return {"displayTimeUnit": "ns", "traceEvents": sorted(events, key=lambda event: float(event.get("ts", 0)))}


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    return sorted(Path(folder).glob("trace-*.json"))


def merge(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """All traces in `folder` as one document of Chrome's trace format, its events in the order of their times."""
    files = _files(folder)
    if not files:
        raise NotFound(f"'{folder}' has no traces: was TENSORFERRY_TRACE set to it when the server started?", "NOT_FOUND")
    return _document(files)


@contextmanager
def record(document: TextIO) -> Iterator[None]:
    """Traces this process and the stubs that it starts meanwhile, and writes what `merge` would return in the end.

    Servers are to be opened and closed within: a stub that still runs may keep its last tenth of a second. Once per process.

    Raises:
        tensorferry.Error: the process has traced before, or does so because of TENSORFERRY_TRACE.
    """
    with tempfile.TemporaryDirectory(prefix="tensorferry-trace-") as folder:
        _server.trace_to_files(folder)
        os.environ["TENSORFERRY_TRACE"] = folder  # for the stubs
        try:
            yield
        finally:
            del os.environ["TENSORFERRY_TRACE"]
            _server.end_trace()
            json.dump(_document(_files(folder)), document)
