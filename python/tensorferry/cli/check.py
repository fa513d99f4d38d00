"""`tensorferry check`: is every config of a repository right?"""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from .. import Server, _server
from ._render import FAILED, console, emit_json, size


def _memory(repository: str) -> list[dict[str, Any]]:
    with Server(repository) as server:
        return [
            {"instance": one["name"], "pss_bytes": one["pss_bytes"], "arena_peak_bytes": one["arena_peak_bytes"]}
            for model in server.statistics().values()
            for one in model["instances"]
        ]


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False))
@click.option("--load", is_flag=True, help="Load the models too, and tell what memory they take.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def check(repository: str, load: bool, as_json: bool) -> None:
    """Read every config of REPOSITORY and say what is wrong, with file, line and column. Imports no model."""
    models = _server.check_repository(repository)
    wrong = sum(1 for model in models for one in model["diagnostics"] if one["severity"] == "error")
    memory = _memory(repository) if load and not wrong else []
    if as_json:
        emit_json({"models": models, "errors": wrong, "memory": memory})
    else:
        for model in models:
            for one in model["diagnostics"]:
                place = f"{one['file']}:{one['line']}:{one['column']}" if one["line"] else one["file"]
                console.print(f"{place}: {one['severity']}: {one['message']}", markup=False, soft_wrap=True)
        console.print(f"{len(models)} models, {wrong} errors")
        if memory:
            table = Table("instance", "PSS", "arena peak", title="Memory")
            for one in memory:
                table.add_row(one["instance"], size(one["pss_bytes"]), size(one["arena_peak_bytes"]))
            total = sum(one["pss_bytes"] + one["arena_peak_bytes"] for one in memory)
            console.print(table)
            console.print(f"to reserve: {size(total)}")
    if wrong:
        raise click.exceptions.Exit(FAILED)
