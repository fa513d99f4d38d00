"""What a running server shows to somebody outside: counters, and traces of requests that cross."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from nvtx_tool import build_recorder, recorded
from site_of_models import IDENTITY, Site, kill, until
from test_cli import cli

import tensorferry
from tensorferry import _server
from tensorferry.trace import merge, read

HERE = Path(__file__).parent


def value(counters: list[dict[str, Any]], name: str, **labels: str) -> int:
    found = [one["value"] for one in counters if one["name"] == name and one["labels"] == labels]
    assert len(found) == 1, (name, labels, counters)
    return int(found[0])


# ---------------------------------------------------------------------------------------- counters


def test_counters_of_server_and_stub_are_seen_from_outside_while_it_serves(site: Site) -> None:
    body = """
    if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0] == 13:
        raise ValueError("unlucky")
    return answers(requests)
    """
    site.execute("watched", body)
    for _ in range(3):
        site.ask("watched", 1, 1 << 14)
    with pytest.raises(tensorferry.Error):
        site.ask("watched", 13)

    def seen() -> dict[str, Any]:
        done = cli("inspect", str(os.getpid()), "--json")
        assert done.returncode == 0, done.stderr
        return {process["name"]: process for process in json.loads(done.stdout)["processes"]}

    assert until(lambda: value(seen()["server"]["counters"], "executions", model="watched") == 4)
    processes = seen()
    server, stub = processes["server"], processes["watched_0_0"]
    assert server["pid"] == os.getpid()
    assert stub["pid"] == site.pid("watched")
    assert value(server["counters"], "requests", model="watched", outcome="success") == 3
    assert value(server["counters"], "requests", model="watched", outcome="failure") == 1
    assert value(server["counters"], "batches", model="watched") == 4
    assert value(server["counters"], "stub_restarts", model="watched", instance="watched_0_0") == 0
    assert value(server["counters"], "copied_bytes", kind="host") == _server.copy_counts()["host_bytes"]
    assert value(stub["counters"], "executions", instance="watched_0_0") == 4
    assert value(stub["counters"], "copies", kind="inline") >= 1

    kill(site.pid("watched"))
    assert until(lambda: site.restarts("watched") == 1)
    assert value(seen()["server"]["counters"], "stub_restarts", model="watched", instance="watched_0_0") == 1


def test_what_a_stub_copied_is_in_its_counters(site: Site) -> None:
    site.execute("keeps", "self.kept = answers(requests, lambda x: x.copy())\nreturn self.kept")
    site.ask("keeps", 1, 1 << 16)
    counters = _server.read_counters(site.pid("keeps"))
    assert value(counters, "copies", kind="host") == 1
    assert value(counters, "copied_bytes", kind="host") == 4 << 16


def test_counters_go_on_when_a_model_is_loaded_again(site: Site) -> None:
    site.add("again", IDENTITY)
    for i in range(1, 3):
        site.ask("again")
        assert value(_server.read_counters(os.getpid()), "requests", model="again", outcome="success") == i
        site.server.load("again")


def test_a_stub_that_overwrites_its_counters_spoils_only_what_is_said_of_it(site: Site) -> None:
    body = """
    import ctypes
    with open("/proc/self/maps") as file:
        maps = [line.split() for line in file]
    for span, access, _, _, _, *name in maps:
        if "w" in access and name and "tensorferry-counters" in name[0]:
            low, high = (int(part, 16) for part in span.split("-"))
            ctypes.memset(low, 0xFF, high - low)
    return answers(requests)
    """
    site.execute("liar", body)
    site.ask("liar")
    done = cli("inspect", str(os.getpid()), "--json")
    assert done.returncode == 0, done.stderr
    by_pid = {process["pid"]: process for process in json.loads(done.stdout)["processes"]}
    assert "no page of counters" in by_pid[site.pid("liar")]["error"]
    assert "error" not in by_pid[site.pid("other")]
    assert cli("inspect", str(os.getpid())).returncode == 0
    site.assert_sound()


def test_a_child_that_a_model_forks_counts_by_itself(site: Site) -> None:
    body = """
    child = os.fork()
    if child == 0:
        before = open("/proc/self/maps").read().count("tensorferry-counters")
        os._exit(before)
    shared = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return answers(requests, lambda x: x * 0 + shared)
    """
    site.execute("forks", body)
    assert site.ask("forks")[0] == 0


def test_inspect_of_a_stranger_is_an_error_that_says_so() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        done = cli("inspect", str(stranger.pid))
        stranger.kill()
    assert done.returncode == 1
    assert "no counters" in done.stderr.replace("\n", " ")
    gone = cli("inspect", str(stranger.pid))
    assert gone.returncode == 1
    assert "there is no process" in gone.stderr
    assert cli("inspect", "me").returncode == 2


# ------------------------------------------------------------------------------------------ traces


def run(body: str, folder: Path, **environment: str) -> int:
    """Runs `body` with a Site called `site` in a process of its own, whose pid it returns."""
    program = "import os, pathlib, time\nfrom site_of_models import *\n"
    program += f"site = Site(pathlib.Path({str(folder / 'models')!r}))\n" + textwrap.dedent(body) + "\nsite.close()\n"
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path, **environment}) as process:
        assert process.wait(timeout=100) == 0
    return process.pid


def spans(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def assert_nested(events: list[dict[str, Any]]) -> None:
    """On each thread a span lies within another or beside it."""
    by_thread = defaultdict(list)
    for event in spans(events):
        by_thread[event["pid"], event["tid"]].append((float(event["ts"]), float(event["ts"]) + float(event["dur"])))
    for times in by_thread.values():
        open_ends: list[float] = []
        for begin, end in sorted(times, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 0.001, times
            open_ends.append(end)


def test_a_trace_shows_one_request_on_both_sides_with_one_number(tmp_path: Path) -> None:
    body = """
    site.add("m", IDENTITY)
    site.start(models=["m"])
    site.ask("m", 1, 1 << 16)
    """
    pid = run(body, tmp_path, TENSORFERRY_TRACE=str(tmp_path / "trace"))
    events = merge(tmp_path / "trace")["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names.pop(pid) == "server"
    ((stub, instance),) = names.items()
    assert instance == "m_0_0"

    numbers = {event["args"]["number"] for event in events if event["ph"] in "Xbe"}
    assert len(numbers) == 1
    by_name = {event["name"]: event for event in spans(events)}
    assert len(by_name) == len(spans(events)), "each once"
    order = ["send", "receive", "execute", "collect", "settle", "respond", "answer"]
    assert set(by_name) == {*order, "wait"}
    begins = [float(by_name[name]["ts"]) for name in order]
    assert begins == sorted(begins)
    for name, event in by_name.items():
        assert event["pid"] == (pid if name in ("send", "wait", "answer") else stub), name
    for one, next_one in (("receive", "execute"), ("execute", "collect"), ("collect", "settle"), ("settle", "respond")):
        assert float(by_name[one]["ts"]) + float(by_name[one]["dur"]) <= float(by_name[next_one]["ts"]) + 0.001
    for name in ("send", "receive", "respond", "answer"):
        assert by_name[name]["args"]["bytes"] == 4 << 16, name
    assert by_name["settle"]["args"]["bytes"] == 0, "it was passed through"

    queue = [event for event in events if event["name"] == "queue"]
    assert [event["ph"] for event in queue] == ["b", "e"]
    assert float(queue[1]["ts"]) <= begins[0]
    assert_nested(events)
    arrows = [event for event in events if event.get("cat") == "crossing"]
    assert sorted((event["name"], event["ph"]) for event in arrows) == [
        ("respond", "f"),
        ("respond", "s"),
        ("send", "f"),
        ("send", "s"),
    ]


def test_requests_of_many_callers_and_batches_stay_apart(tmp_path: Path) -> None:
    body = """
    import concurrent.futures
    batching = 'max_batch_size: 8\\ndynamic_batching { max_queue_delay_microseconds: 2000 }\\n'
    site.add("m", IDENTITY, CONFIG + batching + 'instance_group [{ count: 2, kind: KIND_CPU }]')
    site.start(models=["m"])
    model = site.server.model("m")
    def ask(i):
        array = np.full((1, 4096), i, np.float32)
        assert np.all(np.asarray(model.infer({"IN": array})["OUT"]) == i)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))
    """
    run(body, tmp_path, TENSORFERRY_TRACE=str(tmp_path / "trace"))
    events = merge(tmp_path / "trace")["traceEvents"]
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event["ph"] in "Xb":
            numbers[event["name"]].append(event["args"]["number"])
    assert len(numbers["queue"]) == len(set(numbers["queue"])) == 200
    assert set(numbers["wait"]) == set(numbers["queue"]), "per request"
    batches = sorted(numbers["send"])
    assert len(batches) == len(set(batches)) <= 200
    assert set(batches) <= set(numbers["queue"]), "a batch goes by the number of its first request"
    for name in ("receive", "execute", "collect", "settle", "respond", "answer"):
        assert sorted(numbers[name]) == batches, name
    assert_nested(events)


def test_a_stub_that_is_killed_leaves_a_trace_that_can_be_read(tmp_path: Path) -> None:
    body = """
    site.add("m", IDENTITY)
    site.start(models=["m"])
    site.ask("m")
    stub = site.pid("m")
    def written():
        files = list(pathlib.Path(os.environ["TENSORFERRY_TRACE"]).glob(f"trace-{stub}-*.json"))
        return files and '"respond"' in files[0].read_text()
    assert until(written)
    kill(stub)
    assert until(lambda: site.restarts("m") == 1)
    site.ask("m")
    """
    folder = tmp_path / "trace"
    run(body, tmp_path, TENSORFERRY_TRACE=str(folder))
    events = merge(folder)["traceEvents"]
    stubs = [event["pid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "m_0_0"]
    assert len(stubs) == 2
    for stub in stubs:
        assert [event["name"] for event in spans(events) if event["pid"] == stub] == [
            "receive",
            "execute",
            "collect",
            "settle",
            "respond",
        ]
    done = cli("trace", str(folder))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["traceEvents"]) == len(events)


def test_a_file_that_ends_within_a_line_is_read_up_to_there(tmp_path: Path) -> None:
    file = tmp_path / "trace-1-abc.json"
    good = '{"name":"execute","ph":"X","ts":1.5,"dur":2,"pid":1,"tid":1,"args":{"number":1,"bytes":0}},\n'
    file.write_text("[\n" + good + good[:30])
    assert len(read(file)) == 1
    file.write_text("[\n" + good[:30] + "\n" + good)
    with pytest.raises(tensorferry.Error, match=r"abc\.json:2:"):
        read(file)
    file.write_text("")
    assert read(file) == []
    file.write_text("something else\n")
    with pytest.raises(tensorferry.Error, match="is no trace"):
        merge(tmp_path)


def test_a_folder_without_traces_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    done = cli("trace", str(tmp_path))
    assert done.returncode == 1
    assert "TENSORFERRY_TRACE" in done.stderr


def test_without_the_variable_nothing_is_written(tmp_path: Path) -> None:
    body = """
    assert "TENSORFERRY_TRACE" not in os.environ
    site.start(models=["other"])
    site.ask("other")
    """
    run(body, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["models"]


# -------------------------------------------------------------------------------------------- NVTX


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_recorder(tmp_path_factory.mktemp("nvtx"))


ONE_REQUEST = """
site.add("m", IDENTITY)
site.start(models=["m"])
site.ask("m")
"""


def test_an_nvtx_tool_sees_balanced_ranges_of_both_processes_with_one_number(tmp_path: Path, recorder: Path) -> None:
    log = tmp_path / "ranges"
    pid = run(ONE_REQUEST, tmp_path, NVTX_INJECTION64_PATH=str(recorder), NVTX_RECORD=str(log))
    ranges, marks = recorded(log)
    ((stub, of_stub),) = [(process, closed) for process, closed in ranges.items() if process != pid]
    assert [(one.name, one.category) for one in of_stub] == [
        ("receive", "ipc"),
        ("execute", "python"),
        ("collect", "python"),
        ("settle", "python"),
        ("respond", "ipc"),
    ]
    assert {(one.name, one.category) for one in ranges[pid]} == {
        ("queue", "queue"),
        ("send", "ipc"),
        ("answer", "ipc"),
        ("wait", "ipc"),
    }
    assert len({one.number for one in of_stub + ranges[pid]}) == 1
    assert stub != pid
    assert not marks


def test_nvtx_can_be_turned_off(tmp_path: Path, recorder: Path) -> None:
    log = tmp_path / "ranges"
    run(ONE_REQUEST, tmp_path, NVTX_INJECTION64_PATH=str(recorder), NVTX_RECORD=str(log), TENSORFERRY_NVTX="0")
    assert not log.exists()
