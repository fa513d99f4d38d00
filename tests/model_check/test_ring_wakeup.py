"""The ring's wake-up protocol, exhaustively, by Debian's `spin`; and that the checker notices what must not be left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = ["ring_wakeup.pml", "ring_space.pml"]


def errors_found(model: str, folder: Path, *defines: str) -> int:
    """How many errors an exhaustive search finds (it stops at the first)."""
    if shutil.which("spin") is None:
        pytest.skip("the model checker is not installed (Debian: spin)")
    subprocess.run(
        ["spin", "-a", *defines, str(Path(__file__).with_name(model))], cwd=folder, check=True, capture_output=True
    )
    subprocess.run(["cc", "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=folder, check=True)
    report = subprocess.run(["./pan", "-m100000"], cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "max search depth too small" not in report
    line = next(line for line in report.splitlines() if "errors:" in line)
    return int(line.rsplit("errors:", 1)[1])


@pytest.mark.parametrize("model", MODELS)
def test_nobody_sleeps_while_there_is_something_to_do(model: str, tmp_path: Path) -> None:
    assert errors_found(model, tmp_path) == 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mutation", ["NO_PRODUCER_FENCE", "NO_CONSUMER_FENCE", "NO_RECHECK"])
def test_the_checker_catches(mutation: str, model: str, tmp_path: Path) -> None:
    assert errors_found(model, tmp_path, f"-D{mutation}") > 0


@pytest.mark.parametrize("mutation", ["LAZY_WAKES_NOBODY", "URGENT_IS_LAZY"])
def test_the_checker_catches_a_record_that_wakes_fewer_than_it_should(mutation: str, tmp_path: Path) -> None:
    assert errors_found("ring_wakeup.pml", tmp_path, f"-D{mutation}") > 0
