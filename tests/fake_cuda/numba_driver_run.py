"""Runs the tests of the driver that come in numba-cuda's wheel, and prints a line for each: its name, a tab, its outcome.

Run on the emulated driver. Without arguments it runs all of them, each module in a process of its own; with the name of a
module it runs that one's, by unittest, since their pytest fixtures aren't in the wheel. NVIDIA's compilers are hidden, so that
the outcome is the same where they are installed: what they make couldn't run.
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
MODULE_SECONDS = 100  # then it hangs


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
    hide_compilers()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        print(f"{name.removeprefix(PACKAGE + '.')}\tfailed: not imported: {error}")
        return
    unittest.defaultTestLoader.loadTestsFromModule(module).run(OutcomePrinter())


def run_all() -> None:
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        name = f"{PACKAGE}.{module.name}"
        try:
            code = subprocess.run([sys.executable, __file__, name], timeout=MODULE_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            print(f"{module.name}\tfailed: its process ended with {code}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        run_module(sys.argv[1])
    else:
        run_all()
