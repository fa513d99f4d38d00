"""`./dev nsys`: where it gets nsys from without touching the system, and what comes out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nsys
import pytest
from emulated import LIBRARIES
from fake_cuda import environment

ROOT = Path(__file__).resolve().parents[2]
REQUEST = ["run", "python/tensorferry/demo_models", "add_sub", "--input", "INPUT0=random", "--input", "INPUT1=random"]


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt-get and dpkg-deb that only note what they are asked, in a file; the index is what a file `index` says."""
    commands = tmp_path / "bin"
    commands.mkdir()
    script = (
        f'#!/bin/sh\necho "$(basename $0) $@" >>{tmp_path}/log\ncase "$*" in *indextargets*) cat {tmp_path}/index;; esac\n'
    )
    for name in ("apt-get", "dpkg-deb"):
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    (tmp_path / "index").touch()
    return tmp_path


@pytest.mark.parametrize(("origin", "section"), [("Debian", "non-free"), ("Ubuntu", "multiverse")])
def test_it_asks_the_distributions_own_archive_by_sources_of_its_own(fake_apt: Path, origin: str, section: str) -> None:
    index = [
        f"{origin}|main|http://mirror/x/|stable",
        f"{origin}|{section}|http://mirror/x/|stable",
        "Other|main|http://o/|y",
    ]
    (fake_apt / "index").write_text("\n".join(index) + "\n")
    apt = nsys.Apt(fake_apt / "apt")
    apt.download(["one", "two"], fake_apt / "packages")
    assert apt.sources.read_text() == f"deb http://mirror/x/ stable main {section}\n"
    said = (fake_apt / "log").read_text().splitlines()
    assert [line.split()[-1] for line in said] == ["Packages", "update", "two"]
    for line in said[1:]:
        assert f"Dir::State::Lists={fake_apt}/apt/lists" in line
        assert f"Dir::Etc::SourceList={apt.sources}" in line


def test_without_a_source_of_the_distributions_it_says_so(fake_apt: Path) -> None:
    with pytest.raises(nsys.Unavailable, match="no source of Debian's or Ubuntu's"):
        nsys.fetch(fake_apt)
    assert "-q update" in (fake_apt / "log").read_text(), "its index may only be missing"


def test_without_apt_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nsys.Unavailable, match="put nsys on the PATH"):
        nsys.find(tmp_path)


def test_an_nsys_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nsys").write_text("#!/bin/sh\n")
    (tmp_path / "nsys").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nsys.find(tmp_path) == tmp_path / "nsys"


def test_no_command_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nsys.run(tmp_path, ["--trace=nvtx"], tensorferry=Path("tensorferry")) == 2
    assert "-- COMMAND" in capsys.readouterr().err


def test_options_of_the_users_take_the_place_of_ours_and_an_old_report_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "nsys").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/log\nexit 3\n')
    (tmp_path / "nsys").chmod(0o755)
    (tmp_path / "report.nsys-rep").touch()
    with pytest.raises(nsys.Unavailable, match="ended with 3 and recorded nothing"):
        nsys.profile(tmp_path / "nsys", tmp_path / "report", ["-t", "cuda", "--sample=process-tree"], ["true"])
    ours = f"profile --cpuctxsw=none --force-overwrite=true --output={tmp_path}/report"
    assert (tmp_path / "log").read_text() == f"{ours} -t cuda --sample=process-tree true\n"


@pytest.fixture(scope="session")
def real_nsys() -> Path:
    """Fetched once into build/; skips with the reason where it can't be had."""
    folder = ROOT / "build" / "nsys"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return nsys.find(folder)
    except nsys.Unavailable as error:
        pytest.skip(f"no nsys: {error}")


def profiled(real_nsys: Path, folder: Path, *command: str, **environment: str) -> Path:
    """What nsys saw of a command, as SQLite."""
    variables = [f"--env-var={','.join(f'{name}={value}' for name, value in environment.items())}"] if environment else []
    code = nsys.profile(real_nsys, folder / "report", variables, command)
    assert code == 0
    return nsys.export(real_nsys, folder / "report")


def cli(*arguments: object) -> str:
    command = [sys.executable, "-m", "tensorferry.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nsys_sees_the_ranges_of_both_processes_and_they_are_joined_by_the_request(real_nsys: Path, tmp_path: Path) -> None:
    database = profiled(real_nsys, tmp_path, sys.executable, "-m", "tensorferry.cli", *REQUEST)
    (request,) = json.loads(cli("join-ranges", database, "--json"))["requests"]
    steps = {"submit", "queue", "send", "receive", "execute", "collect", "settle", "respond", "answer"}
    assert set(request["steps_us"]) | {"wait"} == {*steps, "wait"}
    assert all(time > 0 for time in request["steps_us"].values())
    assert all(time > 0 for time in request["crossings_us"].values())
    assert len(request["processes"]) == 2
    cli("join-ranges", database, "--trace", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    flow = [event for event in events if event["ph"] in "stf"]
    assert [event["ph"] for event in flow] == ["s", "t", "t", "t", "t", "f"]
    server, stub = flow[0]["pid"], flow[2]["pid"]
    assert [event["pid"] for event in flow] == [server, server, stub, stub, stub, server]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nsys_sees_device_tensors_of_both_processes(real_nsys: Path, tmp_path: Path) -> None:
    """On the emulated driver."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
    if not (LIBRARIES / "libcuda.so.1").exists():
        pytest.skip("the emulated driver isn't built")
    from test_gpu_traces import PROGRAM

    paths = os.pathsep.join(path for path in sys.path if path)
    emulator = environment(LIBRARIES, sched="lazy", runtimes=False) | {"PYTHONPATH": paths, "FAKECUDA_QUIET": "1"}
    emulator.pop("LD_PRELOAD", None)  # nsys has its own there
    database = profiled(real_nsys, tmp_path, sys.executable, "-c", PROGRAM, str(tmp_path / "models"), **emulator)
    (request,) = json.loads(cli("join-ranges", database, "--json"))["requests"]
    assert {"d2d", "wait_device", "poll_done"} <= set(request["steps_us"])
    assert request["host_waits"] == ["bare_capsule"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_verb_shows_the_table(real_nsys: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "tensorferry"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m tensorferry.cli "$@"\n')
    script.chmod(0o755)
    command = [str(script), *REQUEST[:1], str(ROOT / REQUEST[1]), *REQUEST[2:]]
    assert nsys.run(ROOT / "build" / "nsys", ["--trace=nvtx,osrt", "--", *command], tensorferry=script) == 0
    shown = capfd.readouterr().out
    assert "1 request" in shown
    assert "send to receive" in shown
