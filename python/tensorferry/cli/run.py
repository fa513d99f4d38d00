"""`tensorferry run`: one request to one model of a repository."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from .. import Model, Response, Server
from ..trace import record
from ._render import IMPATIENT, console, duration, emit_json, plain_list, waiting

_NUMPY = {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64"}
_Entry = dict[str, Any]


def _shape(entry: _Entry, batched: bool, free: int) -> list[int]:
    dims = [free if int(dim) < 0 else int(dim) for dim in entry["dims"]]
    return [1, *dims] if batched else dims


def _random(entry: _Entry, batched: bool) -> NDArray[Any]:
    """A random array that fits an input: 4 for a free dimension, 1 for the batch. The same in every run."""
    shape, kind = _shape(entry, batched, 4), str(entry["data_type"])
    if kind == "TYPE_STRING":
        return np.full(shape, b"text", dtype=np.object_)
    values = np.random.default_rng(0).random(shape)
    if kind == "TYPE_BOOL":
        return values < 0.5
    try:
        dtype = np.dtype(_NUMPY.get(kind, kind.removeprefix("TYPE_").lower()))
    except TypeError:
        raise click.UsageError(f"'{entry['name']}' is {kind}, which NumPy has no random values of: name a file") from None
    return (values * 10).astype(dtype)


def _read(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise click.UsageError(f"'{path}' can't be read as a .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise click.UsageError(f"'{path}' holds several arrays: save the one as .npy")
    return array


def _gather(model: Model, options: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The inputs that the options name; what they leave out or get wrong is told with what the model takes."""
    config = json.loads(model.config)
    batched = int(config.get("max_batch_size", 0)) > 0
    entries = {entry["name"]: entry for entry in config.get("input", [])}
    tensors = {}
    for option in options:
        name, _, value = option.partition("=")
        if not value:
            raise click.UsageError(f"--input '{option}' is not NAME=FILE.npy or NAME=random")
        if name not in entries:
            raise click.UsageError(f"model '{model.name}' has no input '{name}'. {_takes(entries, batched)}")
        tensors[name] = _random(entries[name], batched) if value == "random" else _read(Path(value))
    for name, entry in entries.items():
        if name not in tensors and not entry.get("optional", False):
            raise click.UsageError(f"input '{name}' is not given. {_takes(entries, batched)}")
    return tensors


def _takes(entries: dict[str, _Entry], batched: bool) -> str:
    lines = [
        f"  --input {name}=FILE.npy|random   {entry['data_type']} {_shape(entry, batched, -1)}"
        for name, entry in entries.items()
    ]
    return "It takes:\n" + "\n".join(lines)


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False))
@click.argument("model")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy|random", help="An input; may be repeated.")
@click.option("--timeout", type=float, help="Seconds that the answer may take.")
@click.option(
    "--trace", type=click.File("w", lazy=False), metavar="FILE", help="Write what took how long where, for ui.perfetto.dev."
)
@click.option("--json", "as_json", is_flag=True, help="Outputs as JSON.")
def run(
    repository: str, model: str, inputs: tuple[str, ...], timeout: float | None, trace: TextIO | None, as_json: bool
) -> None:
    """Load MODEL of REPOSITORY, send it one request, print the outputs."""
    with record(trace) if trace else nullcontext():
        response, took = _ask(repository, model, inputs, timeout)
    if as_json:
        emit_json({name: plain_list(tensor.numpy()) for name, tensor in response.items()})
        return
    table = Table("output", "dtype", "shape", "values", title=f"{model}: answered in {duration(took)}")
    for name, tensor in response.items():
        values = np.array2string(tensor.numpy(), threshold=8, edgeitems=3)
        table.add_row(name, tensor.dtype, str(list(tensor.shape)), values)
    console.print(table)


def _ask(repository: str, model: str, inputs: tuple[str, ...], timeout: float | None) -> tuple[Response, float]:
    """The answer, which outlives the server, and how long it took."""
    with waiting(f"loading {model}"):
        server = Server(repository, models=[model], **IMPATIENT)
    with server:
        loaded = server.model(model)
        tensors = _gather(loaded, inputs)
        begin = time.perf_counter()
        with waiting(f"{model} executes"):
            response = loaded.infer(tensors, timeout=timeout)
        return response, time.perf_counter() - begin
