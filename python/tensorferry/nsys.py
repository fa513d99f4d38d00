"""tensorferry's ranges out of what Nsight Systems recorded, as the same events that a trace of our own has (trace.py).

`nsys export --type sqlite` writes the file: NVTX_EVENTS has a row for each range, mark, and name of a domain or category.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from .errors import Error, NotFound

Event = dict[str, Any]

# Of NVTX_EVENTS.eventType.
_CATEGORY, _MARK, _PUSH_POP, _START_END, _DOMAIN = 33, 34, 59, 60, 75
_DOMAIN_NAME = "tensorferry"
_QUERY = """
SELECT e.start, e.end, e.eventType, COALESCE(e.text, s.value), e.globalTid, e.domainId, e.uint64Value, e.category
FROM NVTX_EVENTS AS e LEFT JOIN StringIds AS s ON e.textId = s.id ORDER BY e.start
"""


def _pid(global_tid: int) -> int:
    return (global_tid >> 24) & 0xFFFFFF


def _names(database: sqlite3.Connection, threads: set[int]) -> Iterator[Event]:
    """Of these threads and their processes, where this version of nsys keeps them."""

    def name(what: str, pid: int, tid: int, text: str) -> Event:
        return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": text}}

    pids = {_pid(thread) for thread in threads}
    tables = {table for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "PROCESSES" in tables:
        found = database.execute("SELECT pid, name FROM PROCESSES")
        yield from (name("process_name", pid, pid, text) for pid, text in found if pid in pids)
    if "ThreadNames" in tables:
        found = database.execute("SELECT t.globalTid, s.value FROM ThreadNames AS t JOIN StringIds AS s ON t.nameId = s.id")
        yield from (name("thread_name", _pid(one), one & 0xFFFFFF, text) for one, text in found if one in threads)


def _event(row: tuple[Any, ...], categories: dict[tuple[int, int], str]) -> Iterator[Event]:
    start, end, kind, text, thread, _, number, category = row
    event: Event = {
        "name": str(text),
        "cat": categories.get((_pid(thread), category), "tensorferry"),
        "ts": start / 1000,
        "pid": _pid(thread),
        "tid": thread & 0xFFFFFF,
        "args": {"number": number or 0},
    }
    if kind == _MARK:
        name, _, reason = str(text).partition(":")
        yield event | {"name": name, "ph": "i", "s": "t", "args": event["args"] | {"reason": reason}}
    elif end is None:  # it was open when the process ended
        return
    elif kind == _PUSH_POP:
        yield event | {"ph": "X", "dur": (end - start) / 1000}
    else:
        both = event | {"id2": {"local": str(number or 0)}}
        yield both | {"ph": "b"}
        yield both | {"ph": "e", "ts": end / 1000}


def read(file: str | os.PathLike[str]) -> list[Event]:
    """The ranges and marks of all processes that spoke NVTX in our domain, and their names.

    Raises:
        tensorferry.Error: it is no SQLite export of nsys.
        errors.NotFound: nobody spoke in our domain.
    """
    path = Path(file)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = [row for row in database.execute(_QUERY) if row[4] is not None]
            domains = {(_pid(row[4]), row[5]) for row in rows if row[2] == _DOMAIN and row[3] == _DOMAIN_NAME}
            mine = [row for row in rows if (_pid(row[4]), row[5]) in domains]
            categories = {(_pid(row[4]), row[7]): str(row[3]) for row in mine if row[2] == _CATEGORY}
            kinds = (_MARK, _PUSH_POP, _START_END)
            events = [event for row in mine if row[2] in kinds for event in _event(row, categories)]
            names = list(_names(database, {row[4] for row in mine}))
    except sqlite3.Error as error:
        hint = "nsys export --type sqlite REPORT.nsys-rep makes one of a report"
        raise Error(f"'{path}' is no SQLite export of nsys ({error}): {hint}", "INVALID_ARG") from error
    if not events:
        raise NotFound(f"'{path}' has no ranges of tensorferry's: was it profiled with --trace=nvtx?", "NOT_FOUND")
    return names + events
