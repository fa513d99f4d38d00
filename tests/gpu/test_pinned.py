"""The server's shared memory is known to the driver once a GPU is in use: copies to and from it make no thread wait."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import COUNT, Caller, Driver, copies, pid_of, ramp, same, served, since, write_model
from site_of_models import until

import tensorferry
from tensorferry import _server

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

MIB = 1 << 20
KEPT = 64 * MIB  # by an arena that is idle
BYTES = 4 * COUNT
AS_NUMPY = 'return Response([Tensor("OUT", tensor.as_numpy() * 2)])'
WAITS = ("stream_syncs", "event_syncs", "context_syncs", "implicit_syncs", "stream_queries")


def counts(name: str, pid: int | None = None) -> dict[str, int]:
    return {
        next(iter(dict(one["labels"]).values())): one["value"]
        for one in _server.read_counters(pid or os.getpid())
        if one["name"] == name
    }


def statistics(model: Any, name: str = "m") -> dict[str, Any]:
    found: dict[str, Any] = model.server.statistics()[name]
    return found


def await_pinned(model: Any) -> None:
    """Until all of its host arena is."""
    assert until(lambda: statistics(model)["arena_pinned_bytes"] == statistics(model)["arena_bytes"] > 0, 30)


def warm(model: Any, caller: Caller) -> None:
    for _ in range(2):
        model.infer({"IN": caller.given(model, ramp())})
    await_pinned(model)


def no_waits_since(before: dict[str, int], driver: Driver) -> None:
    now = since(before, driver.counters())
    same({name: now.get(name, 0) for name in WAITS}, dict.fromkeys(WAITS, 0))
    assert now.get("copies_d2h_pageable", 0) == 0, now


def test_numpy_of_a_device_input_makes_nobody_in_the_server_wait(tmp_path: Path) -> None:
    caller, driver = Caller(), Driver()
    with served(tmp_path, AS_NUMPY, gpu=False) as model:
        warm(model, caller)
        before, waited = driver.counters(), counts("host_waits")
        for start in range(5):
            moved = copies()
            answer = model.infer({"IN": caller.given(model, ramp(start))})["OUT"]
            np.testing.assert_array_equal(np.asarray(answer), ramp(start) * 2)
            same(since(moved, copies()), {"d2h_calls": 1, "d2h_bytes": BYTES})
        no_waits_since(before, driver)
        same(counts("host_waits"), waited)
        same(driver.counters(pid_of(model))["contexts_created"], 0)


@pytest.mark.parametrize("count", [COUNT, 16])
def test_an_input_that_is_moved_to_the_cpu_is_sent_when_it_is_there(tmp_path: Path, count: int) -> None:
    caller, driver = Caller(), Driver()
    body = 'assert tensor.is_cpu()\nreturn Response([Tensor("OUT", tensor.as_numpy() + 1)])'
    with served(tmp_path, body, gpu=False, cpu_inputs=True) as model:
        warm(model, caller)
        before, waited = driver.counters(), counts("host_waits")
        futures = [model.infer_async({"IN": caller.given(model, ramp(start, count))}) for start in range(10)]
        for start, future in enumerate(futures):
            np.testing.assert_array_equal(np.asarray(future.result()["OUT"]), ramp(start, count) + 1)
        no_waits_since(before, driver)
        same(counts("host_waits"), waited)


def test_memory_that_comes_later_is_pinned_too_and_what_goes_is_not(tmp_path: Path) -> None:
    caller, driver = Caller(), Driver()
    write_model(tmp_path, AS_NUMPY, gpu=False)
    with tensorferry.Server(tmp_path, trim_after=0.2) as server:
        model = server.model("m")
        model.server = server
        warm(model, caller)
        before = driver.counters()
        held = [model.empty((MIB,), np.float32) for _ in range(36)]
        assert statistics(model)["arena_bytes"] > 2 * KEPT
        await_pinned(model)
        del held
        gc.collect()
        assert until(lambda: statistics(model)["arena_bytes"] <= KEPT, 30)
        await_pinned(model)
        now = since(before, driver.counters())
        assert now["host_registers"] > 0, now
        assert now["host_unregisters"] > 0, now


def test_a_model_without_device_tensors_is_left_alone(tmp_path: Path) -> None:
    caller = Caller()
    write_model(tmp_path, AS_NUMPY, gpu=False)
    write_model(tmp_path, AS_NUMPY, gpu=False, name="other")
    with tensorferry.Server(tmp_path) as server:
        model = server.model("m")
        model.server = server
        server.model("other").infer({"IN": ramp()})
        warm(model, caller)
        server.model("other").infer({"IN": ramp()})
        same(statistics(model, "other")["arena_pinned_bytes"], 0)


def test_it_is_unloaded_with_copies_under_way(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, AS_NUMPY, gpu=False, cpu_inputs=True) as model:
        warm(model, caller)
        futures = [model.infer_async({"IN": caller.given(model, ramp(start))}) for start in range(10)]
    for start, future in enumerate(futures):  # shutdown lets them end
        np.testing.assert_array_equal(np.asarray(future.result()["OUT"]), ramp(start) * 2)


def test_a_stub_that_dies_while_it_reads_takes_nothing_along(tmp_path: Path) -> None:
    caller = Caller()
    body = f"""
    if tensor.shape()[0] != {COUNT}:
        import threading
        threading.Timer(0.01, os.kill, (os.getpid(), 9)).start()
        while True:
            tensor.as_numpy()
    {AS_NUMPY}
    """
    with served(tmp_path, body, gpu=False) as model:
        warm(model, caller)
        with pytest.raises(tensorferry.errors.StubDied):
            model.infer({"IN": caller.given(model, ramp(0, COUNT + 1))})
        assert until(model.ready, 30)
        np.testing.assert_array_equal(np.asarray(model.infer({"IN": caller.given(model, ramp())})["OUT"]), ramp() * 2)
        gc.collect()
        model.infer({"IN": caller.given(model, ramp())})
        gpu = statistics(model)["gpus"]["cuda:0"]
        assert gpu["arena_bytes_in_use"] <= 2 * 4 * 4096, gpu


def test_a_request_that_is_cancelled_while_its_input_is_on_its_way_is_over(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, AS_NUMPY, gpu=False, cpu_inputs=True) as model:
        warm(model, caller)
        for start in range(5):
            future = model.infer_async({"IN": caller.given(model, ramp(start))})
            future.cancel()
        np.testing.assert_array_equal(np.asarray(model.infer({"IN": caller.given(model, ramp())})["OUT"]), ramp() * 2)
        assert until(lambda: statistics(model)["in_flight"] == 0, 30)


def test_a_fork_of_the_servers_process_keeps_its_arrays_and_the_parent_its_pins(tmp_path: Path) -> None:
    caller, driver = Caller(), Driver()
    with served(tmp_path, AS_NUMPY, gpu=False) as model:
        mine = model.empty((COUNT,), np.float32)
        mine[:] = ramp(3)
        warm(model, caller)
        child = os.fork()
        if child == 0:
            os._exit(0 if (mine == ramp(3)).all() else 1)
        same(os.waitpid(child, 0)[1], 0)
        before = driver.counters()
        np.testing.assert_array_equal(np.asarray(model.infer({"IN": caller.given(model, ramp(1))})["OUT"]), ramp(1) * 2)
        no_waits_since(before, driver)
