"""`./dev fake-cuda` as its module does it: the command's environment, its exit code, and the closing summary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from emulated import LIBRARIES
from fake_cuda import environment

pytestmark = pytest.mark.skipif(not (LIBRARIES / "libcuda.so.1").exists(), reason="the emulated driver isn't built")

TOOLS = Path(__file__).resolve().parents[2] / "tools"
RUN = f"""
import sys
sys.path.insert(0, {str(TOOLS)!r})
import fake_cuda, pathlib
sys.exit(fake_cuda.run(pathlib.Path({str(LIBRARIES)!r}), sys.argv[1:]))
"""
USE = """
import ctypes
cuda = ctypes.CDLL("libcudart.so.13")
count = ctypes.c_int()
cuda.cudaGetDeviceCount(ctypes.byref(count))
print("devices:", count.value)
pointer = ctypes.c_void_p()
cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4096))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)


def python(*code: str) -> list[str]:
    return ["--", sys.executable, "-c", *code]


def test_the_command_runs_on_as_many_devices_as_asked_for() -> None:
    ran = run("--devices", "3", *python(USE))
    assert ran.returncode == 0
    assert "devices: 3" in ran.stdout


def test_the_summary_counts_what_the_processes_did() -> None:
    told = run(*python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {USE!r}])\n{USE}")).stderr
    assert "2 processes used it" in told
    assert "allocations 2," in told


def test_what_is_left_at_exit_is_reported_where_it_is_asked_for() -> None:
    assert "left at exit: 1 allocation" in run("--leaks", *python(USE)).stderr
    assert "left at exit" not in run(*python(USE)).stderr


def test_the_exit_code_is_the_commands() -> None:
    assert run(*python("raise SystemExit(7)")).returncode == 7
    assert run(*python("import os; os.kill(os.getpid(), 9)")).returncode == 128 + 9
    assert run("--", "/nowhere/command").returncode == 127


def test_the_commands_own_options_are_left_to_it() -> None:
    ran = run(*python("import sys; print(sys.argv[1:])", "--devices", "9", "--", "-x"))
    assert "['--devices', '9', '--', '-x']" in ran.stdout


def test_without_a_command_it_says_how_it_is_used() -> None:
    ran = run("--sched", "lazy")
    assert ran.returncode == 2
    assert "-- COMMAND" in ran.stderr


def test_what_the_caller_preloads_stays() -> None:
    found = environment(LIBRARIES, base={"LD_PRELOAD": "/mine.so", "LD_LIBRARY_PATH": "/my/libraries"})
    assert found["LD_PRELOAD"].endswith(":/mine.so")
    assert found["LD_LIBRARY_PATH"] == f"{LIBRARIES}:/my/libraries"
