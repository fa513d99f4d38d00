"""`tensorferry inspect`: the counters of a server that runs, and of its stubs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from .. import _server
from ..errors import Error, NotFound
from ._render import console, emit_json


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):  # it may have ended meanwhile
            parent = Path(f"/proc/{int(entry)}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(entry))
    return sorted(found)


def _look(pid: int, role: str) -> dict[str, Any]:
    counters = _server.read_counters(pid)
    instance = next((one["labels"]["instance"] for one in counters if "instance" in one["labels"]), "")
    return {"pid": pid, "role": role, "name": instance if role == "stub" else "server", "counters": counters}


def _processes(pid: int) -> list[dict[str, Any]]:
    """The server and its stubs. A child without counters, or that just ended, is no stub; one whose page can't be
    believed is said."""
    processes = [_look(pid, "server")]
    for child in _children(pid):
        try:
            processes.append(_look(child, "stub"))
        except NotFound:
            continue
        except Error as error:
            processes.append({"pid": child, "role": "stub", "name": "", "counters": [], "error": str(error)})
    return processes


@click.command()
@click.argument("pid", type=int)
@click.option("--json", "as_json", is_flag=True, help="Counters as JSON.")
def inspect(pid: int, as_json: bool) -> None:
    """Read the counters of the server in process PID and of its stubs, while they run. Stops and asks nobody."""
    processes = _processes(pid)
    if as_json:
        emit_json({"processes": processes})
        return
    table = Table("process", "counter", "labels", "value")
    table.columns[-1].justify = "right"
    for process in processes:
        table.add_section()
        who = Text(f"{process['name'] or process['role']} ({process['pid']})")
        if "error" in process:
            table.add_row(who, Text(process["error"], style="red"))
        for one in process["counters"]:
            if one["value"]:
                labels = ", ".join(f"{key}={value}" for key, value in one["labels"].items())
                table.add_row(who, Text(one["name"]), Text(labels), f"{one['value']:,}")
    console.print(table)
