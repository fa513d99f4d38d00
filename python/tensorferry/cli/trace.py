"""`tensorferry trace`: the traces of a run as one file."""

from __future__ import annotations

import json
import sys

import click

from ..trace import merge


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
def trace(folder: str) -> None:
    """Put the traces in FOLDER together, on stdout: what TENSORFERRY_TRACE=FOLDER made each process write. Open the result
    in ui.perfetto.dev or chrome://tracing."""
    json.dump(merge(folder), sys.stdout)
    sys.stdout.write("\n")
