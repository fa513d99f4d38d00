"""What NVTX tools and traces show of device tensors on both sides, on the emulated driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulated import LIBRARIES
from fake_cuda import environment
from nvtx_tool import Event, build_recorder, recorded
from test_traces import assert_drawable, flows

from tensorferry.trace import merge

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")

# The caller's memory is copied, and so is the answer; a capsule that names no stream makes the model wait.
PROGRAM = """
import pathlib, sys
from device_model import *
caller, values = Caller(), ramp().view(np.int8)
body = '''
tensor.to_dlpack()
buffer = self.gpu.device.allocate(tensor.shape()[0], stream=self.gpu.stream)
self.gpu.copy(self.gpu.view(Produced(self.gpu, buffer)), self.gpu.view(tensor), tensor.shape()[0] // 4)
return Response([Tensor.from_dlpack("OUT", Produced(self.gpu, buffer))])
'''
with served(pathlib.Path(sys.argv[1]), body, dtype="TYPE_INT8") as model:
    answer = model.infer({"IN": caller.buffer(values)}, stream=caller.stream)["OUT"]
    np.testing.assert_array_equal(answer.numpy(), values)
"""
IN_STUB = ["receive", "wait_device", "execute", "collect", "settle", "respond"]  # in the order of their ends, but for d2d


def run(folder: Path, **variables: str) -> int:
    """One request with device tensors in processes of its own on the emulator; returns the server's pid."""
    if not (LIBRARIES / "libcuda.so.1").exists():
        pytest.skip("the emulated driver isn't built: cmake --preset dev && cmake --build --preset dev")
    (folder / "state").mkdir()
    chosen = {**environment(LIBRARIES, sched="lazy", state=folder / "state"), "TENSORFERRY_GPU_PROBE": "off"}
    path = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", PROGRAM, str(folder / "models")]
    with subprocess.Popen(command, env={**os.environ, **chosen, **variables, "PYTHONPATH": path}) as process:
        assert process.wait(timeout=100) == 0
    return process.pid


def only(events: list[Event], name: str) -> Event:
    (one,) = [event for event in events if event.name == name]
    return one


def test_an_nvtx_tool_sees_copies_polls_and_host_waits_of_both_processes(tmp_path: Path) -> None:
    log = tmp_path / "ranges"
    recorder = build_recorder(tmp_path)
    pid = run(tmp_path, NVTX_INJECTION64_PATH=str(recorder), NVTX_RECORD=str(log))
    ranges, marks = recorded(log)
    ((stub, of_stub),) = [(process, closed) for process, closed in ranges.items() if process != pid]
    number = only(of_stub, "execute").number
    assert number != 0

    assert [one.name for one in of_stub if one.name != "d2d"] == IN_STUB
    assert {one.number for one in of_stub} == {number}
    copy = only(of_stub, "d2d")
    assert copy.category == "copy"
    assert copy.inside in (("collect",), ("settle",))
    assert only(of_stub, "wait_device") == Event("wait_device", "sync", number, ("execute",))
    assert marks[stub] == [Event("host_wait:bare_capsule", "sync", number, ("execute", "wait_device"))]

    of_server = ranges[pid]
    assert only(of_server, "poll_done") == Event("poll_done", "sync", number)
    assert only(of_server, "d2d") == Event("d2d", "copy", 0), "the caller's memory, before it is any request's"
    assert only(of_server, "send").number == number
    # The caller's numpy(), which is no part of the request.
    assert only(of_server, "d2h") == Event("d2h", "copy", 0)
    assert only(of_server, "wait_device") == Event("wait_device", "sync", 0)
    assert marks[pid] == [Event("host_wait:host_array", "sync", 0, ("wait_device",))]


def test_a_trace_has_them_too_with_their_bytes(tmp_path: Path) -> None:
    pid = run(tmp_path, TENSORFERRY_TRACE=str(tmp_path / "trace"))
    events: list[dict[str, Any]] = merge(tmp_path / "trace")["traceEvents"]
    copied = {
        (event["name"], event["pid"] == pid): event["args"]["bytes"] for event in events if event["name"] in ("d2d", "d2h")
    }
    assert copied == {("d2d", True): 12000, ("d2d", False): 12000, ("d2h", True): 12000}
    waits = [(event["ph"], event["cat"], event["args"]["reason"]) for event in events if event["name"] == "host_wait"]
    assert sorted(waits) == [("i", "sync", "bare_capsule"), ("i", "sync", "host_array")]
    polled = [event for event in events if event["name"] == "poll_done"]
    assert [event["ph"] for event in polled] == ["b", "e"]
    assert_drawable(events)
    (flow,) = flows(events)
    assert [event["pid"] == pid for event in flow] == [True, True, False, False, False, True]
    assert {event["args"]["number"] for event in polled} == {flow[0]["id"]}
