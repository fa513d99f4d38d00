"""Idle memory goes back to the system by itself, on both sides; who is in use or held never notices."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_of_models import Site, until

import tensorferry

KEPT = 64 << 20  # ArenaOptions::keep_idle_bytes
BIG = 24 << 20  # elements of float32: 96 MiB, more than what is kept

PLUS_ONE = """
class TritonPythonModel:
    def execute(self, requests):
        return answers(requests, lambda x: x + 1)
"""


def shared_memory(pid: int | str = "self") -> int:
    """Bytes of all memfds that a process has open: what the kernel has reserved for them."""
    total, seen = 0, set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(entry.path).startswith("/memfd:"):
                status = os.stat(entry.path)
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    total += status.st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def segments(site: Site, name: str) -> tuple[int, int]:
    """Of the model's arena in the server, and of its first stub's."""
    model = site.server.statistics()[name]
    return model["arena_bytes"], model["instances"][0]["arena_bytes"]


def ask_big(site: Site, value: float) -> Any:
    model = site.server.model("m")
    x = model.empty(BIG, np.float32)
    x[:] = value
    out = np.asarray(model.infer({"IN": x}, timeout=60)["OUT"])
    assert out[0] == out[-1] == value + 1
    return out


@pytest.fixture
def small_enough() -> None:
    statistics = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if statistics < 4 << 30:
        pytest.skip("needs some hundred MiB of memory")


@pytest.mark.usefixtures("small_enough")
def test_some_seconds_after_a_model_went_idle_its_memory_is_the_systems_again(site: Site) -> None:
    site.add("m", PLUS_ONE)
    site.start(trim_after=0.5)
    pid = site.pid("m")
    at_rest = shared_memory(), shared_memory(pid)
    ask_big(site, 1)
    assert min(segments(site, "m")) > KEPT
    assert shared_memory() - at_rest[0] > 2 * KEPT
    assert until(lambda: max(segments(site, "m")) <= KEPT, 20), segments(site, "m")
    # The server has both arenas mapped, the stub has its own and the model's.
    assert until(lambda: shared_memory() - at_rest[0] <= 2 * KEPT, 5)
    assert until(lambda: shared_memory(pid) - at_rest[1] <= 2 * KEPT, 5)
    peak = site.server.statistics()["m"]["arena_peak_bytes"]
    assert peak > KEPT
    ask_big(site, 2)  # and it serves on
    assert until(lambda: max(segments(site, "m")) <= KEPT, 20), segments(site, "m")
    assert site.pid("m") == pid
    site.assert_sound()


@pytest.mark.usefixtures("small_enough")
def test_an_answer_that_is_held_over_a_trim_stays_and_goes_back_later(site: Site) -> None:
    site.add("m", PLUS_ONE)
    site.start(trim_after=0.3)
    held = ask_big(site, 4)
    assert until(lambda: segments(site, "m")[0] <= KEPT, 20), "the input is idle"
    time.sleep(1)  # more than two rounds
    assert segments(site, "m")[1] > KEPT, "the answer lies there"
    assert np.all(held == 5)
    held += 1
    assert np.all(held == 6)
    del held  # nothing else happens to this model
    assert until(lambda: segments(site, "m")[1] <= KEPT, 20), segments(site, "m")
    site.assert_sound()


@pytest.mark.usefixtures("small_enough")
def test_what_a_model_keeps_of_its_inputs_stays_over_a_trim(site: Site) -> None:
    site.add(
        "m",
        """
        class TritonPythonModel:
            def execute(self, requests):
                x = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
                kept = getattr(self, "kept", None)
                self.kept = x
                seen = [0, 0] if kept is None else [kept.min(), kept.max()]
                del kept, x
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(seen, np.float32))])]
        """,
    )
    site.start(trim_after=0.3)
    model = site.server.model("m")
    for round_number in range(3):
        x = model.empty(BIG, np.float32)
        x[:] = round_number + 1
        seen = list(np.asarray(model.infer({"IN": x})["OUT"]))
        assert seen == [round_number, round_number]
        del x
        time.sleep(1)
    assert segments(site, "m")[0] > KEPT, "the stub holds it"


@pytest.mark.usefixtures("small_enough")
def test_memory_that_is_taken_and_given_up_without_a_request_goes_back_too(site: Site) -> None:
    site.add("m", PLUS_ONE)
    site.start(trim_after=0.3)
    x = site.server.model("m").empty(BIG, np.float32)
    time.sleep(1)
    assert segments(site, "m")[0] > KEPT
    del x
    assert until(lambda: segments(site, "m")[0] <= KEPT, 20)


@pytest.mark.usefixtures("small_enough")
def test_a_model_in_use_is_not_trimmed(site: Site) -> None:
    """Its requests come faster than its patience ends, so that no page is ever asked for anew."""
    site.add("m", PLUS_ONE)
    site.start(trim_after=2.0)
    ask_big(site, 0)
    sizes = segments(site, "m")
    inodes = memfds()
    for i in range(8):
        time.sleep(0.7)
        ask_big(site, i)
        assert segments(site, "m") == sizes
    assert memfds() == inodes


def memfds() -> set[int]:
    return {
        entry.stat().st_ino
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and os.readlink(entry).startswith("/memfd:")
    }


def test_trimming_can_be_turned_off(site: Site) -> None:
    site.add("m", PLUS_ONE)
    server = site.start(trim_after=0)
    assert isinstance(server, tensorferry.Server)
    site.ask("m", 1, 1 << 16)
    site.assert_sound()
