"""`tensorferry check`: is every config of a repository right?"""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from .. import Error, Server, _server
from ._render import FAILED, IMPATIENT, console, count, emit_json, show_error, size, waiting

_Found = dict[str, Any]


def _memory(repository: str) -> tuple[list[_Found], int]:
    """Per model what the server's side holds, per stub what its process holds, now that all are loaded; and the total."""
    with waiting("loading the models"):
        server = Server(repository, **IMPATIENT)
    with server:
        statistics = server.statistics()
        memory = [
            {
                "model": name,
                "arena_peak_bytes": model["arena_peak_bytes"],
                "stubs": [
                    {"instance": one["name"], "pss_bytes": one["pss_bytes"], "arena_peak_bytes": one["arena_peak_bytes"]}
                    for one in model["instances"]
                ],
            }
            for name, model in statistics.items()
        ]
    return memory, statistics.to_reserve_bytes


def _show_configs(models: list[_Found]) -> None:
    for model in models:
        wrong = any(one["severity"] == "error" for one in model["diagnostics"])
        console.print(("[red]wrong[/red]" if wrong else "[green]ok   [/green]") + " " + escape(model["name"]))
        for one in model["diagnostics"]:
            place = f"{one['file']}:{one['line']}:{one['column']}" if one["line"] else one["file"]
            console.print(f"{place}: {one['severity']}: {one['message']}", markup=False, soft_wrap=True)


def _show_memory(memory: list[_Found], to_reserve: int) -> None:
    table = Table("model", "stub", "PSS", "arena peak", title="Memory, loaded and idle", title_justify="left")
    for model in memory:
        table.add_row(escape(model["model"]), "(inputs, in the server)", "", size(model["arena_peak_bytes"]))
        for stub in model["stubs"]:
            table.add_row("", escape(stub["instance"]), size(stub["pss_bytes"]), size(stub["arena_peak_bytes"]))
    console.print(table)
    console.print(
        f"to reserve: {size(to_reserve)}, and what your requests add: Server.statistics() has the same numbers under load"
    )


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False))
@click.option("--load", is_flag=True, help="Load the models too, and tell what memory they take.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def check(repository: str, load: bool, as_json: bool) -> None:
    """Read every config of REPOSITORY and say what is wrong, with file, line and column. Imports no model."""
    models = _server.check_repository(repository)
    severities = [one["severity"] for model in models for one in model["diagnostics"]]
    wrong, warned = severities.count("error"), severities.count("warning")
    memory: list[_Found] = []
    to_reserve = 0
    failure: Error | None = None
    if load and not wrong:
        try:
            memory, to_reserve = _memory(repository)
        except Error as error:
            failure = error
    if as_json:
        found = {"models": models, "errors": wrong, "warnings": warned}
        if load:
            found |= {"memory": memory, "to_reserve_bytes": to_reserve}
            found["load_error"] = str(failure) if failure else None
        emit_json(found)
    else:
        _show_configs(models)
        console.print(f"{count(len(models), 'model')}, {count(wrong, 'error')}, {count(warned, 'warning')}")
        if memory:
            _show_memory(memory, to_reserve)
    if failure:
        show_error(failure)
    if wrong or failure:
        raise click.exceptions.Exit(FAILED)
