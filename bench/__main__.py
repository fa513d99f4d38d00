"""All of the benchmarks, each in a process of its own, and the goals.

    python bench [--quick] [--json FILE] [--svg FILE] [--markdown FILE]

What can't run here says why and is left out; a benchmark that goes wrong makes the exit code 1. Whether a goal is met
doesn't: that belongs to the machine as much as to the code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import host
import program
from goals import Results, goals, goals_table
from plot import svg
from report import end_to_end_table, from_cpp_table, stub_cost_table, system_calls_table, triton_table
from run_micro import micro_table
from triton_figures import IDENTITY, RATE_4_BYTES, SOURCE

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """A benchmark: the question, the script with its arguments, and the table of its result."""

    name: str
    question: str
    command: tuple[str, ...]
    table: Callable[[Mapping[str, Any]], str]

    def shown(self) -> str:
        return "python bench/" + " ".join(self.command)


PARTS = (
    Part("unpinned", "To a model in another process and back, unpinned", ("end_to_end.py",), end_to_end_table),
    Part("one_core", "The same with everything on one CPU", ("end_to_end.py", "--one-core"), end_to_end_table),
    Part("from_cpp", "4 B from C++ on two CPUs", ("from_cpp.py",), from_cpp_table),
    Part("system_calls", "System calls of a 4 B request under load", ("system_calls.py",), system_calls_table),
    Part("stub_cost", "A stub with numpy beside a plain interpreter", ("stub_cost.py",), stub_cost_table),
    Part("micro", "Ring, arena, codec and copy alone", ("run_micro.py",), micro_table),
)


def run(part: Part, options: Sequence[str]) -> dict[str, Any] | None:
    """The part's result, or nothing when it went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "result.json")
        command = [sys.executable, str(HERE / part.command[0]), *part.command[1:], *options, "--json", str(output)]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code != 0 or not output.exists():
            print(f"{part.shown()} ended with {code}", file=sys.stderr)
            return None
        result: dict[str, Any] = json.loads(output.read_text())
        return result


def section(part: Part, result: Mapping[str, Any]) -> str:
    text = f"skipped: {result['skipped']}" if "skipped" in result else part.table(result)
    return f"### {part.question}\n\n`{part.shown()}`\n\n{text}\n"


def triton_section() -> str:
    rates = ", ".join(f"{rate:,}/s with {in_flight}" for in_flight, rate in RATE_4_BYTES.items())
    return (
        "### Triton's own Python backend: another run, on another day\n\n"
        f"{SOURCE}. Not measured here, so no ratio to the tables above means anything exact.\n\n"
        f"{triton_table(IDENTITY)}\n\n4 B in flight: {rates}.\n"
    )


def panels(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    titles = {"unpinned": "unpinned", "one_core": "one CPU"}
    found = {title: list(results[name]["rows"]) for name, title in titles.items() if name in results}
    if "unpinned" in found:
        found["unpinned"] += [{"mechanism": "Triton's Python backend (another run)", **row} for row in IDENTITY]
    return found


def document(about: Mapping[str, Any], sections: Sequence[str], table: str, quick: bool) -> str:
    command = "./dev bench --quick" if quick else "./dev bench"
    return f"Measured with `{command}` on {host.line(about)}.\n\n### Goals\n\n{table}\n\n" + "\n".join(sections)


def options_of(part: Part, arguments: argparse.Namespace) -> list[str]:
    options = ["--quick"] if arguments.quick else []
    if arguments.rounds:
        options += ["--rounds", str(arguments.rounds)]
    if arguments.sizes and part.command[0] == "end_to_end.py":
        options += ["--sizes", *map(str, arguments.sizes)]
    return options


def write(arguments: argparse.Namespace, about: Mapping[str, Any], results: Results, sections: Sequence[str]) -> None:
    found = goals(results)
    if arguments.json:
        everything = {"host": about, "parts": results, "goals": [asdict(one) | {"met": one.met} for one in found]}
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")
    if arguments.svg and (drawn := panels(results)):
        arguments.svg.write_text(svg(drawn))
    if arguments.markdown:
        arguments.markdown.write_text(document(about, sections, goals_table(found), arguments.quick))


def main() -> int:
    parser = program.options(__doc__)
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts")
    parser.add_argument("--sizes", type=int, nargs="+", help="of the tensors that cross end to end, in bytes")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--markdown", type=Path, help="the tables, ready to be pasted into docs/performance.md")
    arguments = parser.parse_args()
    wanted = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    about = host.describe()
    print(host.line(about), flush=True)
    begin = time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    sections: list[str] = []
    for part in wanted:
        if (result := run(part, options_of(part, arguments))) is None:
            continue
        results[part.name] = result
        sections.append(section(part, result))
        print("\n" + sections[-1], flush=True)
    sections.append(triton_section())
    print(f"\n{sections[-1]}\n### Goals\n\n{goals_table(goals(results))}\n")
    print(f"{time.monotonic() - begin:.0f} s; load now {host.describe()['load']}")
    write(arguments, about, results, sections)
    return 0 if len(results) == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main())
