"""Runs the tests of the driver that come in numba-cuda's wheel, and prints a line for each: its name, a tab, its outcome.

Run on the emulated driver. Without arguments it runs all of them; with names of modules those, by unittest, since the pytest
fixtures are not in the wheel. Compilers are hidden, so that it is the same where they are: what they make can't run.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import unittest
from typing import Any

COMPILERS = {"nvvm", "nvrtc", "nvJitLink"}
PACKAGE = "numba.cuda.tests.cudadrv"
ALONE = {f"{PACKAGE}.test_cuda_driver"}  # what fails there leaves a capture behind, which forbids others' calls
DONE = "# done: "


class OutcomePrinter(unittest.TestResult):
    """Prints an outcome as soon as it is known, so that a crash loses only those that come after it."""

    def say(self, test: unittest.TestCase, outcome: str) -> None:
        print(f"{test.id().removeprefix(PACKAGE + '.')}\t{outcome}", flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.say(test, "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.say(test, f"skipped: {reason}")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        if err[0].__name__ == "Skipped":  # pytest's
            self.addSkip(test, str(err[1]))
            return
        self.say(test, "failed: " + " ".join(f"{err[0].__name__}: {err[1]}".split())[:300])

    addFailure = addError

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.addSuccess(test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.say(test, "failed: it was expected to")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err:
            self.addError(test, err)


def hide_compilers() -> None:
    """From all that look for them by NVIDIA's pathfinder."""
    pathfinder = importlib.import_module("cuda.pathfinder")
    find = pathfinder.load_nvidia_dynamic_lib

    def find_others(name: str) -> Any:
        if name in COMPILERS:
            raise pathfinder.DynamicLibNotFoundError(f"{name} is hidden")
        return find(name)

    pathfinder.load_nvidia_dynamic_lib = find_others


def run_module(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        print(f"{name.removeprefix(PACKAGE + '.')}\tfailed: not imported: {error}")
        return
    unittest.defaultTestLoader.loadTestsFromModule(module).run(OutcomePrinter())


def run_modules(names: list[str]) -> None:
    hide_compilers()
    for name in names:
        run_module(name)
        print(f"{DONE}{name}", flush=True)


def run_batch(names: list[str]) -> None:
    """In one process, and after a crash in another one from the next module on."""
    while names:
        with subprocess.Popen([sys.executable, __file__, *names], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith(DONE):
                    names.remove(line.removeprefix(DONE).strip())
                else:
                    print(line, end="", flush=True)
        if names:
            crashed = names.pop(0)
            print(f"{crashed.removeprefix(PACKAGE + '.')}\tfailed: its process ended with {process.returncode}", flush=True)


def run_all() -> None:
    package = importlib.import_module(PACKAGE)
    names = [f"{PACKAGE}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    run_batch([name for name in names if name not in ALONE])
    run_batch([name for name in names if name in ALONE])


if __name__ == "__main__":
    if sys.argv[1:]:
        run_modules(sys.argv[1:])
    else:
        run_all()
