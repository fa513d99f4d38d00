"""./dev as people meet it: what it lists, what it refuses, what it says to install, and that its counts are honest."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERBS = ["demo", "test", "bench", "lint", "fuzz", "fake-cuda", "gpu-test", "nsys", "doctor", "clean"]


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("dev", ROOT / "tools" / "dev.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dev", module)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(ROOT / "dev"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def folder_with(tmp_path: Path, *commands: str) -> str:
    """A PATH that has these commands and no other."""
    for command in commands:
        found = shutil.which(command)
        assert found
        (tmp_path / command).symlink_to(found)
    return str(tmp_path)


def test_alone_it_lists_its_verbs_with_a_line_each() -> None:
    told = run(PYTHON=sys.executable)
    assert told.returncode == 0
    lines = [line.split(maxsplit=2) for line in told.stdout.splitlines() if line.startswith("./dev ")]
    assert [words[1] for words in lines] == VERBS
    assert all(len(words) == 3 for words in lines)
    assert "--no-apt" in told.stdout


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="there may be a GPU here")
def test_gpu_test_without_a_gpu_says_so_and_installs_nothing() -> None:
    told = run("gpu-test", PYTHON=sys.executable)
    assert told.returncode == 3
    assert "there is no GPU to test on" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(("no_gpu", "emulated"), [("no driver", True), (None, False)])
def test_demo_runs_on_the_emulated_gpu_where_there_is_no_other(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, no_gpu: str | None, emulated: bool
) -> None:
    built, ran = [], []
    monkeypatch.setattr(dev.gpu_test, "why_no_device", lambda: no_gpu)
    monkeypatch.setattr(dev, "set_up", lambda options, packages, groups: None)
    monkeypatch.setattr(dev, "install_project", lambda: 0)
    monkeypatch.setattr(dev, "build", lambda preset, *targets: built.append((preset, *targets)) or True)
    monkeypatch.setattr(dev, "run", lambda command, env: ran.append((command, env)) or 0)
    assert dev.verb_demo(argparse.Namespace(no_apt=True, rest=["--json"])) == 0
    assert built == ([("dev", "tensorferry_fake_cuda")] if emulated else [])
    ((command, env),) = ran
    assert command[-2:] == ["demo", "--json"]
    assert ("FAKECUDA" in env) == emulated


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert run("frobnicate", PYTHON=sys.executable).returncode == 2


def test_an_interpreter_that_is_not_there_is_named() -> None:
    told = run("demo", PYTHON="/nowhere/python")
    assert told.returncode == 3
    assert "/nowhere/python" in told.stderr


def test_without_a_python_and_not_to_touch_the_system_it_says_what_to_install(tmp_path: Path) -> None:
    told = run("demo", "--no-apt", PATH=folder_with(tmp_path, "dirname", "id"), PYTHON="")
    assert told.returncode == 3
    assert "apt-get install python3 python3-venv python3-dev" in told.stderr


def test_what_is_missing_is_said_with_the_command_that_brings_it(
    dev: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "missing_packages", lambda wanted: list(wanted))
    with pytest.raises(SystemExit) as end:
        dev.install_packages({"g++": "c++", "ninja-build": "ninja"}, no_apt=True)
    assert end.value.code == 3
    assert "apt-get -qy install --no-install-recommends g++ ninja-build" in capsys.readouterr().err


def test_root_installs_it_and_prints_each_command_first(
    dev: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    fake = tmp_path / "apt-get"
    fake.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(dev, "missing_packages", lambda wanted: list(wanted))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    dev.install_packages({"spin": "spin"}, no_apt=False)
    assert log.read_text().splitlines() == ["-q update", "-qy install --no-install-recommends spin"]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("+ ")]
    assert len(printed) == 2


def test_a_library_that_is_not_installed_is_missing_and_one_command_that_is_there_is_not(dev: ModuleType) -> None:
    missing = dev.missing_packages({"surely-no-such-package": None, "a-shell": "sh"})
    assert "surely-no-such-package" in missing or not shutil.which("dpkg-query")
    assert "a-shell" not in missing


CASES = """<testsuites><testsuite>
<testcase name="good"/><testcase name="left out"><skipped/></testcase>{more}
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("more", "exit_code", "line", "ends_with"),
    [
        ("", 0, "1 passed, 0 failed, 1 skipped", 0),
        ('<testcase name="bad"><failure/></testcase>', 1, "1 passed, 1 failed, 1 skipped", 1),
        ('<testcase name="bad" status="fail"/>', 8, "1 passed, 1 failed, 1 skipped", 1),
        ("", 134, "1 passed, 1 failed, 1 skipped", 1),  # it crashed afterwards
        ("<", 0, "0 passed, 1 failed, 0 skipped", 1),  # no results to be read
    ],
)
def test_the_closing_line_counts_what_the_runner_found(
    dev: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    more: str,
    exit_code: int,
    line: str,
    ends_with: int,
) -> None:
    results = tmp_path / "junit.xml"
    results.write_text(CASES.format(more=more))
    report = dev.Report()
    report.add_junit("cases", results, exit_code)
    assert report.close() == ends_with
    assert capsys.readouterr().out.splitlines()[-1] == line


def is_running(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_that_runs_too_long_is_ended_with_what_it_started(dev: ModuleType, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert dev.run(["sh", "-c", f"sleep 1000 & echo $! >{pid}; wait"], timeout=1) == 124
    end = time.monotonic() + 20
    while is_running(pid.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_compiler_that_is_missing_is_said_with_the_package_that_brings_it(tmp_path: Path) -> None:
    commands = folder_with(tmp_path, "cmake", "ninja")
    command = [f"{commands}/cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path / "build")]
    told = subprocess.run(command, env={"PATH": commands}, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "apt-get install g++" in told.stderr


@pytest.mark.parametrize(
    ("minutes", "codes", "remark"),
    [
        (29, {}, "PyTorch's tests were not run: of 28 minutes 29 were over; ./dev test --with torch runs them"),
        (10, {"pip": 1}, "PyTorch's tests were not run: it can't be installed (pip ended with 1)"),
        (10, {"pytest": 124}, "PyTorch's tests were ended: their time was over"),
        (10, {}, None),
    ],
)
def test_the_closing_line_says_where_pytorchs_tests_did_not_run(
    dev: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    minutes: int,
    codes: dict[str, int],
    remark: str | None,
) -> None:
    def run(command: list[object], **_: object) -> int:
        if "pytest" in command:
            (tmp_path / "pytest.xml").write_text(CASES.format(more=""))
        return next((codes.get(str(word), 0) for word in command if word in ("pip", "pytest")), 1)

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "BUILD", tmp_path)
    report = dev.Report()
    report.seconds["all before"] = minutes * 60
    dev.torch_in_spare_time(report)
    report.close()
    counted = "1 passed, 0 failed, 1 skipped" if remark is None else "0 passed, 0 failed, 0 skipped"
    assert capsys.readouterr().out.splitlines()[-1] == "; ".join([counted, *([remark] if remark else [])])


def test_the_files_of_pytorchs_tests_are_all_listed(dev: ModuleType) -> None:
    needed = {str(file.relative_to(ROOT)) for file in ROOT.glob("tests/*/test_*torch*.py")}
    assert needed <= set(dev.torch_tests.TESTS)
    assert all((ROOT / name).is_file() for name in dev.torch_tests.TESTS)
