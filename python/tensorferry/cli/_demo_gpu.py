"""The demo's rows of device tensors: copies, host waits and contexts per request, and times where the GPU is a real one."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from .. import Server, _server
from ._cuda_caller import Caller
from ._render import console, duration, size

_COUNT = 1 << 20  # float32 of a tensor
_CALLS = 20
_VALUES = np.arange(_COUNT, dtype=np.float32)
_Row = dict[str, Any]
_Case = tuple[str, str, str, NDArray[np.float32]]

# What it is, what the caller has, what the model does, what comes back. First those that need no CUDA in the stub.
_CASES: list[_Case] = [
    ("model.empty(device=), passed on", "given", "passes_it_on", _VALUES),
    ("another library's array", "foreign", "passes_it_on", _VALUES),
    ("as_numpy() in the model", "given", "reads_it_with_numpy", _VALUES + 1),
    ("output: pb_utils.empty(device=)", "given", "makes_it_in_place", np.full(_COUNT, 7, np.float32)),
    ("output that the model keeps", "given", "keeps_it", _VALUES),
]
CASES = len(_CASES)
_KINDS = ("host", "h2d", "d2h", "d2d", "peer")


def why_no_gpu() -> str:
    """Why there are no device tensors here; "" where there are."""
    found = _server.gpus()
    reason = str(found["why"] or "the CUDA driver sees no device").partition(":")[0]
    return "" if found["devices"] else f"no GPU ({reason})"


def _counters(pid: int) -> Counter[str]:
    """Copies by kind, waits and contexts of a process so far."""
    counted: Counter[str] = Counter()
    for one in _server.read_counters(pid):
        if one["name"] in ("copies", "host_waits", "cuda_contexts"):
            counted[one["labels"].get("kind", one["name"])] += one["value"]
    return counted


def _row(server: Server, caller: Caller, inputs: dict[str, Callable[[], Any]], case: _Case) -> _Row:
    what, has, does, expected = case
    model, stub = server.model("on_gpu"), server.statistics()["on_gpu"]["instances"][0]["pid"]

    def once() -> tuple[Any, float]:
        x = inputs[has]()
        begin = time.perf_counter()
        answer = model.infer({"X": x}, parameters={"does": does})["X"]
        return answer, time.perf_counter() - begin

    def is_right() -> bool:
        return bool(np.array_equal(once()[0].numpy(), expected))

    def copies(before: Counter[str], after: Counter[str]) -> dict[str, float]:
        return {kind: (after[kind] - before[kind]) / _CALLS for kind in _KINDS if after[kind] != before[kind]}

    correct = is_right()
    server_before, stub_before = _counters(os.getpid()), _counters(stub)
    times = [once()[1] for _ in range(_CALLS)]
    server_after, stub_after = _counters(os.getpid()), _counters(stub)
    row = {
        "what": what,
        "bytes": _VALUES.nbytes,
        "correct": is_right() and correct,
        "copies_in": copies(server_before, server_after),
        "copies_out": copies(stub_before, stub_after),
        "host_waits": ((server_after + stub_after)["host_waits"] - (server_before + stub_before)["host_waits"]) / _CALLS,
        "stub_contexts": stub_after["cuda_contexts"],
    }
    return row if caller.emulated else row | {"p50_s": statistics.median(times)}


def measure(server: Server, advance: Callable[[], None]) -> dict[str, Any]:
    """The device, and its rows: without times where the driver is the emulated one, on which they would mean nothing."""
    caller = Caller()
    foreign = caller.array(_VALUES)
    inputs: dict[str, Callable[[], Any]] = {
        "given": lambda: caller.write(server.model("on_gpu").empty(_COUNT, np.float32, device="cuda:0"), _VALUES),
        "foreign": lambda: foreign,
    }
    rows = []
    for case in _CASES:
        rows.append(_row(server, caller, inputs, case))
        advance()
    return {"device": caller.device, "emulated": caller.emulated, "rows": rows, "failed": False}


def _copies(row: _Row) -> str:
    told = [f"{count:g} {kind.upper()} {way}" for way in ("in", "out") for kind, count in row[f"copies_{way}"].items()]
    return ", ".join(told) or "0"


def show(found: dict[str, Any]) -> None:
    """A banner that says which GPU, or that it is none, and the table."""
    rows, emulated = found["rows"], found["emulated"]
    if emulated:
        console.rule("[bold]EMULATED GPU[/bold]: counts are true, times would not be", style="yellow", characters="=")
    else:
        console.rule(escape(found["device"]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = [f"on_gpu, {size(rows[0]['bytes'])}", "copies", "host waits", "contexts", *([] if emulated else ["p50"])]
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
    for row in rows:
        cells = [row["what"], _copies(row), f"{row['host_waits']:g}", str(row["stub_contexts"])]
        table.add_row(*cells, *([] if emulated else [duration(row["p50_s"])]))
    console.print(table)
    console.print(
        "Per request. D2D: copied on the GPU; D2H: to the host, by the server.\n"
        "host waits: a thread stood still for the GPU; order is kept by events instead.\n"
        "contexts: of CUDA, in the model's process; it needs none to pass tensors on,\n"
        "nor for NumPy."
    )
