"""A host that forks while its server serves: what its children may do, and how they may end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from site_of_models import IDENTITY, Site, alive

import tensorferry
from tensorferry import errors

pytestmark = pytest.mark.peers


def in_a_child(model: tensorferry.Model, array: Any) -> tuple[str, float]:
    try:
        model.infer({"IN": np.ones(4, np.float32)})
    except errors.Closed as error:
        return str(error), float(array.sum())
    return "served", 0.0


_SHARED: dict[str, Any] = {}


def _task(number: int) -> tuple[str, float]:
    return in_a_child(_SHARED["model"], _SHARED["array"])


def test_a_pool_of_forked_workers_beside_a_serving_server_touches_nothing(site: Site) -> None:
    site.add("m", IDENTITY)
    _SHARED["model"] = site.server.model("m")
    _SHARED["array"] = site.ask("m", 1, 1 << 16)
    pids = [site.pid("m"), site.pid("other")]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        _SHARED["array"][:] = 5  # the workers were forked before
        answers = pool.map(_task, range(12))
        assert np.all(site.ask("m", 3, 1 << 16) == 3)
    assert all("fork" in text and total == 1 << 16 for text, total in answers), answers
    for _ in range(20):
        assert np.all(site.ask("m", 3, 1 << 16) == 3)
    assert [site.pid("m"), site.pid("other")] == pids
    _SHARED.clear()
    site.assert_sound()


def test_a_forked_child_that_closes_its_server_ends_no_stub(site: Site) -> None:
    site.add("m", IDENTITY)
    site.ask("m")
    pid = site.pid("m")
    child = os.fork()
    if child == 0:
        site.close()  # void: the parent's stubs are none of ours
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.2)
    assert alive(pid)
    assert np.all(site.ask("m", 7) == 7)
    site.assert_sound()


PROLOGUE = """
import atexit, gc, os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from site_of_models import Site, until
from tensorferry import errors


def done(child):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return "hangs"


site = Site(Path(sys.argv[1]))
server, model = site.server, site.server.model("m")
"""


def run_host(site: Site, source: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, so that its children may end like a program does."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", PROLOGUE + source, site.folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


ONE_CHILD = """
gate = site.folder.parent / "gate"
gone = server.model("gone")
server.unload("gone")

answer = site.ask("m", 3, 1 << 16)
given = model.empty(1 << 16, np.float32)
given[:] = 4
future = model.infer_async({"IN": np.full(1 << 16, 5, np.float32)}, request_id="held")
there = server.model("other").infer_async({"IN": np.full(1 << 16, 7, np.float32)})
assert until(there.done)
waiting = threading.Thread(target=lambda: site.ask("m", 6, 1 << 16))
waiting.start()
pids = [site.pid("m"), site.pid("other")]
child = os.fork()
if child == 0:
    atexit.register(lambda: os.write(1, b"the child's handlers ran\\n"))
    HOW
print("child:", done(child), flush=True)
gate.touch()
assert np.all(np.asarray(future.result(30)["OUT"]) == 5)
waiting.join()
assert np.all(answer == 3)
assert np.all(np.asarray(model.infer({"IN": given}, timeout=30)["OUT"]) == 4)
for i in range(20):
    assert np.all(site.ask("m", i, 1 << 16) == i)
assert [site.pid("m"), site.pid("other")] == pids
assert site.restarts("m") == 0
assert np.all(np.asarray(there.result()["OUT"]) == 7)
del future, answer, given, there
site.assert_sound()
site.close()
print("the parent served on")
"""

HELD_AT_THE_GATE = """
class TritonPythonModel:
    def execute(self, requests):
        if requests[0].request_id() == "held":
            await_file({gate!r})
        return answers(requests)
"""

HELD = "future, there, answer, given"
RAN = "the child's handlers ran\n"
CHILDREN = [
    pytest.param("sys.exit(3)", RAN + "child: 3", id="exits"),
    pytest.param(f"del site, server, model, gone, {HELD}; gc.collect(); sys.exit(0)", RAN + "child: 0", id="drops"),
    pytest.param("server.close(); site.close(); sys.exit(0)", RAN + "child: 0", id="closes"),
    pytest.param("raise RuntimeError('in the child')", RAN + "child: 1", id="raises"),
    pytest.param("signal.raise_signal(signal.SIGTERM)", f"child: {-signal.SIGTERM}", id="is told to end"),
    pytest.param("answer[:] = 0; given[:] = 0; sys.exit(0)", RAN + "child: 0", id="writes"),
    pytest.param("future.cancel(); sys.exit(0)", RAN + "child: 0", id="cancels"),
    pytest.param(
        """
    for asked in (future, there):
        assert asked.done()
        try:
            asked.result()
        except errors.Closed as error:
            assert "fork" in str(error)
        else:
            sys.exit(5)
    sys.exit(0)
    """,
        RAN + "child: 0",
        id="asks for answers",
    ),
]


@pytest.mark.parametrize(("how", "said"), CHILDREN)
def test_a_forked_child_that_ends_in_any_way_touches_nothing(site: Site, how: str, said: str) -> None:
    site.add("m", HELD_AT_THE_GATE.format(gate=str(site.folder.parent / "gate")))
    site.add("gone", IDENTITY)
    host = run_host(site, ONE_CHILD.replace("HOW", how))
    assert host.stdout == said + "\nthe parent served on\n", host.stderr
    assert host.returncode == 0


CHILDREN_UNDER_TRAFFIC = """
over, unharmed = threading.Event(), []
held = [site.ask("m", 9, 1 << 16) for _ in range(4)]
pids = [site.pid("m"), site.pid("other")]


def call(value):
    mine = []
    while not over.is_set():
        x = model.empty((4, 1 << 14, 1 << 18)[len(mine) % 3], np.float32)
        x[:] = value
        mine.append(np.asarray(model.infer_async({"IN": x}).result(30)["OUT"]))
        assert np.all(mine[-1] == value)
        server.statistics()
        del mine[:-5]
    unharmed.append(value)


def refused(call, *arguments):
    try:
        call(*arguments)
    except errors.Closed as error:
        assert "fork" in str(error)
    else:
        raise AssertionError(call)


callers = [threading.Thread(target=call, args=(value,)) for value in range(3)]
for caller in callers:
    caller.start()
codes = []
for _ in range(12):
    child = os.fork()
    if child == 0:
        refused(model.infer, {"IN": np.ones(4, np.float32)})
        refused(model.empty, 1 << 16)
        refused(server.load, "m")
        refused(server.unload, "m")
        assert all(np.all(array == 9) for array in held)
        held[0][:] = 1
        del held, server, model, site
        gc.collect()
        sys.exit(4)
    codes.append(done(child))
over.set()
for caller in callers:
    caller.join()
assert all(np.all(array == 9) for array in held)
assert [site.pid("m"), site.pid("other")] == pids
held.clear()
site.assert_sound()
site.close()
print(codes, sorted(unharmed))
"""


def test_children_that_are_forked_while_threads_call_end_in_the_usual_way(site: Site) -> None:
    site.add("m", IDENTITY)
    host = run_host(site, CHILDREN_UNDER_TRAFFIC)
    assert host.stdout == f"{[4] * 12} [0, 1, 2]\n", host.stderr


# What a child may try: each raises Closed and says why.
CALLS_IN_A_CHILD: dict[str, Callable[[tensorferry.Server, tensorferry.Model, tensorferry.Future], Any]] = {
    "model": lambda server, model, future: server.model("m"),
    "models": lambda server, model, future: server.models,
    "load": lambda server, model, future: server.load("m"),
    "unload": lambda server, model, future: server.unload("m"),
    "ready": lambda server, model, future: server.ready(),
    "ready of a model": lambda server, model, future: server.ready("m"),
    "statistics": lambda server, model, future: server.statistics(),
    "metrics": lambda server, model, future: server.metrics(),
    "Model.ready": lambda server, model, future: model.ready(),
    "Model.empty": lambda server, model, future: model.empty(1 << 16),
    "Model.infer": lambda server, model, future: model.infer({"IN": np.ones(4, np.float32)}),
    "Model.infer_async": lambda server, model, future: model.infer_async({"IN": np.ones(4, np.float32)}),
    "Future.result": lambda server, model, future: future.result(),
    "await Future": lambda server, model, future: asyncio.run(wait_for(future)),
}


async def wait_for(future: tensorferry.Future) -> tensorferry.Response:
    return await future


def served_in_a_child(server: tensorferry.Server, model: tensorferry.Model, future: tensorferry.Future) -> list[str]:
    """The calls that didn't say that the Server is void."""
    wrong = []
    for name, call in CALLS_IN_A_CHILD.items():
        try:
            call(server, model, future)
        except errors.Closed as error:
            if "is a fork of the one that started the server" in str(error):
                continue
        wrong.append(name)
    return wrong


def fork_and_try(server: tensorferry.Server, model: tensorferry.Model, future: tensorferry.Future) -> str:
    """What a child has to say that makes all the calls, then closes and leaves in the usual way."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # what waits for a lock of the parent's would wait for ever
        wrong = served_in_a_child(server, model, future)
        if (model.name, model.version, future.done()) != ("m", 1, True):
            wrong.append("what a handle knows")
        future.cancel()
        with server:  # closes it, as close() does
            pass
        server.close()
        os.write(write, repr(wrong).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, said
    return said


def test_in_a_forked_child_every_call_says_that_the_server_is_void(site: Site) -> None:
    model = site.execute("m", "time.sleep(float(requests[0].inputs()[0].as_numpy()[0]))\nreturn answers(requests)")
    future = model.infer_async({"IN": np.full(4, 0.5, np.float32)})
    assert fork_and_try(site.server, model, future) == "[]"
    assert np.asarray(future.result()["OUT"])[0] == 0.5
    assert np.all(site.ask("m", 0) == 0)
    site.assert_sound()


def test_a_child_takes_no_lock_that_was_held_at_the_fork(site: Site) -> None:
    """Threads take the server's locks all the time, without the GIL, while others fork."""
    model = site.execute("m", "return answers(requests)")
    over = threading.Event()

    def work(one: Callable[[], Any]) -> None:
        while not over.is_set():
            one()

    busy = [lambda: site.ask("m"), site.server.statistics, site.server.metrics, lambda: site.server.load("other")]
    threads = [threading.Thread(target=work, args=(one,)) for one in busy]
    for thread in threads:
        thread.start()
    said = [fork_and_try(site.server, model, model.infer_async({"IN": np.ones(4, np.float32)})) for _ in range(10)]
    over.set()
    for thread in threads:
        thread.join()
    assert said == ["[]"] * 10
