"""What ./dev counts: tests that passed, failed and were skipped, and the time that each part took."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_FAILED = 1
SHOWN_LINES = 150  # of a failed command's output: as many from its beginning and its end

# Minutes that each part of `./dev test` may take on two cores, starting from nothing.
BUDGET_MINUTES = {"set-up": 4, "builds": 9, "tests": 9, "fuzz": 4, "lint": 4}


def say(text: str) -> None:
    print(text, flush=True)


class Report:
    """What passed, failed and was skipped, and how long each part took."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.failures: list[str] = []
        self.seconds: dict[str, float] = {}
        self.remarks: list[str] = []  # on what was left out, for the closing line

    def add(self, name: str, passed: int, failed: int, skipped: int) -> None:
        self.passed, self.failed, self.skipped = (
            self.passed + passed,
            self.failed + failed,
            self.skipped + skipped,
        )
        say(f"= {name}: {passed} passed, {failed} failed, {skipped} skipped")
        if failed:
            self.failures.append(f"{name} ({failed})")

    def check(self, name: str, ok: bool) -> bool:
        self.add(name, int(ok), int(not ok), 0)
        return ok

    def add_junit(self, name: str, file: Path, exit_code: int, show: bool = False) -> None:
        """Counts a JUnit file; with `show`, prints what its failed cases said.
        An exit code that the file doesn't explain is a failure of its own."""
        try:
            cases = list(ElementTree.parse(file).getroot().iter("testcase"))
        except (OSError, ElementTree.ParseError) as error:
            say(f"  {error}")
            self.add(f"{name}: no results", 0, 1, 0)
            return
        bad = [
            case
            for case in cases
            if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail"
        ]
        failed = len(bad)
        if show:
            for case in bad:
                last = (case.findtext("system-out") or "").splitlines()[-SHOWN_LINES // 5 :]
                say("\n".join([f"--- {case.get('name')}", *last]))
        skipped = sum(case.find("skipped") is not None or case.get("status") in ("notrun", "disabled") for case in cases)
        if exit_code and not failed:
            self.add(f"{name}: ended with {exit_code}", 0, 1, 0)
        self.add(name, len(cases) - failed - skipped, failed, skipped)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - start

    def close(self, *, budgets: bool = True) -> int:
        say("")
        for name, seconds in self.seconds.items():
            budget = BUDGET_MINUTES.get(name) if budgets else None
            of_budget = f" of {budget}" if budget else ""
            over = "   over budget" if budget and seconds > budget * 60 else ""
            say(f"{name:7} {seconds / 60:5.1f}{of_budget} min{over}")
        for failure in self.failures:
            say(f"failed: {failure}")
        say("; ".join([f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", *self.remarks]))
        return EXIT_FAILED if self.failed else 0
