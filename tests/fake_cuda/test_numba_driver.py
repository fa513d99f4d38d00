"""The driver tests that come in numba-cuda's wheel, on the emulated driver, against the list of what becomes of each."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import LIBRARIES
from fake_cuda import environment

HERE = Path(__file__).parent
LISTED = HERE / "numba_driver_tests.txt"


def listed() -> dict[str, str]:
    """What the list says of each test: `passes`, or why it doesn't."""
    lines = (line for line in LISTED.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split(maxsplit=1) for line in lines)


def outcomes() -> dict[str, str]:
    ran = subprocess.run(
        [sys.executable, str(HERE / "numba_driver_run.py")],
        env={**os.environ, **environment(LIBRARIES)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, str] = {}
    for line in ran.stdout.splitlines():
        name, tab, outcome = line.partition("\t")
        if tab and not found.get(name, "").startswith("failed"):  # a test may fail in several of its parts
            found[name] = outcome
    return found


@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: --group cuda")
@pytest.mark.skipif(not (LIBRARIES / "libcuda.so.1").exists(), reason="the emulated driver isn't built")
def test_numba_cudas_own_driver_tests_pass_where_the_list_says_so_and_only_there() -> None:
    expected = listed()
    found = outcomes()
    passed = {name for name, outcome in found.items() if outcome == "passed"}
    should = {name for name, what in expected.items() if what == "passes"}
    assert {name: found.get(name, "it didn't run") for name in should - passed} == {}
    assert {name: expected.get(name, "not in the list") for name in passed - should} == {}
    assert {name: outcome for name, outcome in found.items() if name not in expected} == {}
