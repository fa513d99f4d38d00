"""The examples of the bare transport on the emulated driver, on each rung that shares device memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import LIBRARIES
from fake_cuda import Summary, environment

import tensorferry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "bare_transport"
PROGRAM = LIBRARIES.parent / "examples" / "bare_transport" / "bare_transport"
SCHEDULERS = ("eager", "lazy", "random:1")


def said_by(command: list[object], folder: Path, **settings: str) -> tuple[str, Summary]:
    """What the program prints, and what it did with the driver, in all of its processes; nothing may be wrong or left."""
    if not (LIBRARIES / "libcuda.so.1").exists():
        pytest.skip("the emulated driver isn't built: cmake --preset dev && cmake --build --preset dev")
    emulator = environment(LIBRARIES, state=folder, leaks=True, **settings)  # type: ignore[arg-type]
    emulator.pop("LD_PRELOAD", None)  # the fake runtimes: none of these processes has use for one
    variables = {**os.environ, **emulator, "FAKECUDA_QUIET": "1"}
    variables["PYTHONPATH"] = str(Path(tensorferry.__file__).parents[1])
    done = subprocess.run(list(map(str, command)), env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    summary = Summary(LIBRARIES / "libcuda.so.1", folder)
    assert not summary.reports, summary.reports
    assert "left at exit" not in done.stderr, done.stderr
    return done.stdout, summary


@pytest.mark.parametrize(
    ("method", "scheduler"), [*(("spawn", scheduler) for scheduler in SCHEDULERS), ("fork", "lazy"), ("forkserver", "lazy")]
)
def test_two_processes_exchange_a_tensor_on_a_gpu(method: str, scheduler: str, tmp_path: Path) -> None:
    said, summary = said_by([sys.executable, EXAMPLES / "two_processes.py", method], tmp_path, sched=scheduler)
    assert f"{method}: moved on cuda:0: [8. 8. 8.]" in said
    assert summary.counters["copies_d2d"] == 0
    assert summary.counters["contexts_created"] == 2


@pytest.mark.parametrize(("profile", "opened"), [("no_vmm", "ipc_memory_opens"), ("no_ipc_events", "fd_imports")])
@pytest.mark.parametrize("scheduler", ["eager", "lazy"])
def test_so_they_do_where_memory_goes_by_handle_or_events_don_t_cross(
    profile: str, opened: str, scheduler: str, tmp_path: Path
) -> None:
    said, summary = said_by([sys.executable, EXAMPLES / "two_processes.py"], tmp_path, sched=scheduler, profile=profile)
    assert "moved on cuda:0: [8. 8. 8.]" in said
    assert summary.counters[opened] == 1


@pytest.mark.parametrize("profile", ["no_driver", "old_driver", "events_only", "attributes_lie"])
def test_so_they_do_without_a_gpu_that_can_be_shared(profile: str, tmp_path: Path) -> None:
    said, _ = said_by([sys.executable, EXAMPLES / "two_processes.py"], tmp_path, profile=profile)
    assert "spawn: copied there, moved back: [8186 8188 8190] 1.0" in said
    assert "spawn: without a GPU: gpu_" in said


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_cpp_program_and_a_python_worker_exchange_a_tensor_on_a_gpu(scheduler: str, tmp_path: Path) -> None:
    if not PROGRAM.exists():
        pytest.skip("the C++ example isn't built: cmake --build --preset dev --target bare_transport")
    said, summary = said_by([PROGRAM, sys.executable, EXAMPLES / "worker.py"], tmp_path, sched=scheduler)
    assert "cuda:0: sent 2, got 4 back" in said
    assert "copies of payload to cross: 0" in said
    assert summary.counters["copies_d2d"] == 0


def test_a_cpp_program_goes_on_without_a_gpu(tmp_path: Path) -> None:
    if not PROGRAM.exists():
        pytest.skip("the C++ example isn't built: cmake --build --preset dev --target bare_transport")
    said, _ = said_by([PROGRAM, sys.executable, EXAMPLES / "worker.py"], tmp_path, profile="no_driver")
    assert "cpu: sent 2, got 4 back" in said
    assert "no GPU: gpu_no_device" in said
