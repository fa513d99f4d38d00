"""Traces of requests that cross: files for Perfetto's viewer, and ranges that an NVTX tool sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from nvtx_tool import build_recorder, recorded
from test_cli import DEMO, cli, write

import tensorferry
from tensorferry.trace import merge, read

HERE = Path(__file__).parent


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


def flows(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The arrows of each request, in the order of their times."""
    by_id = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            by_id[event["cat"], event["name"], event["id"]].append(event)
    return [sorted(flow, key=lambda event: float(event["ts"])) for flow in by_id.values()]


def assert_drawable(events: list[dict[str, Any]]) -> None:
    """What a viewer of the trace-event format needs: names of all processes and threads, spans that nest, pairs that close,
    and flows that lead through spans, forward in time, to another process."""
    named = {(event["name"], event["pid"], event["tid"]) for event in events if event["ph"] == "M"}
    for event in events:
        assert event["ph"] in ("M", "X", "b", "e", "i", "s", "t", "f")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert ("process_name", event["pid"], event["pid"]) in named
        assert event["ph"] in "Mbe" or ("thread_name", event["pid"], event["tid"]) in named
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] >= 0
    assert_nested(events)
    halves = [(event["name"], event["id2"]["local"], event["pid"], event["ph"]) for event in events if event["ph"] in "be"]
    assert {half[:3] for half in halves if half[3] == "b"} == {half[:3] for half in halves if half[3] == "e"}
    at = {(event["pid"], event["tid"], event["ts"]): event for event in spans(events)}
    for flow in flows(events):
        assert [event["ph"] for event in flow] == ["s", *"t" * (len(flow) - 2), "f"]
        steps = [at[event["pid"], event["tid"], event["ts"]] for event in flow]
        assert {step["args"]["number"] for step in steps} == {flow[0]["id"]}
        by_name = {step["name"]: step for step in steps}
        assert list(by_name) == ["submit", "send", "receive", "execute", "respond", "answer"][-len(by_name) :]
        assert by_name["send"]["pid"] != by_name["receive"]["pid"] == by_name["respond"]["pid"] != by_name["answer"]["pid"]


def test_run_writes_the_trace_of_its_request(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    begin = time.monotonic()
    done = cli("run", DEMO, "add_sub", "--input", "INPUT0=random", "--input", "INPUT1=random", "--trace", file, "--json")
    end = time.monotonic()
    assert done.returncode == 0, done.stderr
    assert "OUTPUT0" in json.loads(done.stdout)
    events = json.loads(file.read_text())["traceEvents"]
    assert_drawable(events)
    (flow,) = flows(events)
    assert len(flow) == 6
    assert len({event["pid"] for event in flow}) == 2
    assert all(begin < float(event["ts"]) / 1e6 < end for event in events if event["ph"] != "M"), "one clock"


def test_run_writes_a_trace_of_a_request_that_fails_too(tmp_path: Path) -> None:
    body = "class TritonPythonModel:\n    def execute(self, requests):\n        raise ValueError('unlucky')\n"
    write(tmp_path / "models", body)
    done = cli("run", tmp_path / "models", "m", "--input", "IN=random", "--trace", tmp_path / "trace.json")
    assert done.returncode == 1
    assert "unlucky" in done.stderr
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert_drawable(events)
    assert {"submit", "execute", "respond", "answer"} <= {event["name"] for event in events}


def test_run_says_why_it_does_not_trace(tmp_path: Path) -> None:
    arguments = ("run", DEMO, "add_sub", "--input", "INPUT0=random", "--input", "INPUT1=random", "--trace")
    nowhere = cli(*arguments, tmp_path / "missing" / "trace.json")
    assert nowhere.returncode == 2
    assert "missing/trace.json" in nowhere.stderr
    twice = cli(*arguments, tmp_path / "trace.json", TENSORFERRY_TRACE=str(tmp_path))
    assert twice.returncode == 1
    assert "TENSORFERRY_TRACE" in twice.stderr


def test_a_trace_shows_one_request_on_both_sides_with_one_number(tmp_path: Path) -> None:
    body = """
    site.add("m", IDENTITY)
    site.start(models=["m"])
    site.ask("m", 1, 1 << 16)
    """
    pid = run(body, tmp_path, TENSORFERRY_TRACE=str(tmp_path / "trace"))
    events = merge(tmp_path / "trace")["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names.pop(pid) == "server"
    ((stub, instance),) = names.items()
    assert instance == "m_0_0"

    numbers = {event["args"]["number"] for event in events if event["ph"] in "Xbe"}
    assert len(numbers) == 1
    by_name = {event["name"]: event for event in spans(events)}
    assert len(by_name) == len(spans(events)), "each once"
    order = ["submit", "send", "receive", "execute", "collect", "settle", "respond", "answer"]
    assert set(by_name) | {"wait"} == {*order, "wait"}, "an answer that is there already isn't waited for"
    begins = [float(by_name[name]["ts"]) for name in order]
    assert begins == sorted(begins)
    for name, event in by_name.items():
        assert event["pid"] == (pid if name in ("submit", "send", "wait", "answer") else stub), name
    for one, next_one in (("receive", "execute"), ("execute", "collect"), ("collect", "settle"), ("settle", "respond")):
        assert float(by_name[one]["ts"]) + float(by_name[one]["dur"]) <= float(by_name[next_one]["ts"]) + 0.001
    for name in ("send", "receive", "respond", "answer"):
        assert by_name[name]["args"]["bytes"] == 4 << 16, name
    assert by_name["settle"]["args"]["bytes"] == 0, "it was passed through"

    queue = [event for event in events if event["name"] == "queue"]
    assert [event["ph"] for event in queue] == ["b", "e"]
    assert float(queue[1]["ts"]) <= begins[1], "before it is sent"
    assert_drawable(events)
    (flow,) = flows(events)
    assert [event["pid"] for event in flow] == [pid, pid, stub, stub, stub, pid]


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
    assert sorted(numbers["submit"]) == sorted(numbers["queue"]), "per request"
    assert set(numbers["wait"]) <= set(numbers["queue"]), "where the answer isn't there already"
    batches = sorted(numbers["send"])
    assert len(batches) == len(set(batches)) <= 200
    assert set(batches) <= set(numbers["queue"]), "a batch goes by the number of its first request"
    for name in ("receive", "execute", "collect", "settle", "respond", "answer"):
        assert sorted(numbers[name]) == batches, name
    assert_drawable(events)
    assert len(flows(events)) == len(batches)


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
    stubs = [event["pid"] for event in events if event["name"] == "process_name" and event["args"]["name"] == "m_0_0"]
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
    assert {(one.name, one.category) for one in ranges[pid]} | {("wait", "ipc")} == {
        ("submit", "ipc"),
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
