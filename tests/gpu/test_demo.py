"""`tensorferry demo` where there are device tensors to show, which here is the emulated driver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulated import LIBRARIES, on_the_machines_driver
from fake_cuda import Summary, environment

emulator_only = pytest.mark.skipif(on_the_machines_driver(), reason="about the emulator")
TIME = re.compile(r"[0-9] (us|ms|s)\b")


def demo(*options: str, code: int = 0, variables: dict[str, str] | None = None, **settings: Any) -> str:
    if not on_the_machines_driver() and not (LIBRARIES / "libcuda.so.1").exists():
        pytest.skip("the emulated driver isn't built")
    emulator = {} if on_the_machines_driver() else environment(LIBRARIES, runtimes=False, **settings)
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    env = os.environ | emulator | paths | {"FAKECUDA_QUIET": "1", "COLUMNS": "80"} | (variables or {})
    command = [sys.executable, "-m", "tensorferry.cli", "demo", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_device_rows_have_copies_waits_and_contexts_and_times_only_of_a_real_gpu(tmp_path: Path) -> None:
    found = json.loads(demo("--json", sched="lazy", state=tmp_path))
    assert found["correct"]
    rows = {row.pop("what"): row for row in found["gpu"]["rows"]}
    assert {"p50_s" in row for row in rows.values()} == {not found["gpu"]["emulated"]}
    counted = {
        what: (row["copies_in"], row["copies_out"], row["host_waits"], row["stub_contexts"]) for what, row in rows.items()
    }
    assert counted == {
        "model.empty(device=), passed on": ({}, {}, 0, 0),
        "another library's array": ({"d2d": 1}, {}, 0, 0),
        "as_numpy() in the model": ({"d2h": 1}, {}, 0, 0),
        "output: pb_utils.empty(device=)": ({}, {}, 0, 1),
        "output that the model keeps": ({}, {"d2d": 1}, 0, 1),
    }
    if not on_the_machines_driver():
        assert found["gpu"]["emulated"]
        assert not Summary(LIBRARIES / "libcuda.so.1", tmp_path).reports


@emulator_only
@pytest.mark.parametrize(
    ("variables", "code", "line"),
    [
        ({"FAKECUDA_PROFILE": "no_driver"}, 0, "No device tensors here: no GPU (the CUDA driver sees no device)"),
        ({"FAKECUDA_FAIL": "cuMemAlloc_v2:1+:2"}, 1, "No device tensors: cuMemAlloc_v2 of the CUDA driver says 2"),
    ],
)
def test_without_device_tensors_the_rest_is_shown_and_why(variables: dict[str, str], code: int, line: str) -> None:
    shown = demo(code=code, variables=variables)
    assert "add_sub" in shown
    assert line in shown
    assert "EMULATED" not in shown


@emulator_only
def test_they_stand_under_a_banner_that_says_that_they_are_emulated() -> None:
    shown = demo()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    cpu, banner, gpu = re.split(r"\n(=+ EMULATED GPU[^\n]*)\n", shown)
    assert TIME.search(cpu)
    assert "times" in banner
    assert not TIME.search(gpu)
    assert "1 D2D in" in gpu
    assert "Every answer was right." in gpu


def test_on_a_real_gpu_there_are_times_and_its_name() -> None:
    row = {"what": "output: pb_utils.empty(device=)", "bytes": 4 << 20, "copies_in": {"d2h": 1.0}, "copies_out": {}}
    found = {
        "device": "Real [GPU]",
        "emulated": False,
        "rows": [row | {"host_waits": 1, "stub_contexts": 1, "p50_s": 12.34e-3}],
    }
    program = f"from tensorferry.cli import _demo_gpu\n_demo_gpu.show({found!r})"
    env = os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    shown = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "Real [GPU]" in shown
    assert "EMULATED" not in shown
    assert "12.34 ms" in shown
