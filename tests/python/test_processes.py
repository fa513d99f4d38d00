"""Processes around a stub: what a model starts, what its server's end does to it, what a host may lack."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from site_of_models import CONFIG, IDENTITY, Site, alive, group_members, kill, until

import tensorferry

pytestmark = pytest.mark.peers

# ---------------------------------------------------------------- what a model starts

POOL = """
import multiprocessing

def work(x):
    return float(x) + 1

class TritonPythonModel:
    def initialize(self, args):
        with open({journal!r}, "a") as file:
            file.write("initialized ")

    def execute(self, requests):
        def through_the_pool(x):
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                return np.array(pool.map(work, list(x)), np.float32)
        return answers(requests, through_the_pool)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_model_may_use_multiprocessing_and_nothing_runs_twice(site: Site, method: str) -> None:
    journal = site.folder.parent / "journal"
    site.add("m", POOL.format(journal=str(journal), method=method))
    assert list(site.ask("m", 4)) == [5, 5, 5, 5]
    assert list(site.ask("m", 5)) == [6, 6, 6, 6]
    assert journal.read_text() == "initialized "
    site.assert_sound()


def test_processes_that_a_model_starts_have_the_usual_signal_handlers(site: Site) -> None:
    body = """
    import multiprocessing, subprocess
    codes = []
    for method in ("fork", "spawn", "forkserver"):
        child = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.5)
        child.terminate()
        child.join()
        codes.append(child.exitcode)
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    codes.append(program.wait())
    return answers(requests, lambda x: np.array(codes, np.float32))
    """
    site.execute("m", body)
    assert list(site.ask("m")) == [-signal.SIGTERM] * 4
    site.assert_sound()


FORKED = """
    import json
    x = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
    kept = x * 2
    down, up = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(down[0], 1)  # the parent has overwritten its own
        seen = [float(x.min()), float(kept.max())]
        x[:], kept[:] = -3, -4
        mine = x + 1  # from malloc here
        os.write(up[1], json.dumps(seen + [float(mine.max())]).encode())
        os._exit(0)
    x[:], kept[:] = -1, -2
    os.write(down[1], b"g")
    seen = json.loads(os.read(up[0], 1000))
    os.waitpid(child, 0)
    for end in down + up:
        os.close(end)
    seen += [float(x.min()), float(x.max()), float(kept.min()), float(kept.max())]
    del x, kept
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(seen, np.float32))])]
"""


def test_a_child_that_is_terminated_as_soon_as_it_is_there_ends(site: Site) -> None:
    """What ends its workers so: multiprocessing.Pool."""
    body = """
    import multiprocessing
    codes = []
    for _ in range(50):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(5)
        codes.append(child.exitcode or 0)
        if child.exitcode is None:
            child.kill()
            break
    return answers(requests, lambda x: np.array(codes, np.float32))
    """
    site.execute("m", body)
    assert set(site.ask("m")) == {-signal.SIGTERM}


def test_after_a_fork_parent_and_child_have_their_own_arrays(site: Site) -> None:
    site.execute("m", FORKED)
    for _ in range(3):
        assert list(site.ask("m", 5, 1 << 16)) == [5, 10, -2, -1, -1, -2, -2]
    site.assert_sound()


def test_a_program_that_a_model_starts_inherits_no_descriptor_of_ours(site: Site) -> None:
    body = """
    import subprocess
    code = "import os; print(len([f for f in os.listdir('/proc/self/fd') if int(f) > 2]))"
    count = int(subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, check=True).stdout)
    return answers(requests, lambda x: np.array([count], np.float32))
    """
    site.execute("m", body)
    assert list(site.ask("m")) == [1]  # the folder that it lists


def test_a_model_may_use_threads_and_asyncio(site: Site) -> None:
    site.add(
        "m",
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        class TritonPythonModel:
            async def execute(self, requests):
                with ThreadPoolExecutor(4) as pool:
                    await asyncio.gather(*[asyncio.to_thread(np.sum, np.ones(1 << 16)) for _ in range(8)])
                    return list(pool.map(lambda r: answers([r], lambda x: x + 1)[0], requests))
        """,
    )
    for i in range(5):
        assert np.all(site.ask("m", i, 1 << 14) == i + 1)
    site.assert_sound()


# ---------------------------------------------------------------- the server's end

HOST = """
import json, os, sys, time
import numpy as np
import tensorferry

server = tensorferry.Server(sys.argv[1])
pids = [i["pid"] for m in server.statistics().values() for i in m["instances"]]
x = {"IN": np.ones(4, np.float32)}
for name in server.models:
    server.model(name).infer(x)
print(json.dumps(pids), flush=True)
try:
    BODY
except KeyboardInterrupt:
    print("interrupted", flush=True)
server.close()
print("closed", flush=True)
"""

IDLE = "time.sleep(60)"
BUSY = "print(float(np.asarray(server.model('m').infer({'IN': np.full(4, 2, np.float32)})['OUT'])[0]), flush=True)"


class Host:
    """A server in a process of its own."""

    def __init__(self, folder: Path, body: str) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST.replace("BODY", body), folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        line = self.line()
        assert line, self.process.communicate()
        self.pids: list[int] = json.loads(line)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def host(folder: Path, body: str) -> Iterator[Host]:
    running = Host(folder, body)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@contextmanager
def adopts_orphans() -> Iterator[None]:
    """As PID 1 of a container does: processes whose parent died become this one's children, zombies until it reaps them."""
    set_child_subreaper, libc = 36, ctypes.CDLL(None)
    libc.prctl(set_child_subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


STARTS_PROCESSES = """
import multiprocessing, subprocess

class TritonPythonModel:
    def initialize(self, args):
        if os.path.exists({started!r}):
            there = [pid for pid in open({started!r}).read().split() if os.path.exists("/proc/" + pid)]
            note({left!r}, repr(there))

    def execute(self, requests):
        self.pool = multiprocessing.get_context("fork").Pool(2)
        self.sleeper = subprocess.Popen(["sleep", "1000"])
        for process in (*multiprocessing.active_children(), self.sleeper):
            note({started!r}, str(process.pid))
        return answers(requests)
"""


@pytest.mark.faults
def test_what_a_stub_started_dies_with_it_and_a_restart_waits_until_it_is_reaped(site: Site) -> None:
    started, left = site.folder.parent / "started", site.folder.parent / "left"
    site.add("m", STARTS_PROCESSES.format(started=str(started), left=str(left)))
    with adopts_orphans():
        site.ask("m")
        first = site.pid("m")
        children = [int(pid) for pid in started.read_text().split()]
        assert len(children) == 3
        assert sorted([first, *children]) == sorted(group_members(first))
        kill(first)
        assert until(left.exists)
        assert left.read_text() == "[]\n"
        site.ask("m")
        site.server.unload("m")
        children = started.read_text().split()
        assert len(children) == 6
        assert not any(os.path.exists(f"/proc/{pid}") for pid in children)
    site.assert_sound()


@pytest.mark.faults
def test_a_second_after_the_server_is_killed_nothing_is_left(site: Site) -> None:
    children = """
    import multiprocessing, subprocess
    if not hasattr(self, "pool"):
        self.pool = multiprocessing.get_context("fork").Pool(2)
        self.sleeper = subprocess.Popen(["sleep", "1000"])
    return answers(requests)
    """
    method = "class TritonPythonModel:\n    def execute(self, requests):\n"
    site.add("m", method + children.replace("\n    ", "\n        "))
    site.add("busy", "class TritonPythonModel:\n    def execute(self, requests):\n        return answers(requests)\n")
    before = set(os.listdir("/dev/shm"))
    with host(site.folder, IDLE) as running:
        members = [pid for group in running.pids for pid in group_members(group)]
        assert len(members) == 3 + 3
        running.process.kill()
        assert until(lambda: not any(alive(pid) for pid in members), 1), [p for p in members if alive(p)]
    assert set(os.listdir("/dev/shm")) == before


LOADS = "import sys, tensorferry; tensorferry.Server(sys.argv[1], models=['m'])"


@pytest.mark.faults
def test_a_stub_that_still_loads_dies_with_its_server_and_takes_what_it_started_along(site: Site) -> None:
    started = site.folder.parent / "started"
    site.add(
        "m",
        f"""
        import subprocess

        class TritonPythonModel:
            def initialize(self, args):
                subprocess.Popen(["sleep", "1000"])
                note({str(started)!r}, str(os.getpid()))
                time.sleep(1000)
        """,
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    server = subprocess.Popen([sys.executable, "-c", LOADS, site.folder], env=environment, start_new_session=True)
    try:
        assert until(lambda: started.exists() and started.read_text().endswith("\n"))
        members = group_members(int(started.read_text()))
        assert len(members) == 2
    finally:
        server.kill()
        server.wait()
    assert until(lambda: not any(alive(pid) for pid in members), 1)


@pytest.mark.faults
@pytest.mark.parametrize("state", ["computing", "stopped", "deaf"])
def test_a_stub_that_listens_to_nobody_dies_with_its_server(site: Site, state: str) -> None:
    body = {
        "computing": "sum(range(1 << 62))",
        "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
        "deaf": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); sum(range(1 << 62))",
    }[state]
    site.add(
        "m",
        "class TritonPythonModel:\n    def execute(self, requests):\n"
        f"        if requests[0].request_id() == 'go': {body}\n"
        "        return answers(requests)\n",
    )
    go = "server.model('m').infer_async({'IN': np.ones(4, np.float32)}, request_id='go'); " + IDLE
    with host(site.folder, go) as running:
        time.sleep(0.3)
        running.process.kill()
        assert until(lambda: not any(alive(pid) for pid in running.pids), 1)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_stubs_group_waits_for_the_server(site: Site, number: int) -> None:
    site.add(
        "m",
        "class TritonPythonModel:\n    def execute(self, requests):\n        time.sleep(0.4)\n"
        "        return answers(requests)\n",
    )
    with host(site.folder, BUSY) as running:
        for pid in running.pids:
            os.killpg(pid, number)
        assert running.line() == "2.0"
        assert running.line() == "closed"


@pytest.mark.faults
def test_ctrl_c_interrupts_the_caller_and_the_server_closes_in_order(site: Site) -> None:
    site.add(
        "m",
        "class TritonPythonModel:\n    def execute(self, requests):\n"
        "        time.sleep(2 if requests[0].request_id() else 0)\n        return answers(requests)\n"
        "    def finalize(self):\n        print('finalized in order')\n",
    )
    body = BUSY.replace("})['OUT']", "}, request_id='slow')['OUT']")
    with host(site.folder, body) as running:
        time.sleep(0.3)
        os.killpg(running.process.pid, signal.SIGINT)  # what a terminal does
        assert running.line() == "interrupted"
        assert running.line() == "closed"
        _, log = running.process.communicate(timeout=20)
        assert "finalized in order" in log
        assert not any(alive(pid) for pid in running.pids)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def switches(pid: int) -> int:
    """How often all threads of a process have gone to sleep: who polls is seen here before it costs a clock tick."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def test_an_idle_server_and_its_stubs_use_no_cpu(site: Site) -> None:
    site.add("m", IDENTITY)
    with host(site.folder, IDLE) as running:
        pids = [running.process.pid, *running.pids]
        time.sleep(0.5)
        cpu, asleep = sum(map(cpu_ticks, pids)), sum(map(switches, pids))
        time.sleep(3)
        assert sum(map(cpu_ticks, pids)) - cpu <= 2  # of 300, where a tick is 10 ms
        # Each stub's thread at the control socket looks at its parent twice a second.
        assert sum(map(switches, pids)) - asleep <= 30


# ---------------------------------------------------------------- what the host may lack


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    # Below the highest there may be gaps: they are filled.
    filled = []
    while True:
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        filled.append(fd)
        if fd > highest:
            break
    resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filled:
            os.close(fd)


@pytest.mark.faults
@pytest.mark.parametrize("left", range(12))
def test_out_of_descriptors_is_an_error_and_what_serves_goes_on(site: Site, left: int) -> None:
    site.add("m", IDENTITY)
    server = site.start(models=["other"])
    x = server.model("other").empty(1 << 16, np.float32)
    x[:] = 3
    with descriptors_left(left):
        refused = ""
        try:
            server.load("m")
        except tensorferry.Error as error:
            refused = str(error)
        assert np.all(np.asarray(server.model("other").infer({"IN": x}, timeout=20)["OUT"]) == 3)
    del x
    assert "Too many open files" in refused or "m" in server.models, refused
    if "m" not in server.models:
        server.load("m")
    assert np.all(site.ask("m", 4) == 4)
    site.assert_sound()


NEEDS_A_NAMESPACE = """
import os, sys
import numpy as np
import tensorferry
statistics = os.statvfs("/dev/shm")
assert statistics.f_blocks * statistics.f_frsize == 1 << 20
with tensorferry.Server(sys.argv[1]) as server:
    model = server.model("other")
    out = model.infer({"IN": np.full(16 << 20, 3, np.float32)})["OUT"]
    assert np.all(np.asarray(out) == 3)
    assert os.listdir("/dev/shm") == [], os.listdir("/dev/shm")
print("fine")
"""


def test_the_size_of_dev_shm_does_not_matter(site: Site) -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1" "$2"'
    command = [unshare, "-m", "sh", "-c", script, sys.executable, NEEDS_A_NAMESPACE, str(site.folder)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer.stdout == "fine\n", answer.stderr


def test_the_server_reaps_its_children_and_keeps_no_descriptor(site: Site) -> None:
    site.add("m", IDENTITY, CONFIG)
    site.ask("m")
    site.server.unload("m")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        site.server.load("m")
        site.ask("m", 1, 1 << 16)
        site.server.unload("m")
    assert len(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert all(alive(int(pid)) for pid in children)
