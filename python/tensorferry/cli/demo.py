"""`tensorferry demo`: real models answer real requests, with what was copied and how long it took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from .. import Error, Model, Server, _server
from . import _demo_gpu
from ._render import FAILED, console, duration, emit_json, errors, size

_MODELS = Path(__file__).absolute().parent.parent / "demo_models"
_SIZES = (4, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
_Row = dict[str, Any]


def _measure(server: Server, model: Model, once: Callable[[], bool], payload: int, name: str, tensor: int) -> _Row:
    """Times `once`, which returns whether the answer was right; its inputs are `payload` bytes in tensors of `tensor`."""
    correct = once()
    copies, stub = _server.copy_counts(), server.statistics()[model.name]["stub_copied_bytes"]
    times: list[float] = []
    end = time.perf_counter() + 0.25
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 2000):
        begin = time.perf_counter()
        correct = once() and correct
        times.append(time.perf_counter() - begin)
    copied_in = _server.copy_counts()["host_bytes"] - copies["host_bytes"]
    copied_out = server.statistics()[model.name]["stub_copied_bytes"] - stub
    times.sort()
    return {
        "what": name,
        "bytes": payload,
        "inline": tensor < 4096,  # a small tensor travels within its message
        "correct": correct,
        "p50_s": statistics.median(times),
        "p99_s": times[min(len(times) - 1, int(len(times) * 0.99))],
        "copies_in": copied_in / len(times) / max(payload, 1),
        "copies_out": copied_out / len(times) / max(payload, 1),
    }


def _add_sub(server: Server, count: int, born_here: bool) -> _Row:
    model = server.model("add_sub")
    a, b = np.arange(count, dtype=np.float32), np.ones(count, np.float32)

    def once() -> bool:
        if not born_here:
            out = model.infer({"INPUT0": a, "INPUT1": b})
        else:
            x, y = model.empty(count, np.float32), model.empty(count, np.float32)
            x[:1], y[:1] = 3, 1
            out = model.infer({"INPUT0": x, "INPUT1": y})
            return bool(np.asarray(out["OUTPUT0"])[0] == 4)
        return bool(np.asarray(out["OUTPUT1"])[-1] == count - 2)

    how = "model.empty" if born_here else "arrays"
    return _measure(server, model, once, 2 * 4 * count, f"add_sub, {how}", 4 * count)


def _tokenize(server: Server) -> _Row:
    model = server.model("tokenize")
    text = [b"The GIL forces one process per model", b"so what a server pays is the crossing"]

    def once() -> bool:
        out = model.infer({"TEXT": text})
        return out["TOKENS"].numpy()[1] == b"gil" and list(out["LENGTHS"].numpy()) == [7, 8]

    return _measure(server, model, once, sum(map(len, text)), "tokenize (strings)", sum(map(len, text)))


def _classify(server: Server) -> _Row:
    model = server.model("classify")
    batch = np.ones((8, 64), np.float32)

    def once() -> bool:
        pending = [model.infer_async({"FEATURES": batch}) for _ in range(8)]
        return all(future.result()["SCORES"].shape == (8, 10) for future in pending)

    return _measure(server, model, once, 8 * batch.nbytes, "classify (8 at once)", batch.nbytes)


def _copies(row: _Row) -> str:
    if row["inline"]:
        return "inline"
    return f"{row['copies_in']:.0f} in, {row['copies_out']:.0f} out"


def _first_table(rows: list[_Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "inputs", "p50", "p99", "copies"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for row in rows:
        cells = (size(row["bytes"]), duration(row["p50_s"]), duration(row["p99_s"]), _copies(row))
        table.add_row(row["what"], *cells)
    return table


def _second_table(rows: list[_Row]) -> Table:
    """One line per size: the same request with ordinary arrays, and with arrays that were born in shared memory."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("add_sub", "numpy arrays", "GB/s", "copies", "model.empty", "GB/s", "copies"):
        table.add_column(name, justify="left" if name == "add_sub" else "right", no_wrap=True)
    for ordinary, born_here in zip(rows[::2], rows[1::2], strict=True):
        cells = [size(ordinary["bytes"])]
        for row in (ordinary, born_here):
            rate = "" if row["inline"] else f"{row['bytes'] / row['p50_s'] / 1e9:.1f}"
            cells += [duration(row["p50_s"]), rate, _copies(row)]
        table.add_row(*cells)
    return table


def _show(rows: list[_Row], processes: int, started: float) -> None:
    console.print(f"Three Triton models, {processes} Python processes, ready in {duration(started)}.")
    console.print(_first_table(rows[:2]))
    console.print(_second_table(rows[2:]))
    console.print(
        "Times are of whole requests, from the call to the answer (median). copies: how\n"
        "often the payload was copied, in and out. An array from [bold]model.empty[/bold] is born in\n"
        "shared memory and crosses without a copy; an ordinary one is copied once. What\n"
        "NumPy makes inside the model is born there too."
    )


def _show_verdict(rows: list[_Row]) -> None:
    wrong = [row["what"] for row in rows if not row["correct"]]
    console.print(f"[red]WRONG answers: {', '.join(wrong)}[/red]" if wrong else "[green]Every answer was right.[/green]")


def _on_the_cpu(advance: Callable[[str], None]) -> tuple[float, int, list[_Row]]:
    """How long starting took, how many processes that were, and the rows."""
    begin = time.perf_counter()
    with Server(_MODELS, models=["add_sub", "tokenize", "classify"]) as server:
        started = time.perf_counter() - begin
        advance("sending requests")
        rows: list[_Row] = []
        for row in (_tokenize, _classify):
            rows.append(row(server))
            advance("sending requests")
        for count in (one // 4 for one in _SIZES):
            for born_here in (False, True):
                rows.append(_add_sub(server, count, born_here))
                advance("sending requests")
        processes = sum(len(model["instances"]) for model in server.statistics().values())
    return started, processes, rows


def _on_the_gpu(advance: Callable[[str], None]) -> dict[str, Any]:
    """Its rows; none where there is no GPU, or none that can do it, with the reason."""
    if why := _demo_gpu.why_no_gpu():
        return {"why_none": why, "rows": [], "failed": False}
    try:
        with Server(_MODELS, models=["on_gpu"], quiet=True) as server:
            return _demo_gpu.measure(server, lambda: advance("sending device tensors"))
    except Error as error:
        return {"why_none": str(error), "rows": [], "failed": error.code != "UNSUPPORTED"}


def _show_gpu(found: dict[str, Any]) -> None:
    if found["rows"]:
        _demo_gpu.show(found)
    elif found["failed"]:
        console.print("[red]No device tensors:[/red] " + escape(found["why_none"]))
    else:
        console.print(f"No device tensors here: {found['why_none']}", markup=False)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON instead of a table.")
def demo(as_json: bool) -> None:
    """Serve models, send real requests, show what was copied and how long it took; on a GPU too if there is one."""
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("starting three models", total=3 + 2 * len(_SIZES) + _demo_gpu.CASES)
        started, processes, rows = _on_the_cpu(lambda does: progress.update(task, advance=1, description=does))
        gpu = _on_the_gpu(lambda does: progress.update(task, advance=1, description=does))
    correct = all(row["correct"] for row in [*rows, *gpu["rows"]]) and not gpu["failed"]
    if as_json:
        emit_json({"ready_s": started, "rows": rows, "gpu": gpu, "correct": correct})
    else:
        _show(rows, processes, started)
        _show_gpu(gpu)
        _show_verdict([*rows, *gpu["rows"]])
    if not correct:
        raise click.exceptions.Exit(FAILED)
