"""The benchmarks run and say what they should; how long anything takes is asserted nowhere."""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BUILT = [folder for folder in (ROOT / "build" / name / "bin" for name in ("dev", "bench")) if folder.is_dir()]


def binary(name: str) -> Path:
    """What TENSORFERRY_BUILD_BENCH made, in whichever preset has it."""
    for folder in BUILT:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is not built: cmake --build --preset dev -t tensorferry_bench")


def run(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(folder: Path, script: str, *arguments: object, **environment: str) -> dict[str, Any]:
    output = folder / "result.json"
    run(BENCH / script, *arguments, "--json", output, **environment)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of bench/."""
    monkeypatch.syspath_prepend(str(BENCH))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return module


def test_end_to_end_compares_with_all_peers_and_counts_the_copies(tmp_path: Path) -> None:
    found = result(tmp_path, "end_to_end.py", "--rounds", 2, "--sizes", 4, 65536)
    for size in (4, 65536):
        rows = {row["mechanism"]: row for row in found["rows"] if row["size"] == size}
        assert {"tensorferry", "tensorferry, model.empty", "shared_memory + Pipe", "Pipe"} <= set(rows)
        assert all(0 < row["best"] <= row["p50"] for row in rows.values())
    assert found["copies"]["tensorferry"] == {"server": 1, "stub": 0}
    assert found["copies"]["tensorferry, model.empty"] == {"server": 0, "stub": 0}


def test_one_core_is_one_core(tmp_path: Path) -> None:
    assert result(tmp_path, "end_to_end.py", "--rounds", 1, "--one-core", "--sizes", 4)["host"]["cpus"] == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")
def test_the_cpp_client_answers_with_one_and_with_many_in_flight(tmp_path: Path) -> None:
    folder = binary("tensorferry_bench_client").parent
    rows = result(tmp_path, "from_cpp.py", "--quick", "--rounds", 2, TENSORFERRY_BENCH_BIN=str(folder))["rows"]
    assert [(row["in_flight"]) for row in rows] == [1, 16, 1, 16]
    assert all(row["best_per_s"] >= row["p50_per_s"] > 0 for row in rows)


def test_what_is_not_built_is_said_and_left_out(tmp_path: Path) -> None:
    found = result(tmp_path, "run_micro.py", TENSORFERRY_BENCH_BIN=str(tmp_path))
    assert "is not built" in found["skipped"]


def test_the_kernels_counter_sees_each_system_call_of_another_thread_and_no_other(bench: Any) -> None:
    try:
        counter = bench("perf_counter").SystemCalls([os.getpid()])
    except bench("peers").Unavailable as why:
        pytest.skip(str(why))
    with counter:
        before = counter.read()[os.getpid()]
        os.getppid()
        counter.start()
        for _ in range(100):
            os.getppid()
            os.sched_yield()
        counter.stop()
        os.getppid()
        after = counter.read()[os.getpid()]
    everything, futexes, yields = (b - a for a, b in zip(before, after, strict=True))
    assert yields == 100
    assert everything - futexes == 100 + 100 + 1  # stop() itself


def test_the_preloaded_counter_sees_what_libc_is_asked_for(tmp_path: Path) -> None:
    library = binary("libtensorferry_call_counter.so")
    code = "import os\nbefore = open(f'{os.environ[\"TENSORFERRY_CALL_COUNTS\"]}/{os.getpid()}', 'rb').read()\n"
    code += "for _ in range(100): os.sched_yield()\nprint(os.getpid(), before.hex())"
    said = run("-c", code, LD_PRELOAD=str(library), TENSORFERRY_CALL_COUNTS=str(tmp_path))
    pid, before = said.split()
    yields = struct.unpack("=QQQ", (tmp_path / pid).read_bytes())[1] - struct.unpack("=QQQ", bytes.fromhex(before))[1]
    assert yields == 100


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")
def test_system_calls_are_counted_in_both_processes_also_without_the_kernels_help(tmp_path: Path) -> None:
    folder = binary("libtensorferry_call_counter.so").parent
    for arguments in ((), ("--preloaded",)):
        found = result(tmp_path, "system_calls.py", "--rounds", 5, *arguments, TENSORFERRY_BENCH_BIN=str(folder))
        assert {"server", "stub"} == {row["process"] for row in found["rows"]}
        assert all(0 <= row["best"] <= row["p50"] for row in found["rows"])
        assert all(row["p50"] < 50 for row in found["rows"])  # per request, and not of a whole round
        assert ("preloaded" in found["witness"]) or not arguments


def test_a_goal_is_met_missed_or_not_measured(bench: Any) -> None:
    goals = bench("goals")
    rows = [("tensorferry", 2), ("shared_memory + Pipe", 9)]
    results = {
        "unpinned": {
            "rows": [{"mechanism": name, "size": 4, "best": best} for name, best in rows],
            "copies": {"tensorferry": {"server": 1, "stub": 1}, "tensorferry, model.empty": {"server": 0, "stub": 0}},
        },
        "system_calls": {"skipped": "one CPU"},
    }
    found = {goal.text: goal for goal in goals.goals(results)}
    small = found["4 B from Python, unpinned: shared_memory + Pipe ÷ ours"]
    assert (small.measured, small.met) == (4.5, True)
    assert found["copies out, ordinary array"].met is False
    assert found["copies in, model.empty"].met is True
    assert found["system calls per 4 B request, both sides"].met is None
    assert "not measured: one CPU" in goals.goals_table(found.values())


def test_one_command_measures_and_writes_tables_a_plot_and_the_goals(tmp_path: Path) -> None:
    said = run(
        *(BENCH, "--rounds", 2, "--only", "one_core", "stub_cost", "--sizes", 4, 65536),
        *("--json", tmp_path / "b.json", "--svg", tmp_path / "b.svg", "--markdown", tmp_path / "b.md"),
    )
    found = json.loads((tmp_path / "b.json").read_text())
    measured = {goal["text"] for goal in found["goals"] if goal["met"] is not None}
    assert "PSS of a stub with numpy over a plain interpreter" in measured
    assert all(line in said for line in (tmp_path / "b.md").read_text().splitlines() if line.startswith("|"))
    drawn = (tmp_path / "b.svg").read_text()
    assert "prefers-color-scheme:dark" in drawn
    curves = list(ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title"))
    assert "shared_memory + Pipe" in {curve.text for curve in curves}
