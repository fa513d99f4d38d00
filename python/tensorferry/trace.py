"""The traces of one run, put together (docs/debugging.md).

With TENSORFERRY_TRACE=FOLDER each process writes a file of its own there; `merge(FOLDER)` makes one document of them that
ui.perfetto.dev and chrome://tracing open, with an arrow that follows each request through the processes. `record(file)` does
all of that around a piece of a program.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from . import _server
from .errors import Error, NotFound

Event = dict[str, Any]

# What a request goes through, in this order: in the server, in the stub, in the server again.
_STEPS = ("submit", "send", "receive", "execute", "respond", "answer")
_CROSSINGS = (("send", "receive"), ("respond", "answer"))


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


@dataclass
class Request:
    """What one request, or one batch, did in all processes; in microseconds."""

    number: int
    steps: dict[str, float] = field(default_factory=dict)  # by name, in the order of their begins; several are added up
    begins: dict[str, float] = field(default_factory=dict)  # of the first of each
    end: float = -math.inf
    processes: set[int] = field(default_factory=set)
    host_waits: list[str] = field(default_factory=list)  # reasons

    def add(self, name: str, pid: int, begin: float, end: float) -> None:
        self.steps[name] = self.steps.get(name, 0) + end - begin
        self.begins.setdefault(name, begin)
        self.end = max(self.end, end)
        self.processes.add(pid)

    def crossings(self) -> dict[str, float]:
        """From one process to the other, as far as it came, and all of it."""
        pairs = [(a, b) for a, b in _CROSSINGS if a in self.begins and b in self.begins]
        times = {f"{a} to {b}": self.begins[b] - self.begins[a] for a, b in pairs}
        return times | {"begin to end": self.end - min(self.begins.values())}


def join(events: list[Event]) -> list[Request]:
    """The spans of all processes by their number, in the order of the requests' begins; those of no request left out."""
    requests: dict[int, Request] = {}
    begun: dict[tuple[str, int, int], float] = {}
    for event in sorted(events, key=lambda event: float(event.get("ts", 0))):
        number = int(event["args"].get("number", 0)) if event["ph"] in "Xbei" else 0
        if number == 0:
            continue
        name, pid, at = str(event["name"]), int(event["pid"]), float(event["ts"])
        request = requests.setdefault(number, Request(number))
        if event["ph"] == "X":
            request.add(name, pid, at, at + float(event["dur"]))
        elif event["ph"] == "b":
            request.steps.setdefault(name, 0)
            begun[name, pid, number] = at
        elif event["ph"] == "e":
            request.add(name, pid, begun.pop((name, pid, number), at), at)
        else:
            request.host_waits.append(str(event["args"]["reason"]))
    return [request for request in requests.values() if request.processes]


def document(events: list[Event]) -> dict[str, Any]:
    """Chrome's trace format of all these, in the order of their times, with the flows of the requests."""
    both = [*events, *_flows(events)]
    return {"displayTimeUnit": "ns", "traceEvents": sorted(both, key=lambda event: float(event.get("ts", 0)))}


def _read_all(folder: str | os.PathLike[str]) -> list[Event]:
    return [event for file in sorted(Path(folder).glob("trace-*.json")) for event in read(file)]


def merge(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """All traces in `folder` as one document of Chrome's trace format."""
    if not list(Path(folder).glob("trace-*.json")):
        raise NotFound(f"'{folder}' has no traces: was TENSORFERRY_TRACE set to it when the server started?", "NOT_FOUND")
    return document(_read_all(folder))


@contextmanager
def record(file: TextIO) -> Iterator[None]:
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
            json.dump(document(_read_all(folder)), file)
