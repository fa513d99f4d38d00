"""`tensorferry join-ranges`: what nsys saw of each request, in the server and in the stub."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click
import numpy as np
from rich.table import Table

from ..nsys import read
from ..trace import Request, document, join
from ._render import console, count, emit_json

_SHOWN = 3  # requests with a column of their own: the slowest
_Times = dict[str, float]


def _rounded(times: _Times) -> _Times:
    return {name: round(time, 3) for name, time in times.items()}


def _as_json(request: Request) -> dict[str, Any]:
    return {
        "number": request.number,
        "steps_us": _rounded(request.steps),
        "crossings_us": _rounded(request.crossings()),
        "processes": sorted(request.processes),
        "host_waits": request.host_waits,
    }


def _lines(table: Table, times: dict[int, _Times], percentiles: list[int], shown: list[int]) -> None:
    """A line for each name: percentiles of all requests, and the times of those shown."""
    longest = max(times.values(), key=len)  # has nearly all names, in their order
    for name in dict.fromkeys([*longest, *(name for one in times.values() for name in one)]):
        found = [one[name] for one in times.values() if name in one]
        cells = [f"{np.percentile(found, one):.1f}" for one in percentiles]
        cells += [f"{times[number][name]:.1f}" if name in times[number] else "" for number in shown]
        table.add_row(name, *cells)
    table.add_section()


def _table(requests: list[Request]) -> Table:
    steps = {request.number: request.steps for request in requests}
    crossings = {request.number: request.crossings() for request in requests}
    slowest = sorted(crossings, key=lambda number: -crossings[number]["begin to end"])[:_SHOWN]
    percentiles = [50, 99] if len(requests) > 1 else []
    table = Table("us", title=count(len(requests), "request"))
    for name in (*(f"p{one}" for one in percentiles), *(f"#{number}" for number in slowest)):
        table.add_column(name, justify="right")
    _lines(table, steps, percentiles, slowest)
    _lines(table, crossings, percentiles, slowest)
    if any("execute" not in steps[number] for number in slowest):
        table.caption = "blank: it went with another request of its batch"
    return table


@click.command("join-ranges")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--trace", type=click.File("w", lazy=False), metavar="OUT", help="Write a trace for ui.perfetto.dev instead.")
@click.option("--json", "as_json", is_flag=True, help="Requests as JSON.")
def join_ranges(file: str, trace: TextIO | None, as_json: bool) -> None:
    """Join the NVTX ranges of server and stubs by the request that they belong to.

    FILE is what `nsys export --type sqlite` makes of a report that was recorded with --trace=nvtx.
    """
    events = read(file)
    if trace:
        json.dump(document(events), trace)
        return
    requests = join(events)
    if as_json:
        emit_json({"requests": [_as_json(request) for request in requests]})
    else:
        console.print(_table(requests))
