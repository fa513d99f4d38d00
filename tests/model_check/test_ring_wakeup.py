"""The ring's wake-up protocol, exhaustively, by Debian's `spin`; and that the checker notices what must not be left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("ring_wakeup.pml")


def errors_found(folder: Path, *defines: str) -> int:
    """How many errors an exhaustive search finds (it stops at the first)."""
    if shutil.which("spin") is None:
        pytest.skip("the model checker is not installed (Debian: spin)")
    subprocess.run(["spin", "-a", *defines, str(MODEL)], cwd=folder, check=True, capture_output=True)
    subprocess.run(["cc", "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=folder, check=True)
    report = subprocess.run(["./pan", "-m100000"], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "max search depth too small" not in report
    line = next(line for line in report.splitlines() if "errors:" in line)
    return int(line.rsplit("errors:", 1)[1])


def test_nobody_sleeps_while_there_is_a_record(tmp_path: Path) -> None:
    assert errors_found(tmp_path) == 0


@pytest.mark.parametrize("mutation", ["NO_PRODUCER_FENCE", "NO_CONSUMER_FENCE", "NO_RECHECK"])
def test_the_checker_catches(mutation: str, tmp_path: Path) -> None:
    assert errors_found(tmp_path, f"-D{mutation}") > 0
