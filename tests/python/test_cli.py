"""The command line as a user types it: each sentence about it, one test."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from site_of_models import IDENTITY, PROLOGUE, group_members, until

import tensorferry

DEMO = Path(tensorferry.__file__).parent / "demo_models"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(tensorferry.__file__).parents[1]), "COLUMNS": "200"}
BOTH = ("--input", "INPUT0=random", "--input", "INPUT1=random")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tensorferry.cli", *map(str, arguments)]


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = ENVIRONMENT | environment
    return subprocess.run(command(*arguments), env=settings, capture_output=True, text=True, timeout=110, check=False)


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a terminal gets to see, stdout and stderr together."""
    ours, theirs = pty.openpty()
    settings = ENVIRONMENT | {"TERM": "xterm-256color"} | environment
    with subprocess.Popen(command(*arguments), env=settings, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], 100)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
        process.wait(20)
    os.close(ours)
    assert process.returncode == 0, seen
    return seen.decode()


COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


# ---------------------------------------------------------------------------- run
def test_run_answers_one_request() -> None:
    done = cli("run", DEMO, "add_sub", *BOTH, "--json")
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert set(out) == {"OUTPUT0", "OUTPUT1"}
    assert out["OUTPUT1"] == [0, 0, 0, 0]


def test_run_reads_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, 2], np.float32))
    np.save(tmp_path / "b.npy", np.array([10, 20], np.float32))
    inputs = ("--input", f"INPUT0={tmp_path}/a.npy", "--input", f"INPUT1={tmp_path}/b.npy")
    assert json.loads(cli("run", DEMO, "add_sub", *inputs, "--json").stdout)["OUTPUT0"] == [11, 22]
    shown = cli("run", DEMO, "add_sub", *inputs).stdout
    assert "answered in" in shown
    assert "[11. 22.]" in shown


def test_run_prints_strings_as_text() -> None:
    done = cli("run", DEMO, "tokenize", "--input", "TEXT=random", "--json")
    assert json.loads(done.stdout) == {"TOKENS": ["text"] * 4, "LENGTHS": [1] * 4}


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (["INPUT0=random"], "input 'INPUT1' is not given"),
        (["INPUT0=random", "INPUT2=random"], "no input 'INPUT2'"),
        (["INPUT0"], "not NAME=FILE.npy"),
        (["INPUT0=/no/such.npy"], "/no/such.npy"),
        ([f"INPUT0={__file__}"], "can't be read as a .npy file"),
    ],
)
def test_run_says_what_the_model_takes_when_it_is_used_wrongly(inputs: list[str], text: str) -> None:
    done = cli("run", DEMO, "add_sub", *(word for entry in inputs for word in ("--input", entry)))
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_run_fails_with_the_models_error(tmp_path: Path) -> None:
    write(
        tmp_path, "class TritonPythonModel:\n    def execute(self, requests):\n        raise ValueError('[bad] weights')\n"
    )
    done = cli("run", tmp_path, "m", "--input", "IN=random")
    assert done.returncode == 1
    assert "ValueError: [bad] weights" in done.stderr
    assert "model.py" in done.stderr
    assert "cli" not in done.stderr.partition("At:")[2]


def test_run_of_a_model_that_is_not_there_fails() -> None:
    done = cli("run", DEMO, "nobody")
    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr
    assert "nobody" in done.stderr


def test_run_has_a_timeout(tmp_path: Path) -> None:
    write(
        tmp_path, "class TritonPythonModel:\n    def execute(self, requests):\n        time.sleep(0.5)\n        return []\n"
    )
    done = cli("run", tmp_path, "m", "--input", "IN=random", "--timeout", "0.05")
    assert done.returncode == 1
    assert "DEADLINE_EXCEEDED" in done.stderr


# ---------------------------------------------------------------------------- check
def write(repository: Path, source: str = IDENTITY, config: str | None = None, name: str = "m") -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(PROLOGUE + source)
    inputs = 'input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ] } ]\n'
    outputs = 'output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] } ]\n'
    (repository / name / "config.pbtxt").write_text(config or 'backend: "python"\n' + inputs + outputs)


def test_check_finds_what_is_wrong_says_where_and_imports_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    write(tmp_path / "models", f"open({str(trace)!r}, 'w')\n", 'backend: "python"\nmax_batch_size: "many"\n', "bad")
    write(tmp_path / "models", f"open({str(trace)!r}, 'w')\n", name="good")
    done = cli("check", tmp_path / "models")
    assert done.returncode == 1
    assert f"{tmp_path}/models/bad/config.pbtxt:2:" in done.stdout
    assert "2 models, 1 error, 0 warnings" in done.stdout
    found = json.loads(cli("check", tmp_path / "models", "--json").stdout)
    assert [model["name"] for model in found["models"]] == ["bad", "good"]
    assert found["errors"] == 1
    assert found["models"][0]["diagnostics"][0]["line"] == 2
    assert not trace.exists()


def test_check_with_load_tells_memory_per_stub_and_in_all() -> None:
    done = cli("check", DEMO, "--load", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["load_error"] is None
    stubs = [stub for model in found["memory"] for stub in model["stubs"]]
    assert {stub["instance"] for stub in stubs} == {
        "add_sub_0_0",
        "tokenize_0_0",
        "classify_0_0",
        "classify_0_1",
        "on_gpu_0_0",
    }
    assert all(stub["pss_bytes"] > 1 << 20 for stub in stubs)
    in_the_server = sum(model["arena_peak_bytes"] for model in found["memory"])
    in_stubs = sum(stub["pss_bytes"] + stub["arena_peak_bytes"] for stub in stubs)
    assert found["to_reserve_bytes"] == in_the_server + in_stubs
    shown = cli("check", DEMO, "--load").stdout
    for text in ("classify_0_1", "PSS", "arena peak", "to reserve:"):
        assert text in shown


def test_check_with_load_tells_what_fails_to_load(tmp_path: Path) -> None:
    write(tmp_path, "raise OSError('no weights')\n")
    assert cli("check", tmp_path).returncode == 0
    done = cli("check", tmp_path, "--load")
    assert done.returncode == 1
    assert "no weights" in done.stderr
    assert "no weights" in json.loads(cli("check", tmp_path, "--load", "--json").stdout)["load_error"]


# ---------------------------------------------------------------------------- doctor, bench, demo
def test_doctor_looks_at_the_host() -> None:
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert set(found) == {"kernel", "shared memory", "limits", "memory", "interpreters", "GPU", "inputs"}
    assert all(one["ok"] for one in found.values())
    assert os.uname().release in found["kernel"]["text"]
    assert "descriptors" in found["limits"]["text"]
    assert "an arena takes at most" in found["memory"]["text"]
    assert sys.executable in found["interpreters"]["text"]
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" in found["inputs"]["text"]
    assert found["inputs"]["text"] in cli("doctor").stdout


def test_doctor_fails_where_the_host_lacks_something() -> None:
    limited = f"ulimit -n 100; exec {' '.join(command('doctor', '--json'))}"
    done = subprocess.run(["sh", "-c", limited], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert not json.loads(done.stdout)["limits"]["ok"]


def test_bench_times_sizes() -> None:
    done = cli("bench", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["bytes"] for row in rows] == [4, 4096, 65536, 1 << 20, 1 << 24]
    assert all(0 < row["best_s"] <= row["p50_s"] for row in rows)


def test_demo_is_right_everywhere_and_copies_what_it_says() -> None:
    done = cli("demo", "--json", TENSORFERRY_CUDA="off")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["correct"]
    assert found["gpu"]["rows"] == []
    assert found["gpu"]["why_none"]
    assert len(found["rows"]) == 12
    for row in found["rows"]:
        if row["what"].startswith("add_sub") and not row["inline"]:
            assert row["copies_in"] == ("model.empty" not in row["what"]), row
            assert row["copies_out"] == 0, row


@pytest.fixture(scope="module")
def shown_demo() -> subprocess.CompletedProcess[str]:
    return cli("demo", COLUMNS="80", TENSORFERRY_CUDA="off")


def test_demo_without_a_gpu_says_so_in_one_line(shown_demo: subprocess.CompletedProcess[str]) -> None:
    (line,) = [line for line in shown_demo.stdout.splitlines() if "GPU" in line]
    assert line.startswith("No device tensors here: no GPU (gpu_off)")
    assert "EMULATED" not in shown_demo.stdout


def test_demo_shows_what_was_copied_in_eighty_columns(shown_demo: subprocess.CompletedProcess[str]) -> None:
    shown = shown_demo.stdout
    for text in ("add_sub", "tokenize", "classify", "GB/s", "model.empty", "1 in, 0 out", "0 in, 0 out"):
        assert text in shown
    assert "Every answer was right." in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


# ---------------------------------------------------------------------------- all of them
def test_results_go_to_stdout_alone_and_without_colour_where_it_is_no_terminal() -> None:
    done = cli("check", DEMO)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [("check", DEMO, "--load"), ("run", DEMO, "add_sub", *BOTH)], ids=["check", "run"])
def test_a_terminal_gets_colour_and_a_sign_of_life(arguments: tuple[object, ...]) -> None:
    seen = on_a_terminal(*arguments)
    assert COLOURS.search(seen)
    assert "loading" in seen


def test_no_color_is_obeyed_on_a_terminal() -> None:
    assert not COLOURS.search(on_a_terminal("check", DEMO, "--load", NO_COLOR="1"))


def test_demo_has_a_progress_bar_on_a_terminal_only(shown_demo: subprocess.CompletedProcess[str]) -> None:
    assert "sending requests" in on_a_terminal("demo")
    assert "sending requests" not in shown_demo.stdout + shown_demo.stderr


@pytest.mark.parametrize("name", ["demo", "run", "check", "bench", "doctor", "inspect", "join-ranges"])
def test_every_command_has_json_and_help(name: str) -> None:
    assert "--json" in cli(name, "--help").stdout


@pytest.mark.parametrize("arguments", [("run",), ("fly",), ("check", "/no/such/folder"), ("demo", "--fast")])
def test_a_wrong_use_ends_with_2_and_help(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr or "Error:" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("phase", ["initialize", "execute"])
def test_a_signal_ends_it_in_order_whatever_it_waits_for(phase: str, number: int, code: int, tmp_path: Path) -> None:
    """Also while a model loads, which may take minutes."""
    mark = tmp_path / "mark"
    wait = f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    methods = {"initialize": "def initialize(self, args):", "execute": "def execute(self, requests):"}
    write(tmp_path / "models", f"class TritonPythonModel:\n    {methods[phase]}\n        {wait}\n")
    arguments = command("run", tmp_path / "models", "m", "--input", "IN=random")
    with subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert until(lambda: mark.exists() and mark.read_text())
            stub = int(mark.read_text())
            if phase == "execute":
                time.sleep(0.1)  # the wait for the answer has begun
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, said
    assert b"Traceback" not in said
    assert until(lambda: not group_members(stub), 5)
