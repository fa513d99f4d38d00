"""Where the driver refuses to know our shared memory, all goes as before: copies are waited for, and it is said once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import Caller, Driver, ramp, same, served
from site_of_models import until

from tensorferry import _server

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated(schedulers=("eager", "lazy"), variables={"FAKECUDA_FAIL": "cuMemHostRegister_v2:1+:801"})

AS_NUMPY = 'return Response([Tensor("OUT", tensor.as_numpy() * 2)])'


def refused() -> int:
    return sum(
        one["value"]
        for one in _server.read_counters(os.getpid())
        if one["name"] == "pinned_segments" and dict(one["labels"])["outcome"] == "refused"
    )


def serves_on(model: Any, caller: Caller) -> None:
    for start in range(3):
        answer = model.infer({"IN": caller.given(model, ramp(start))})["OUT"]
        np.testing.assert_array_equal(np.asarray(answer), ramp(start) * 2)


def await_refused(more_than: int) -> None:
    assert until(lambda: refused() > more_than, 30)


@pytest.mark.parametrize("cpu_inputs", [False, True])
def test_copies_are_waited_for_and_right(tmp_path: Path, cpu_inputs: bool) -> None:
    caller, driver = Caller(), Driver()
    with served(tmp_path, AS_NUMPY, gpu=False, cpu_inputs=cpu_inputs) as model:
        before = refused()
        serves_on(model, caller)
        await_refused(before)
        serves_on(model, caller)
        same(model.server.statistics()["m"]["arena_pinned_bytes"], 0)
    same(driver.counters()["host_registers"], 0)
