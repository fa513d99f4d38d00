"""What `./dev gpu-test` does once things are built: all that only a real device can show, in one run.

    ./dev gpu-test [--quick]        on this machine's driver; exit code 3 where there is no device
    ./dev gpu-test --emulated       the same on tests/fake_cuda, where it shows that it runs and nothing else

The probe answers what documents leave open, the GPU tests run with what needs the emulator left out, and a bench measures.
Results: build/gpu_probe.{md,json}, build/gpu_bench.{md,json}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Runs in a process of its own: whoever asks the driver can't fork any more.
COUNT = """
import ctypes
count = ctypes.c_int()
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    raise SystemExit(f"no driver: {error}")
if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
    raise SystemExit(f"the driver says {code}, which cuda.h explains (CUresult)")
if count.value == 0:
    raise SystemExit("the driver sees no device")
"""

TARGETS = ("gpu-probe", "tensorferry_cuda_test", "tensorferry_server_test", "tensorferry_python")
# The C++ tests that use a device, without the second and third time under the emulator's schedulers.
CTEST_ARGUMENTS = ("-R", r"^(cuda\.|server\.GpuStub)", "-E", r"^cuda\.(lazy|random)")
TORCH_TESTS = ("tests/gpu/test_torch_in_a_stub.py", "tests/gpu/test_torch_on_devices.py")
MACHINES_DRIVER = {"TENSORFERRY_TEST_GPU": "1"}


def why_no_device(env: Mapping[str, str] | None = None) -> str | None:
    """What stands in the way of using a device; None for nothing. `env` is the whole environment, by default ours."""
    asked = subprocess.run([sys.executable, "-c", COUNT], env=env, capture_output=True, text=True, check=False, timeout=120)
    return None if asked.returncode == 0 else asked.stderr.strip() or f"asking the driver ended with {asked.returncode}"


def probe_table(result: Mapping[str, Any]) -> str:
    rows = [("", "question", "answer", "seen"), ("--:", "---", "---", "---")]
    rows += [(str(row["number"]), row["question"], row["answer"], row["detail"]) for row in result["rows"]]
    return "\n".join([f"{result['device']}, {result['driver']}", "", *("| " + " | ".join(row) + " |" for row in rows)])


def probe(program: Path, build: Path, env: Mapping[str, str]) -> int:
    """Asks the device all that documents leave open, prints the table and keeps it. Returns the program's exit code."""
    print(f"+ {program} --json", flush=True)
    asked = subprocess.run(
        [program, "--json"], env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=900
    )
    print(asked.stderr, end="", file=sys.stderr, flush=True)
    if asked.stdout:
        table = probe_table(json.loads(asked.stdout))
        (build / "gpu_probe.json").write_text(asked.stdout)
        (build / "gpu_probe.md").write_text(table + "\n")
        print(table, flush=True)
    return asked.returncode


def bench_command(build: Path, options: Sequence[str]) -> list[object]:
    """To be preceded by the interpreter."""
    return ["bench/gpu.py", "--json", build / "gpu_bench.json", "--markdown", build / "gpu_bench.md", *options]


def poller_command(build: Path) -> list[object]:
    """As above, for the emulator: nobody else says when the device was done."""
    return ["bench/poller.py", "--quick", "--json", build / "gpu_poller.json"]
