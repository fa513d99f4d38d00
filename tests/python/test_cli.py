"""The command line as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import tensorferry

DEMO = Path(tensorferry.__file__).parent / "demo_models"


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tensorferry.cli.__main__", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_run_answers_one_request() -> None:
    done = cli("run", str(DEMO), "add_sub", "--input", "INPUT0=random", "--input", "INPUT1=random", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"OUTPUT0", "OUTPUT1"}


def test_check_finds_what_is_wrong_and_says_where(tmp_path: Path) -> None:
    model = tmp_path / "bad" / "1"
    model.mkdir(parents=True)
    (model / "model.py").write_text("raise RuntimeError('check imports nothing')")
    (tmp_path / "bad" / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: "many"\n')
    done = cli("check", str(tmp_path))
    assert done.returncode == 1
    assert "config.pbtxt:2:" in done.stdout


def test_check_is_content_with_the_demo_and_can_load_it() -> None:
    done = cli("check", str(DEMO), "--load", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errors"] == 0
    assert all(one["pss_bytes"] > 0 for one in found["memory"])


def test_doctor_looks_at_the_host() -> None:
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["shared memory"]["ok"]


def test_a_wrong_option_is_a_usage_error() -> None:
    assert cli("run").returncode == 2


def test_demo_is_right_everywhere() -> None:
    done = cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(row["correct"] for row in rows)
    assert len(rows) == 12
