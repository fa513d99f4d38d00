"""A long while of everything at once: traffic, deaths, loads and unloads. `./dev test --all` runs it;
TENSORFERRY_SOAK_SECONDS says for how long."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from site_of_models import IDENTITY, Site, kill, until

import tensorferry
from tensorferry import errors
from tensorferry.transport import Channel

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("TENSORFERRY_SOAK_SECONDS", "60"))
MODELS = ["steady", "dying", "coming_and_going"]
# What a caller may be told while stubs are killed and models unloaded; anything else is a bug.
EXPECTED = (errors.StubDied, errors.Timeout, errors.NotFound, errors.Closed)


class Traffic:
    """Callers of all models, until `stop`: every answer is what was sent, every error one that is expected."""

    def __init__(self, server: tensorferry.Server) -> None:
        self.server = server
        self.stop = threading.Event()
        self.seen: Counter[str] = Counter()
        self.wrong: list[BaseException] = []

    def forever(self, step: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self.stop.is_set():
                step(chance)
        except BaseException as error:
            self.wrong.append(error)
            self.stop.set()

    def call(self, chance: random.Random) -> None:
        name = chance.choice(MODELS)
        size = int(2 ** chance.uniform(0, 19))
        try:
            model = self.server.model(name)
            sent = np.full(size, chance.random(), np.float32)
            given = sent
            if chance.random() < 0.5:
                given = model.empty(sent.shape, np.float32)
                given[:] = sent
            answer = np.asarray(model.infer({"IN": given}, timeout=5)["OUT"])
        except EXPECTED as error:
            self.seen[f"{name}: {type(error).__name__}"] += 1
            time.sleep(0.001)
            return
        assert np.array_equal(answer, sent), name
        self.seen[name] += 1

    def murder(self, chance: random.Random) -> None:
        time.sleep(chance.uniform(0.2, 1))
        pid = self.server.statistics()["dying"]["instances"][0]["pid"]
        if pid and self.server.ready("dying"):
            kill(pid)
            self.seen["killed"] += 1

    def come_and_go(self, chance: random.Random) -> None:
        self.server.load("coming_and_going")
        time.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.7:  # else it is loaded anew while it serves
            self.server.unload("coming_and_going")
            self.seen["unloaded"] += 1


def open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_everything_at_once(site: Site) -> None:
    for name in MODELS:
        site.add(name, IDENTITY)
    server = site.start()
    traffic = Traffic(server)
    for _ in range(100):
        traffic.call(random.Random(7))
    before = open_files()
    steps = [traffic.call] * 4 + [traffic.murder, traffic.come_and_go]
    threads = [threading.Thread(target=traffic.forever, args=(step, seed)) for seed, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    traffic.stop.wait(SECONDS)
    traffic.stop.set()
    for thread in threads:
        thread.join(30)
    assert not traffic.wrong
    assert traffic.seen["steady"] > 100
    assert traffic.seen["killed"] > 0
    assert traffic.seen["unloaded"] > 0
    assert not any(name.startswith("steady: ") for name in traffic.seen), traffic.seen
    server.load("coming_and_going")
    for name in MODELS:
        assert until(lambda name=name: server.ready(name), 30), name  # type: ignore[misc]
        site.ask(name)
    site.assert_sound()
    # Arenas may have grown by some segments; every load and every death opens more than that in a minute.
    assert until(lambda: len(open_files()) <= len(before) + 40, 10), Counter(open_files()) - Counter(before)


def echo(end: Channel) -> None:
    while (tensors := end.recv(timeout=60)) is not None:
        end.send(tensors)


def test_two_processes_talk() -> None:
    here, there = Channel.pair()
    process = multiprocessing.get_context("spawn").Process(target=echo, args=(there,), daemon=True)
    process.start()
    there.close()
    chance = random.Random(1)
    rounds, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        sent = {f"T{i}": np.full(int(2 ** chance.uniform(0, 18)), chance.random()) for i in range(chance.randint(1, 4))}
        here.send(sent)
        answer = here.recv(timeout=60)
        assert answer is not None
        for name, array in sent.items():
            assert np.array_equal(answer[name], array)
        rounds += 1
    del answer
    assert rounds > 10
    assert here.bytes_in_use == 0
    here.close()
    process.join(30)
    assert process.exitcode == 0
