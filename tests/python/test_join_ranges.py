"""What is made of an SQLite export of nsys, on files with its schema. With nsys itself: tests/packaging/test_nsys.py."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_cli import cli
from test_traces import assert_drawable, flows

import tensorferry
from tensorferry import nsys
from tensorferry.trace import document, join

# As nsys 2022.4 writes them, without the columns that are of no use here.
SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE PROCESSES (globalPid INTEGER, pid INTEGER, name TEXT);
CREATE TABLE ThreadNames (nameId INTEGER NOT NULL, priority INTEGER, globalTid INTEGER);
CREATE TABLE NVTX_EVENTS (
  start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, category INTEGER, color INTEGER,
  text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, uint64Value INTEGER,
  int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER, floatValue REAL, jsonTextId INTEGER,
  jsonText TEXT
);
"""
SERVER, STUB = 714, 746
PUSH_POP, START_END, MARK, DOMAIN, CATEGORY = 59, 60, 34, 75, 33
# Name, process, begin and end in microseconds; the number is the request's.
STEPS = [
    ("queue", SERVER, 0, 5),
    ("submit", SERVER, 1, 40),
    ("send", SERVER, 10, 30),
    ("receive", STUB, 25, 35),
    ("wait", SERVER, 41, 900),
    ("execute", STUB, 50, 500),
    ("d2d", STUB, 60, 70),
    ("d2d", STUB, 80, 95),
    ("respond", STUB, 510, 520),
    ("answer", SERVER, 515, 800),
    ("poll_done", SERVER, 700, 950),
]


def thread(pid: int, tid: int | None = None) -> int:
    """As nsys packs them, with a machine's bits above that are nobody's business."""
    return 0x1000000000000 | pid << 24 | (tid or pid)


class Export:
    """An export that is being written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.database = sqlite3.connect(file)
        self.database.executescript(SCHEMA)
        self.strings: dict[str, int] = {}

    def string(self, text: str) -> int:
        if text not in self.strings:
            self.strings[text] = len(self.strings) + 1
            self.database.execute("INSERT INTO StringIds VALUES (?, ?)", (self.strings[text], text))
        return self.strings[text]

    def event(self, **columns: Any) -> None:
        names = ", ".join(columns)
        places = ", ".join("?" for _ in columns)
        self.database.execute(f"INSERT INTO NVTX_EVENTS ({names}) VALUES ({places})", tuple(columns.values()))

    def domain(self, pid: int, name: str = "tensorferry", number: int = 1) -> None:
        self.event(start=0, eventType=DOMAIN, text=name, globalTid=thread(pid), domainId=number)

    def ranges(self, steps: Iterable[tuple[str, int, int, int]], number: int, domain: int = 1, later: int = 0) -> None:
        for name, pid, begin, end in steps:
            kind = START_END if name in ("queue", "poll_done") else PUSH_POP
            start, stop = 1000 * (begin + later), 1000 * (end + later)
            text = {"textId": self.string(name)}
            self.event(
                start=start, end=stop, eventType=kind, globalTid=thread(pid), domainId=domain, uint64Value=number, **text
            )

    def close(self) -> Path:
        self.database.commit()
        self.database.close()
        return self.file


@pytest.fixture
def export(tmp_path: Path) -> Export:
    made = Export(tmp_path / "report.sqlite")
    for pid, name in ((SERVER, "server"), (STUB, "a stub")):
        made.domain(pid)
        made.database.execute("INSERT INTO PROCESSES VALUES (?, ?, ?)", (thread(pid), pid, name))
        made.database.execute("INSERT INTO ThreadNames VALUES (?, 20, ?)", (made.string("python"), thread(pid)))
    return made


def test_ranges_of_both_processes_are_joined_by_the_request(export: Export) -> None:
    export.ranges(STEPS, 7)
    export.event(start=65000, eventType=MARK, text="host_wait:capture", globalTid=thread(STUB), domainId=1, uint64Value=7)
    (request,) = join(nsys.read(export.close()))
    assert request.number == 7
    assert request.processes == {SERVER, STUB}
    assert request.steps == {
        "queue": 5,
        "submit": 39,
        "send": 20,
        "receive": 10,
        "wait": 859,
        "execute": 450,
        "d2d": 25,
        "respond": 10,
        "answer": 285,
        "poll_done": 250,
    }
    assert request.crossings() == {"send to receive": 15, "respond to answer": 5, "begin to end": 950}
    assert request.host_waits == ["capture"]


def test_they_make_a_trace_in_which_the_request_is_a_flow(export: Export) -> None:
    export.event(start=1, eventType=CATEGORY, category=2, text="ipc", globalTid=thread(SERVER), domainId=1)
    export.ranges(STEPS, 7)
    events = document(nsys.read(export.close()))["traceEvents"]
    assert_drawable(events)
    (flow,) = flows(events)
    assert [event["pid"] for event in flow] == [SERVER, SERVER, STUB, STUB, STUB, SERVER]
    named = {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "process_name"}
    assert named == {(SERVER, "server"), (STUB, "a stub")}


def test_what_others_wrote_in_domains_of_their_own_is_left_out(export: Export) -> None:
    """A domain's number is its process's own."""
    export.domain(STUB, "torch", 2)
    export.domain(900, "torch", 1)
    export.ranges(STEPS, 7)
    export.ranges([("execute", STUB, 0, 1)], 7, domain=2)
    export.ranges([("execute", 900, 0, 1)], 7)
    export.ranges([("execute", STUB, 0, 1)], 7, domain=0)  # the default domain
    (request,) = join(nsys.read(export.close()))
    assert request.steps["execute"] == 450


def test_a_range_that_never_ended_is_left_out_and_the_rest_is_not(export: Export) -> None:
    export.ranges([step for step in STEPS if step[0] in ("queue", "submit", "send", "receive")], 7)
    export.event(
        start=50000, eventType=PUSH_POP, globalTid=thread(STUB), domainId=1, uint64Value=7, textId=export.string("execute")
    )
    events = document(nsys.read(export.close()))["traceEvents"]
    (request,) = join(events)
    assert list(request.steps) == ["queue", "submit", "send", "receive"]
    (flow,) = flows(events)
    assert len(flow) == 3


def test_many_requests_are_percentiles_and_the_slowest(export: Export) -> None:
    for number in range(1, 101):
        export.ranges(STEPS, number, later=number * 10_000)
    slow = [(name, pid, begin * 3, end * 3) for name, pid, begin, end in STEPS]
    export.ranges(slow, 200, later=2_000_000)
    export.ranges([("submit", SERVER, 0, 1), ("wait", SERVER, 2, 9000)], 201, later=3_000_000)
    file = export.close()
    shown = cli("join-ranges", file)
    assert shown.returncode == 0, shown.stderr
    assert "102 requests" in shown.stdout
    (head,) = [line for line in shown.stdout.splitlines() if "p99" in line]
    assert [cell.strip() for cell in head.strip("┃").split("┃")][:5] == ["us", "p50", "p99", "#201", "#200"]
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines() if "│" in line]
    rows = {cells[0]: cells[1:5] for cells in lines}
    assert rows["execute"] == ["450.0", "450.0", "", "1350.0"]
    assert rows["begin to end"] == ["950.0", "2831.0", "9000.0", "2850.0"]
    assert "blank: it went with another request" in shown.stdout
    found = json.loads(cli("join-ranges", file, "--json").stdout)["requests"]
    assert len(found) == 102
    assert found[0]["steps_us"]["d2d"] == 25
    assert found[0]["processes"] == [SERVER, STUB]


def test_one_request_needs_no_percentiles_and_a_trace_goes_to_its_file(export: Export, tmp_path: Path) -> None:
    export.ranges(STEPS, 7)
    file = export.close()
    shown = cli("join-ranges", file, COLUMNS="80").stdout
    assert "#7" in shown
    assert "p50" not in shown
    assert cli("join-ranges", file, "--trace", tmp_path / "trace.json").stdout == ""
    assert_drawable(json.loads((tmp_path / "trace.json").read_text())["traceEvents"])


def test_a_file_of_another_kind_is_told_how_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "report.nsys-rep").write_bytes(b"not SQLite" * 100)
    done = cli("join-ranges", tmp_path / "report.nsys-rep")
    assert done.returncode == 1
    assert "nsys export --type sqlite" in done.stderr
    empty = tmp_path / "empty.sqlite"
    with closing(sqlite3.connect(empty)) as database:
        database.execute("CREATE TABLE x (y)")
    with pytest.raises(tensorferry.Error, match="no such table: NVTX_EVENTS"):
        nsys.read(empty)
    assert cli("join-ranges", tmp_path / "nothing").returncode == 2


def test_an_export_without_ranges_of_ours_says_so(export: Export) -> None:
    export.ranges(STEPS, 7, domain=3)
    with pytest.raises(tensorferry.errors.NotFound, match="--trace=nvtx"):
        nsys.read(export.close())
