"""Shows that the tests of the GPU path notice the bugs that such code is prone to: plants each, and runs what is to fail.

    .venv/bin/python tools/mutations.py [--markdown FILE] [NAME...]      # what `./dev test --all` does

tests/mutations/README.md says what a mutation is. All happens in a copy of the sources below build/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev import BUILD, ROOT, VENV, tracked

MUTATIONS = ROOT / "tests" / "mutations"
FOLDER = BUILD / "mutations"  # the copy, and a log for each mutation
COPY = FOLDER / "tree"
PYTHON = COPY / VENV.name / "bin" / "python"
TEST_SECONDS = 120
BUILD_SECONDS = 1800

# What a test needs built, by what runs it.
PACKAGE = ("_server", "_transport", "_ferry_stub", "tensorferry_fake_cuda")
TARGETS = {
    "pytest": PACKAGE,
    "cuda": ("tensorferry_cuda_test", "tensorferry_fake_cuda"),
}


class Broken(Exception):
    """The run itself is no good: a patch that doesn't apply, code that doesn't compile, a test that isn't there."""


@dataclass(frozen=True)
class Test:
    """`name` is a node of pytest's, or, where it runs in "cuda", a filter of GoogleTest's for tests/cuda."""

    runs_in: str
    name: str
    scheduler: str = "eager"

    def __str__(self) -> str:
        return self.name if self.runs_in == "pytest" else f"{self.runs_in} {self.name} {self.scheduler}"


@dataclass(frozen=True)
class Mutation:
    name: str
    title: str
    tests: tuple[Test, ...]
    patch: Path


@dataclass(frozen=True)
class Outcome:
    """`noticed`: how the test failed, where that counts; else `how` says what happened instead."""

    noticed: bool
    how: str


def parse_test(text: str) -> Test:
    if text.startswith("tests/"):
        return Test("pytest", text)
    words = re.fullmatch(r"cuda (\S+) (\S+)", text)
    if not words:
        raise Broken(f"{text!r} names no test")
    return Test("cuda", words[1], words[2])


def read_mutation(patch: Path) -> Mutation:
    head = patch.read_text().split("\n---\n", 1)[0].splitlines()
    tests = [line.partition(":")[2].strip() for line in head if line.startswith("Noticed-by:")]
    if not tests:
        raise Broken(f"{patch.name} has no line 'Noticed-by: TEST' before its line '---'")
    return Mutation(patch.stem, head[0], tuple(map(parse_test, tests)), patch)


def run(command: Sequence[object], log: Path, *, seconds: float, env: dict[str, str] | None = None) -> int | None:
    """Its exit code; None where it ran longer and was ended with all that it started. Its output is added to the log."""
    with log.open("ab") as output:
        output.write(f"+ {' '.join(map(str, command))}\n".encode())
        output.flush()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=COPY,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def same_content(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def copy_sources() -> None:
    """Makes the copy what the tree is now. What is so already keeps its time, so that little is built."""
    names = [name for name in tracked("*") if (ROOT / name).is_file()]
    for folder in COPY.iterdir():
        if folder.name not in ("build", VENV.name):
            for old in [one for one in folder.rglob("*") if one.is_file() and "__pycache__" not in one.parts]:
                if str(old.relative_to(COPY)) not in names:
                    old.unlink()
    for name in names:
        if not same_content(ROOT / name, COPY / name):
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)
    # At the same place as in the tree, so that ccache takes the one's compilations for the other's.
    if not (COPY / VENV.name).is_symlink():
        (COPY / VENV.name).symlink_to(VENV)


def restore(patch: Path) -> None:
    for name in re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), re.M):
        shutil.copy(ROOT / name, COPY / name)


def configure(log: Path) -> None:
    options = [f"-DPython_EXECUTABLE={PYTHON}", "-DTENSORFERRY_BUILD_BENCH=OFF", "-DTENSORFERRY_BUILD_EXAMPLES=OFF"]
    if run(["cmake", "--preset", "dev", *options], log, seconds=600):
        raise Broken(f"cmake fails: {log}")


def build(tests: Iterable[Test], log: Path) -> None:
    targets = sorted({target for test in tests for target in TARGETS[test.runs_in]})
    if run(["cmake", "--build", "--preset", "dev", "--target", *targets], log, seconds=BUILD_SECONDS):
        raise Broken(f"it doesn't compile: {log}")


def command_of(test: Test, results: Path) -> tuple[list[object], dict[str, str]]:
    built = COPY / "build" / "dev"
    if test.runs_in == "pytest":
        options = ["-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS // 2}", f"--junitxml={results}"]
        return [PYTHON, "-m", "pytest", *options, test.name], {"PYTHONPATH": str(built / "python")}
    program = built / "bin" / "tensorferry_cuda_test"
    return [program, f"--gtest_filter={test.name}", f"--gtest_output=xml:{results}"], {"FAKECUDA_SCHED": test.scheduler}


def judge(code: int | None, results: Path) -> Outcome:
    """Not noticed: what passed, and what only took too long. An assertion, a report of the emulated driver's and a crash
    (of an assertion in our code, or since the host touched device memory) are."""
    if code is None:
        return Outcome(False, "ran out of time")
    if code < 0:
        return Outcome(True, f"ended by {signal.Signals(-code).name}")
    cases = list(ElementTree.parse(results).getroot().iter("testcase")) if results.exists() else []
    if not cases or all(case.find("skipped") is not None or case.get("result") == "skipped" for case in cases):
        raise Broken("its test was skipped or isn't there")
    found = [one for case in cases for kind in ("failure", "error") for one in case.findall(kind)]
    said = [" ".join([one.get("message") or "", one.text or ""]) for one in found]
    # A process that was ended for taking too long also ends badly.
    late = any("from pytest-timeout" in text for text in said)
    timely = [text for text in said if not late or "reports by scheduler" in text]
    if not found:
        return Outcome(False, "passed")
    if not timely:
        return Outcome(False, "ran out of time")
    return Outcome(True, "report" if any("reports by scheduler" in text for text in timely) else "assertion")


def try_test(test: Test, log: Path) -> Outcome:
    results = FOLDER / "results.xml"
    results.unlink(missing_ok=True)
    command, variables = command_of(test, results)
    return judge(run(command, log, seconds=TEST_SECONDS, env=variables), results)


def fresh_log(name: str) -> Path:
    log = FOLDER / f"{name}.log"
    log.unlink(missing_ok=True)
    return log


def check_tests(tests: Iterable[Test]) -> list[str]:
    """A test says something of a mutation only if it passes without one. Returns those that don't."""
    log = fresh_log("unchanged")
    configure(log)
    build(tests, log)
    outcomes = {test: try_test(test, log) for test in tests}
    return [f"{test} fails without any mutation: {how.how}" for test, how in outcomes.items() if how.how != "passed"]


def try_mutation(mutation: Mutation) -> list[tuple[Test, Outcome]]:
    log = fresh_log(mutation.name)
    # Git would take the paths as those of the repository around the copy.
    alone = {"GIT_CEILING_DIRECTORIES": str(FOLDER)}
    try:
        if run(["git", "apply", mutation.patch], log, seconds=60, env=alone):
            raise Broken(f"it doesn't apply: {log}")
        build(mutation.tests, log)
        return [(test, try_test(test, log)) for test in mutation.tests]
    finally:
        restore(mutation.patch)


def report(mutation: Mutation) -> list[tuple[Test, Outcome]]:
    """Prints the mutation's line of the table, more where it survives. No outcomes where there are none to be had."""
    start = time.monotonic()
    try:
        outcomes = try_mutation(mutation)
    except Broken as broken:
        print(f"{mutation.name:36} BROKEN    {broken}", flush=True)
        return []
    seconds = time.monotonic() - start
    for test, outcome in outcomes:
        verdict = "noticed" if outcome.noticed else "SURVIVES"
        print(f"{mutation.name:36} {verdict:9} {seconds:4.0f} s  {outcome.how:10} {test}", flush=True)
    if not is_noticed(outcomes):
        print(f"  a test is missing that fails where {mutation.title[0].lower()}{mutation.title[1:]}", flush=True)
    return outcomes


def is_noticed(outcomes: Sequence[tuple[Test, Outcome]]) -> bool:
    return bool(outcomes) and all(outcome.noticed for _, outcome in outcomes)


def markdown(results: dict[Mutation, list[tuple[Test, Outcome]]]) -> str:
    """What tests/mutations/RESULTS.md says."""
    rows = ["| mutation | what is wrong then | noticed by | as |", "|---|---|---|---|"]
    for mutation, outcomes in results.items():
        for test, outcome in outcomes:
            name = f"`{str(test).removeprefix('tests/')}`".replace("|", "\\|")
            how = outcome.how if outcome.noticed else f"**not noticed: {outcome.how}**"
            rows.append(f"| {mutation.name} | {mutation.title} | {name} | {how} |")
    noticed = sum(map(is_noticed, results.values()))
    title = f"{noticed} of {len(results)} mutations are noticed. Written by `tools/mutations.py --markdown FILE`."
    return "\n".join(["# What notices each mutation", "", title, "", *rows, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/mutations.py")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table goes there too")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations; all without one")
    options = parser.parse_args()
    os.environ.setdefault("CCACHE_BASEDIR", str(ROOT))
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")
    COPY.mkdir(parents=True, exist_ok=True)
    try:
        mutations = [read_mutation(patch) for patch in sorted(MUTATIONS.glob("*.patch"))]
        if unknown := set(options.names) - {mutation.name for mutation in mutations}:
            raise Broken(f"there is no mutation {', '.join(sorted(unknown))}")
        chosen = [mutation for mutation in mutations if not options.names or mutation.name in options.names]
        copy_sources()
        failing = check_tests({test: None for mutation in chosen for test in mutation.tests})
    except Broken as broken:
        failing = [str(broken)]
    if failing:
        print("\n".join(failing), file=sys.stderr)
        return 1
    results = {mutation: report(mutation) for mutation in chosen}
    if options.markdown:
        options.markdown.write_text(markdown(results))
    missed = [mutation.name for mutation, outcomes in results.items() if not is_noticed(outcomes)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mutations are noticed", *missed, sep="\n  not: ")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
