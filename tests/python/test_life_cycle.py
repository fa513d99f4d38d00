"""Models come, go and are replaced while others serve: loading, draining, readiness, and what runs at the end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_of_models import CONFIG, IDENTITY, Site, alive, kill, until

import tensorferry
from tensorferry import errors


@pytest.fixture
def folder(site: Site) -> Path:
    """For the files by which a test and its models wait for each other."""
    return site.folder.parent


@contextmanager
def traffic(site: Site, name: str, threads: int = 3) -> Iterator[Callable[[], int]]:
    """Threads that call a model all along, whose errors fail the test; gives how many answers have come."""
    model = site.server.model(name)
    over = threading.Event()
    answered = [0] * threads
    failures: list[BaseException] = []

    def call(number: int) -> None:
        sizes = (4, 1 << 14)
        try:
            while not over.is_set():
                x = np.full(sizes[answered[number] % 2], answered[number], np.float32)
                assert np.array_equal(np.asarray(model.infer({"IN": x}, timeout=60)["OUT"]), x)
                answered[number] += 1
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
    for caller in callers:
        caller.start()
    try:
        yield lambda: sum(answered)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert failures == []
    assert all(answered)


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# ---------------------------------------------------------------- beside each other


def test_models_are_loaded_and_unloaded_while_another_serves(site: Site) -> None:
    site.add("guest", IDENTITY)
    server = site.start(models=["other"])
    with traffic(site, "other") as answers:
        for i in range(3):
            before = answers()
            server.load("guest")
            assert np.all(site.ask("guest", i) == i)
            server.unload("guest")
            assert answers() > before
    site.assert_sound()


def test_a_model_that_is_loaded_anew_has_no_gap(site: Site) -> None:
    site.add("m", IDENTITY)
    pids = {site.pid("m")}
    with traffic(site, "m") as answers:
        for _ in range(3):
            before = answers()
            site.server.load("m")
            pids.add(site.pid("m"))
            assert until(lambda before=before: answers() > before)
    assert len(pids) == 4
    site.assert_sound()


MEETS = """
class TritonPythonModel:
    def initialize(self, args):
        mine = args["model_instance_name"]
        note(os.path.join({folder!r}, mine), "here")
        for one in {all!r}:
            await_file(os.path.join({folder!r}, one))

    def execute(self, requests):
        return answers(requests)
"""


def add_two_that_meet(site: Site) -> None:
    source = MEETS.format(folder=str(site.folder.parent), all=["a_0_0", "b_0_0"])
    site.add("a", source)
    site.add("b", source)


def test_a_server_loads_its_models_side_by_side(site: Site) -> None:
    add_two_that_meet(site)
    assert site.server.ready()
    site.assert_sound()


def test_threads_load_models_side_by_side(site: Site) -> None:
    add_two_that_meet(site)
    server = site.start(models=["other"])
    loaders = [in_thread(lambda name=name: server.load(name)) for name in ("a", "b")]
    for loader in loaders:
        loader.join()
    assert sorted(server.models) == ["a", "b", "other"]
    site.assert_sound()


def test_instances_of_a_model_start_side_by_side(site: Site) -> None:
    source = MEETS.format(folder=str(site.folder.parent), all=["m_0_0", "m_0_1", "m_0_2"])
    site.add("m", source, CONFIG + "instance_group [ { count: 3 } ]\n")
    assert len(site.server.statistics()["m"]["instances"]) == 3
    site.assert_sound()


def test_a_model_outlives_the_thread_that_loaded_it(site: Site) -> None:
    """A stub dies with the thread that spawned it (PR_SET_PDEATHSIG), which must not be the caller's."""
    site.add("m", IDENTITY)
    server = site.start(models=["other"])
    loader = in_thread(lambda: server.load("m"))
    loader.join()
    assert until(lambda: not os.path.exists(f"/proc/self/task/{loader.native_id}"))
    pid = site.pid("m")
    for i in range(3):
        assert np.all(site.ask("m", i) == i)
    assert (site.pid("m"), site.restarts("m")) == (pid, 0)
    site.assert_sound()


# ---------------------------------------------------------------- the end

GATED = """
class TritonPythonModel:
    def execute(self, requests):
        if requests[0].request_id() == "held":
            note({entered!r}, "in execute")
            await_file({gate!r})
        return answers(requests, lambda x: x + 1)

    def finalize(self):
        note({finalized!r}, "in order")
"""


class Gated:
    """The model `m`, whose request "held" stays in `execute` until `gate` is there."""

    def __init__(self, site: Site, **options: Any) -> None:
        folder = site.folder.parent
        self.entered, self.gate, self.finalized = folder / "entered", folder / "gate", folder / "finalized"
        names = {name: str(getattr(self, name)) for name in ("entered", "gate", "finalized")}
        site.add("m", GATED.format(**names))
        self.model = site.start(**options).model("m")
        self.futures: list[tensorferry.Future] = []

    def hold(self) -> None:
        """One request is in `execute` afterwards, and two wait for it."""
        for request_id in ("held", "second", "third"):
            self.futures.append(self.model.infer_async({"IN": np.full(1 << 14, 4, np.float32)}, request_id=request_id))
        assert until(self.entered.exists)


ENDS: dict[str, Callable[[Site], None]] = {
    "close": lambda site: site.server.close(),
    "unload": lambda site: site.server.unload("m"),
    "load anew": lambda site: site.server.load("m"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_model_waits_for_the_requests_inside(site: Site, how: str) -> None:
    gated = Gated(site)
    gated.hold()
    pid = site.pid("m")
    end = in_thread(lambda: ENDS[how](site))
    if how == "load anew":
        assert until(lambda: site.pid("m") not in (0, pid))
        assert np.all(site.ask("m", 7) == 8)  # by its successor, while the old one drains
    else:
        assert until(lambda: not gated.model.ready())
        with pytest.raises(errors.Closed):
            gated.model.infer({"IN": np.ones(4, np.float32)})
    assert end.is_alive()
    assert alive(pid)
    assert not any(future.done() for future in gated.futures)
    gated.gate.touch()
    for future in gated.futures:
        assert np.all(np.asarray(future.result(30)["OUT"]) == 5)
    end.join()
    assert gated.finalized.read_text() == "in order\n"
    assert not alive(pid)


@pytest.mark.parametrize("how", ENDS)
def test_after_drain_timeout_what_is_inside_fails_and_says_so(site: Site, how: str) -> None:
    gated = Gated(site, drain_timeout=0.2)
    gated.hold()
    pid = site.pid("m")
    end = in_thread(lambda: ENDS[how](site))
    for future in gated.futures:
        with pytest.raises(errors.Closed, match=r"waiting or running when drain_timeout \(200 ms\) had passed") as caught:
            future.result(30)
        assert caught.value.model == "m"
    gated.gate.touch()
    end.join()
    assert gated.finalized.read_text() == "in order\n"
    assert not alive(pid)


@pytest.mark.parametrize("how", ["unload", "load anew"])
def test_answers_stay_as_they_are_when_their_model_goes(site: Site, how: str) -> None:
    site.add("m", "class TritonPythonModel:\n    def execute(self, requests):\n"
                  "        return answers(requests, lambda x: x + 1)\n")  # fmt: skip
    sizes = (4, 1 << 10, 1 << 16)
    held = [site.ask("m", i, sizes[i % 3]) for i in range(12)]
    ENDS[how](site)
    if how == "unload":
        site.server.load("m")
    site.server.load("m")
    for i in range(30):  # would lie where the answers do if those had been given back
        site.ask("m", 100 + i, sizes[i % 3])
    assert [float(a.min()) for a in held] == [float(a.max()) for a in held] == [i + 1.0 for i in range(12)]
    for array in held:
        array[:] = -1
        assert np.all(array == -1)
    held.clear()
    del array
    site.assert_sound()


def test_finalizers_and_exit_handlers_run_when_a_model_is_unloaded(site: Site, folder: Path) -> None:
    journal = folder / "journal"
    site.add(
        "m",
        f"""
        import atexit, weakref

        class Holder:
            pass

        class TritonPythonModel:
            def initialize(self, args):
                self.holder = Holder()
                self.stays = Holder()
                sys.stays = self.stays
                weakref.finalize(self.holder, note, {str(journal)!r}, "its part is gone")
                weakref.finalize(self.stays, note, {str(journal)!r}, "the interpreter ends")
                atexit.register(note, {str(journal)!r}, "atexit")

            def execute(self, requests):
                return answers(requests)

            def finalize(self):
                note({str(journal)!r}, "finalize")

            def __del__(self):
                note({str(journal)!r}, "__del__")
        """,
    )
    site.ask("m")
    site.server.unload("m")
    said = journal.read_text().splitlines()
    assert said[:3] == ["finalize", "__del__", "its part is gone"]
    assert sorted(said[3:]) == ["atexit", "the interpreter ends"]
    site.assert_sound()


# ---------------------------------------------------------------- readiness

RESTARTS_AT_THE_GATE = """
class TritonPythonModel:
    def initialize(self, args):
        born = os.path.join({folder!r}, "born_" + args["model_instance_name"])
        if os.path.exists(born):
            await_file({gate!r})
        note(born, "once")

    def execute(self, requests):
        return answers(requests)
"""


def instances(site: Site, name: str) -> list[dict[str, Any]]:
    return list(site.server.statistics()[name]["instances"])


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_is_ready_while_one_of_its_instances_lives(site: Site, folder: Path, count: int) -> None:
    gate = folder / "gate"
    source = RESTARTS_AT_THE_GATE.format(folder=str(folder), gate=str(gate))
    site.add("m", source, CONFIG + f"instance_group [ {{ count: {count} }} ]\n")
    model = site.server.model("m")
    server = site.server

    def is_ready() -> list[bool]:
        return [model.ready(), server.ready("m"), server.ready(), server.statistics()["m"]["ready"]]

    assert is_ready() == [True] * 4
    for dead in range(1, count + 1):
        kill(instances(site, "m")[dead - 1]["pid"])
        assert until(lambda dead=dead: sum(i["state"] == "starting" for i in instances(site, "m")) == dead)
        assert is_ready() == [dead < count] * 4
        if dead < count:
            assert np.all(site.ask("m", 3) == 3)
    assert server.ready("other")
    gate.touch()
    assert until(lambda: all(i["state"] == "ready" for i in instances(site, "m")))
    assert is_ready() == [True] * 4
    assert np.all(site.ask("m", 4) == 4)
    site.assert_sound()


@pytest.mark.parametrize("how", ["close", "unload"])
def test_a_model_that_drains_is_not_ready(site: Site, how: str) -> None:
    gated = Gated(site)
    gated.hold()
    assert gated.model.ready()
    end = in_thread(lambda: ENDS[how](site))
    assert until(lambda: not gated.model.ready())
    assert until(lambda: not site.server.ready("m"))
    assert not gated.futures[0].done()
    assert site.server.ready() == (how == "unload")  # what is unloaded is no longer one of the server's
    gated.gate.touch()
    end.join()
    assert not gated.model.ready()
    assert not site.server.ready("m")
    assert site.server.ready() == (how == "unload")


# ---------------------------------------------------------------- instance groups

TELLS = """
import json

class TritonPythonModel:
    def initialize(self, args):
        note({journal!r}, json.dumps(args))

    def execute(self, requests):
        return answers(requests)
"""

GROUPS = [
    pytest.param("", [("m_0_0", "CPU", "0")], id="none"),
    pytest.param("[ { kind: KIND_CPU, count: 2 } ]", [("m_0_0", "CPU", "0"), ("m_0_1", "CPU", "0")], id="CPU"),
    pytest.param("[ { kind: KIND_GPU, gpus: [ 0, 1 ] } ]", [("m_0_0", "GPU", "0"), ("m_0_1", "GPU", "1")], id="GPU"),
    pytest.param(
        '[ { name: "fast", kind: KIND_GPU, count: 2, gpus: [ 1, 3 ] }, { kind: KIND_MODEL } ]',
        [
            ("fast_0", "GPU", "1"),
            ("fast_1", "GPU", "1"),
            ("fast_2", "GPU", "3"),
            ("fast_3", "GPU", "3"),
            ("m_1_0", "MODEL", "0"),
        ],
        id="two groups",
    ),
]


@pytest.mark.parametrize(("groups", "expected"), GROUPS)
def test_initialize_is_told_each_instances_name_kind_and_device(
    site: Site, folder: Path, groups: str, expected: list[tuple[str, str, str]]
) -> None:
    """A kind only labels an instance: to use the device is the model's business, also where there is none."""
    journal = folder / "journal"
    site.add("m", TELLS.format(journal=str(journal)), CONFIG + (f"instance_group {groups}\n" if groups else ""))
    assert [i["name"] for i in instances(site, "m")] == [name for name, _, _ in expected]
    told = [json.loads(line) for line in journal.read_text().splitlines()]
    keys = ["model_instance_name", "model_instance_kind", "model_instance_device_id"]
    assert sorted(tuple(args[key] for key in keys) for args in told) == sorted(expected)
    for args in told:
        assert len(args) == 7
        assert all(isinstance(value, str) for value in args.values())
        assert args["model_name"] == "m"
        assert args["model_version"] == "1"
        assert args["model_repository"] == str(site.folder / "m")
    site.assert_sound()
