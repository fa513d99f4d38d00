"""A host that forks while its server serves: what its children may do, and how they may end."""

from __future__ import annotations

import multiprocessing
import os
import time
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
