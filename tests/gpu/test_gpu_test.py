"""What `./dev gpu-test` runs on a machine with a GPU, each part of it once on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import LIBRARIES, on_the_machines_driver
from fake_cuda import environment
from gpu_test import MACHINES_DRIVER, probe, why_no_device

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = LIBRARIES.parent / "bin"

pytestmark = [
    pytest.mark.skipif(on_the_machines_driver(), reason="about running on the emulator"),
    pytest.mark.skipif(not (PROGRAMS / "gpu-probe").exists(), reason="gpu-probe isn't built"),
]


def as_on_a_real_machine(**settings: str) -> dict[str, str]:
    """The emulator in the place of the machine's driver."""
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return {**os.environ, **environment(LIBRARIES, **settings), **MACHINES_DRIVER, **paths, "FAKECUDA_QUIET": "1"}


def run(*command: object, **settings: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    env = as_on_a_real_machine(**settings)
    return subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)


def test_a_device_is_there_or_it_says_why_not() -> None:
    assert why_no_device(as_on_a_real_machine()) is None
    no_device = why_no_device(as_on_a_real_machine(profile="no_driver"))
    assert no_device
    assert "100" in no_device or "sees no device" in no_device, no_device


def test_the_probe_answers_each_question_and_keeps_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert probe(PROGRAMS / "gpu-probe", tmp_path, as_on_a_real_machine()) == 0
    result = json.loads((tmp_path / "gpu_probe.json").read_text())
    assert result["emulated"]
    answers = {row["number"]: (row["answer"], row["detail"]) for row in result["rows"]}
    assert sorted(answers) == list(range(1, 13))
    assert all(all(answer) for answer in answers.values()), answers
    assert answers[3][0] == "yes"
    assert answers[9] == ("not tried", "the device is no MIG instance")
    assert not any(" ms" in answers[number][1] or "µs" in answers[number][1] for number in (6, 11)), "times of an emulator"
    table = (tmp_path / "gpu_probe.md").read_text()
    assert table.count("\n| ") == 14
    assert table in capfd.readouterr().out


def test_the_probe_goes_on_after_a_question_that_fails() -> None:
    asked = run(PROGRAMS / "gpu-probe", "--json", 3, 11, profile="no_vmm")
    assert asked.returncode == 1, asked.stderr
    third, eleventh = json.loads(asked.stdout)["rows"]
    assert third["answer"] == "failed"
    assert "cuMem" in third["detail"], third
    assert eleventh["answer"] == "works"


def test_the_probe_of_a_machine_without_a_device_ends_with_3() -> None:
    asked = run(PROGRAMS / "gpu-probe", profile="no_driver")
    assert asked.returncode == 3
    assert "gpu_no_device" in asked.stderr


def test_gpu_tests_run_on_the_machines_driver_and_skip_what_needs_the_emulator() -> None:
    chosen = "memory_of_another_library or once_warm"
    ran = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_crossing.py", "-k", chosen)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed, 1 skipped" in ran.stdout, ran.stdout
    assert "needs the emulated driver: its counters" in ran.stdout


def test_cpp_gpu_tests_run_on_the_machines_driver_and_skip_what_needs_the_emulator() -> None:
    ran = run(PROGRAMS / "tensorferry_cuda_test", "--gtest_filter=StreamTest.*:ProbeUnder*:*/ProbeUnder*")
    assert ran.returncode == 0, ran.stdout
    assert "[       OK ] StreamTest.OneWaitsForAnotherByAnEventAndNobodyOnTheHost" in ran.stdout
    assert "needs the emulated driver: its faults" in ran.stdout
    assert "needs the emulated driver: its FAKECUDA_PROFILE" in ran.stdout


def test_the_bench_counts_on_the_emulator_and_shows_no_time(tmp_path: Path) -> None:
    result, section = tmp_path / "bench.json", tmp_path / "bench.md"
    ran = run(sys.executable, "bench/gpu.py", "--json", result, "--markdown", section)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(result.read_text())["rows"]
    of_4_bytes = {row["mechanism"]: row for row in rows if row["size"] == 4}
    ours, handles = of_4_bytes["tensorferry"], of_4_bytes["legacy IPC handle per tensor"]
    assert [ours[kind] for kind in ("waits", "copies", "opens")] == [0, 0, 0]
    assert [handles[kind] for kind in ("waits", "copies", "opens")] == [2, 0, 2]
    assert not any("best" in row for row in rows)
    assert "emulated" in section.read_text()
    assert section.read_text() in ran.stdout
