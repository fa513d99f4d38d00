"""Runs the C++ scenarios of two processes under many seeds of the emulated driver's random scheduler, and stops at the first
seed that one of them fails under, with the command that shows it again.

    .venv/bin/python tools/seeds.py [--seeds 1000] [--first 1]      # what `./dev test --all` does

It takes what `cmake --build --preset dev` has built. ctest runs the first 20.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dev import BUILD, JOBS, ROOT, VENV

BUILT = BUILD / "dev"
PROGRAMS = ("tensorferry_cuda_test", "tensorferry_server_test")
FILTER = "--gtest_filter=*TwoProcesses*"
SECONDS = 120  # for one seed
SHOWN_BYTES = 8000  # of what a failing one said, from its end


@dataclass(frozen=True)
class Run:
    program: str
    seed: int

    @property
    def command(self) -> list[str]:
        return [str((BUILT / "bin" / self.program).relative_to(ROOT)), FILTER]

    @property
    def variables(self) -> dict[str, str]:
        return {
            "FAKECUDA_SCHED": f"random:{self.seed}",
            "TENSORFERRY_PAYLOAD": str(BUILT / "python" / "tensorferry" / "payload"),
            "TENSORFERRY_TEST_PYTHON": str(VENV / "bin" / "python"),
        }

    def __str__(self) -> str:
        return shlex.join([*(f"{name}={value}" for name, value in self.variables.items()), *self.command])


def why_it_fails(run: Run) -> str | None:
    """None where it passes."""
    process = subprocess.Popen(
        run.command,
        cwd=ROOT,
        env={**os.environ, **run.variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return f"it ran longer than {SECONDS} s\n" + output[-SHOWN_BYTES:].decode(errors="replace")
    text = output.decode(errors="replace")
    if process.returncode == 0 and "[  SKIPPED ]" not in text and "[  PASSED  ]" in text and "Running 0 tests" not in text:
        return None
    return text[-SHOWN_BYTES:]


def first_failure(runs: Iterable[Run]) -> tuple[Run, str] | None:
    with ThreadPoolExecutor(JOBS) as pool:
        tried = {run: pool.submit(why_it_fails, run) for run in runs}
        for run, outcome in tried.items():
            if why := outcome.result():
                pool.shutdown(cancel_futures=True)
                return run, why
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/seeds.py")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    if missing := [name for name in PROGRAMS if not (BUILT / "bin" / name).exists()]:
        print(f"{', '.join(missing)}: not built; cmake --build --preset dev does it", file=sys.stderr)
        return 2
    seeds = range(options.first, options.first + options.seeds)
    failure = first_failure(Run(program, seed) for seed in seeds for program in PROGRAMS)
    if failure is None:
        print(f"seeds {seeds[0]} to {seeds[-1]}: all pass")
        return 0
    run, why = failure
    print(f"{why}\nseed {run.seed} fails:\n  {run}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
