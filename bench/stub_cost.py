"""What does a stub with numpy cost in memory and in time to start and end, beside a plain `python -c 'import numpy'`?

    python bench/stub_cost.py [--quick] [--rounds N] [--json FILE]

Both live at the same time in each round, so that they share the same pages with the same neighbours; of times the best of
the rounds decides, of memory the median difference. PSS is read after a first request. "ready": from load() to its return,
and from spawn to the end of the imports. "gone": from unload() to its return, which is when the process is reaped, and from
the end of its stdin until the plain one is reaped.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import host
import program
import tensorferry
from client import MODELS
from report import stub_cost_table

MODEL = "imports_numpy"
PLAIN = "import numpy, os; os.write(1, b'.'); os.read(0, 1)"


def pss_mb(pid: int) -> float:
    """Proportional set size, in units of 1e6 bytes."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


class PlainInterpreter:
    """`python -c 'import numpy'`, which then waits for the end of its stdin."""

    def __init__(self) -> None:
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        begin = time.perf_counter()
        self.pid = os.posix_spawn(sys.executable, [sys.executable, "-c", PLAIN], os.environ, file_actions=actions)
        os.close(stdin)
        os.close(stdout)
        if os.read(self._stdout, 1) != b".":
            raise SystemExit("the plain interpreter could not import numpy")
        self.ready_ms = (time.perf_counter() - begin) * 1e3

    def end(self) -> float:
        """Milliseconds until it is reaped."""
        begin = time.perf_counter()
        os.close(self._stdin)
        _, status = os.waitpid(self.pid, 0)
        took = (time.perf_counter() - begin) * 1e3
        os.close(self._stdout)
        if status != 0:
            raise SystemExit(f"the plain interpreter ended with {status}")
        return took


@dataclass
class Pair:
    """One round's figures, of the stub and of the plain interpreter."""

    pss: tuple[float, float]
    ready: tuple[float, float]
    gone: tuple[float, float]


def one_round(server: tensorferry.Server, stub_first: bool) -> Pair:
    plain = None if stub_first else PlainInterpreter()
    begin = time.perf_counter()
    server.load(MODEL)
    ready = (time.perf_counter() - begin) * 1e3
    if plain is None:
        plain = PlainInterpreter()
    server.model(MODEL).infer({"IN": np.arange(4, dtype=np.uint8)})
    pss = pss_mb(int(server.statistics()[MODEL]["instances"][0]["pid"])), pss_mb(plain.pid)
    exit_first = plain.end() if stub_first else None
    begin = time.perf_counter()
    server.unload(MODEL)
    gone = (time.perf_counter() - begin) * 1e3
    return Pair(pss, (ready, plain.ready_ms), (gone, exit_first if exit_first is not None else plain.end()))


def row(key: str, what: str, unit: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    stub, plain = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    medians = [statistics.median(pair[i] for pair in pairs) for i in (0, 1)]
    note = f"medians {medians[0]:.1f} and {medians[1]:.1f} {unit}"
    return {"key": key, "what": what, "unit": unit, "stub": stub, "plain": plain, "note": note}


def run(rounds: int) -> dict[str, Any]:
    about = host.describe()
    with tensorferry.Server(MODELS, models=[]) as server:
        one_round(server, False)  # compiles what isn't compiled yet
        pairs = [one_round(server, number % 2 == 0) for number in range(rounds)]
    # Of memory the difference is what counts, so both figures come from one round: the median one.
    median = sorted((pair.pss for pair in pairs), key=lambda pss: pss[0] - pss[1])[len(pairs) // 2]
    rows = [
        row("pss", "PSS", "MB", [median]),
        row("ready", "ready", "ms", [pair.ready for pair in pairs]),
        row("gone", "gone", "ms", [pair.gone for pair in pairs]),
    ]
    return {"host": about, "rows": rows}


def main() -> int:
    arguments = program.options(__doc__).parse_args()
    host.progress("a stub beside a plain interpreter")
    return program.finish(run(arguments.rounds or (10 if arguments.quick else 30)), stub_cost_table, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
