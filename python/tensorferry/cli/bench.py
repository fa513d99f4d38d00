"""`tensorferry bench`: a quick look at what a crossing costs here."""

from __future__ import annotations

import statistics
import time

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from .. import Server
from ._render import console, duration, emit_json, errors, size
from .demo import _MODELS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON.")
def bench(as_json: bool) -> None:
    """Time add_sub from 4 B to 16 MiB. The full benchmark with its peers is `./dev bench` in the source tree."""
    rows = []
    with Server(_MODELS, models=["add_sub"]) as server:
        model = server.model("add_sub")
        for count in track([1, 1 << 10, 1 << 14, 1 << 18, 1 << 22], console=errors, transient=True):
            a = np.ones(count, np.float32)
            times: list[float] = []
            end = time.perf_counter() + 0.5
            while len(times) < 5 or time.perf_counter() < end:
                begin = time.perf_counter()
                model.infer({"INPUT0": a, "INPUT1": a})
                times.append(time.perf_counter() - begin)
            rows.append({"bytes": 4 * count, "best_s": min(times), "p50_s": statistics.median(times)})
    if as_json:
        emit_json(rows)
        return
    table = Table("each input", "best", "p50", title="add_sub, ordinary arrays")
    for row in rows:
        table.add_row(size(row["bytes"]), duration(row["best_s"]), duration(row["p50_s"]))
    console.print(table)
