"""Runs test functions in a process that is on the emulated driver, since a preloaded runtime can't be had later; or, under
TENSORFERRY_TEST_GPU=1, on the machine's own.

The process serves one test module: it imports the module's file, then calls the functions that it is told, in order, so that
what a test made is dropped when it returns. Run as a script it is that process, speaking pickles over its stdin and stdout.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from fake_cuda import Summary, environment

LIBRARIES = Path(__file__).resolve().parents[2] / "build" / "dev" / "fake_cuda"
SHOWN_BYTES = 20_000  # of what the process said, from its end


def on_the_machines_driver() -> bool:
    """Whether the tests shall run on whatever libcuda.so.1 there is, as if it were a real one: `./dev gpu-test`."""
    return os.environ.get("TENSORFERRY_TEST_GPU") == "1"


class Failed(Exception):
    """What went wrong in the emulated process, as its own traceback."""


class Emulated:
    """A process on the emulator that has imported `module`; `settings` are those of fake_cuda.environment(), and
    `variables` goes into its environment besides."""

    def __init__(self, module: Path, folder: Path, variables: dict[str, str] | None = None, **settings: Any) -> None:
        self.log = folder / "output.txt"
        self.state = folder
        # Its folder of state has a file of each process, also of those that it starts itself.
        emulator = {} if on_the_machines_driver() else environment(LIBRARIES, state=folder, **settings)
        chosen = {**emulator, **(variables or {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(module)],
                env={**os.environ, **chosen, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def call(self, function: str, arguments: dict[str, Any]) -> None:
        """Runs one test; raises what it says of a failure, and skips where it skips."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            pickle.dump((function, arguments), self.process.stdin)
            self.process.stdin.flush()
            outcome, text = pickle.load(self.process.stdout)
        except (EOFError, OSError):
            raise Failed(f"the emulated process ended with {self.process.wait()}\n{self.output()}") from None
        except BaseException:  # the test's time is over
            self.kill()
            raise
        if outcome == "skipped":
            import pytest

            pytest.skip(text)
        if outcome == "failed":
            raise Failed(f"{text}\n{self.output()}")

    def output(self) -> str:
        return self.log.read_bytes()[-SHOWN_BYTES:].decode(errors="replace")

    def reports(self) -> list[str]:
        """What the driver found wrong in it, and in the processes that it started. A real one says nothing."""
        if on_the_machines_driver():
            return []
        return Summary(LIBRARIES / "libcuda.so.1", self.state).reports

    def kill(self) -> None:
        """With all that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> int:
        """Lets it end by itself, which is when leaks are reported. Returns its exit code."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.returncode
        self.process.stdout.close()
        return code


def outcome_of(function: Any, arguments: dict[str, Any]) -> tuple[str, str]:
    try:
        function(**arguments)
    except BaseException as error:  # pytest.skip() raises one that is no Exception
        if type(error).__name__ == "Skipped":
            return "skipped", str(error)
        return "failed", traceback.format_exc()
    finally:
        gc.collect()
    return "passed", ""


def serve(file: str, requests: BinaryIO, answers: BinaryIO) -> None:
    module = importlib.import_module(Path(file).stem)  # by that name the processes that a test spawns find its functions
    while True:
        try:
            function, arguments = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(outcome_of(getattr(module, function), arguments), answers)
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a test prints goes where its errors go
    serve(sys.argv[1], os.fdopen(os.dup(0), "rb"), answers)
