"""`tensorferry run`: one request to one model of a repository."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from .. import Model, Server
from ._render import console, duration, emit_json

_NUMPY = {"TYPE_BOOL": "bool", "TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64"}


def _random(model: Model, name: str) -> NDArray[Any]:
    """A random array that fits the input: 4 for a free dimension, 1 for the batch."""
    config = json.loads(model.config)
    for entry in config["input"]:
        if entry["name"] == name:
            shape = [4 if int(dim) < 0 else int(dim) for dim in entry["dims"]]
            if int(config.get("max_batch_size", 0)) > 0:
                shape.insert(0, 1)
            kind = entry["data_type"]
            if kind == "TYPE_STRING":
                return np.full(shape, b"text", dtype=np.object_)
            dtype = _NUMPY.get(kind, kind.removeprefix("TYPE_").lower())
            return (np.random.default_rng(0).random(shape) * 10).astype(dtype)
    raise click.BadParameter(f"the model has no input '{name}'")


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False))
@click.argument("model")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy|random", help="An input; may be repeated.")
@click.option("--timeout", type=float, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Outputs as JSON.")
def run(repository: str, model: str, inputs: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Load MODEL of REPOSITORY, send it one request, print the outputs."""
    with Server(repository, models=[model]) as server:
        loaded = server.model(model)
        tensors: dict[str, NDArray[Any]] = {}
        for entry in inputs:
            name, _, value = entry.partition("=")
            if not value:
                raise click.BadParameter(f"'{entry}' is not NAME=FILE.npy or NAME=random")
            tensors[name] = _random(loaded, name) if value == "random" else np.load(Path(value))
        begin = time.perf_counter()
        response = loaded.infer(tensors, timeout=timeout)
        took = time.perf_counter() - begin
        if as_json:
            emit_json({name: tensor.numpy().tolist() for name, tensor in response.items()})
            return
        table = Table("output", "dtype", "shape", "values", title=f"{model}: answered in {duration(took)}")
        for name, tensor in response.items():
            values = np.array2string(tensor.numpy(), threshold=8, edgeitems=3)
            table.add_row(name, tensor.dtype, str(tensor.shape), values)
        console.print(table)
