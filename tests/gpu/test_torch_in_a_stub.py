"""PyPI's real PyTorch in the stub, on the emulated driver: its exchange API names the stream that made an output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import COUNT, Driver, pid_of, ramp, same, served, since

from tensorferry import _server

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")
pytestmark = pytest.mark.emulated


def host_waits(pid: int) -> dict[str, int]:
    """But for those when the device was opened."""
    waits = {
        dict(one["labels"])["reason"]: one["value"]
        for one in _server.read_counters(pid)
        if one["name"] == "host_waits" and one["value"]
    }
    waits.pop("probe", None)
    return waits


def check(folder: Path, body: str, expected: Callable[[Any], Any], waits: dict[str, int] | None = None) -> None:
    """Three requests by a caller that works with torch too."""
    with served(folder, "import torch\n" + body, gpu=False) as model:
        for start in range(3):
            given = model.empty((COUNT,), np.float32, device="cuda:0")
            there = torch.from_dlpack(given)
            there.copy_(torch.from_numpy(ramp(start)).pin_memory(), non_blocking=True)
            del there
            answer = model.infer({"IN": given})["OUT"]
            np.testing.assert_array_equal(answer.numpy(), expected(ramp(start)))
        same(host_waits(pid_of(model)), waits or {})


def cleared(values: Any, begin: int, end: int) -> Any:
    values[begin:end] = 0
    return values


def test_a_new_tensor_is_copied_on_the_stream_that_made_it(tmp_path: Path) -> None:
    check(tmp_path, 'return Response([Tensor.from_dlpack("OUT", torch.from_dlpack(tensor).clone())])', lambda x: x)


def test_a_side_stream_is_the_one_that_is_current_when_the_output_is_made(tmp_path: Path) -> None:
    body = """
if not self.kept:
    self.kept.append(torch.cuda.Stream())
with torch.cuda.stream(self.kept[0]):
    copy = torch.from_dlpack(tensor).clone()
    copy[:5].zero_()
    return Response([Tensor.from_dlpack("OUT", copy)])
"""
    check(tmp_path, body, lambda x: cleared(x, 0, 5))


def test_an_edited_input_goes_back_as_it_is(tmp_path: Path) -> None:
    body = """
edited = torch.from_dlpack(tensor)
edited[10:20].zero_()
return Response([Tensor.from_dlpack("OUT", edited)])
"""
    check(tmp_path, body, lambda x: cleared(x, 10, 20))


def test_bare_capsules_wait_on_the_thread(tmp_path: Path) -> None:
    body = """
from torch.utils.dlpack import from_dlpack, to_dlpack
return Response([Tensor.from_dlpack("OUT", to_dlpack(from_dlpack(tensor.to_dlpack()).clone()))])
"""
    check(tmp_path, body, lambda x: x, {"bare_capsule": 3})


def test_a_slice_is_packed_by_its_one_copy(tmp_path: Path) -> None:
    body = """
rows = torch.from_dlpack(tensor).clone().reshape(100, 30)
return Response([Tensor.from_dlpack("OUT", rows[:, 5:25])])
"""
    check(tmp_path, body, lambda x: x.reshape(100, 30)[:, 5:25])


def test_memory_of_empty_is_torchs_and_crosses_as_it_is(tmp_path: Path) -> None:
    body = """
out = torch.from_dlpack(pb_utils.empty(tensor.shape(), "float32", device="cuda:0"))
out.copy_(torch.from_dlpack(tensor))
return Response([Tensor.from_dlpack("OUT", out)])
"""
    check(tmp_path, body, lambda x: x)


PINNED = """
if not self.kept and tensor.as_numpy()[0] > 0:
    self.kept.append(torch.zeros(1, device="cuda"))
host = [torch.from_dlpack(tensor), torch.from_numpy(np.zeros(5000, np.float32))]
return Response([Tensor("OUT", np.array([one.is_pinned() for one in host], np.float32))])
"""


def pinned_in_turn(folder: Path, more: str) -> list[list[float]]:
    """What is_pinned() says of an input and of an array made in execute(): before the model has a context, and after."""
    with served(folder, "import torch\n" + PINNED, gpu=False, cpu_inputs=True, more=more) as model:
        inputs = [np.full(COUNT, first, np.float32) for first in (0, 0, 1, 1)]
        said = [np.asarray(model.infer({"IN": one})["OUT"]).tolist() for one in inputs]
        same(host_waits(pid_of(model)), {})
        return said


def test_shared_memory_is_pinned_where_the_model_asks_and_once_it_has_a_context(tmp_path: Path) -> None:
    asked = 'parameters { key: "TENSORFERRY_PIN" value: { string_value: "1" } }'
    same(pinned_in_turn(tmp_path, asked), [[0, 0], [0, 0], [0, 0], [1, 1]])


def test_it_is_not_where_the_model_does_not_ask(tmp_path: Path) -> None:
    same(pinned_in_turn(tmp_path, ""), [[0, 0]] * 4)


def test_a_copy_from_pinned_memory_waits_for_nothing(tmp_path: Path) -> None:
    body = """
if not self.kept:
    self.kept.append(torch.zeros(1, device="cuda"))
there = torch.from_dlpack(tensor).to("cuda", non_blocking=True)
self.kept[1:] = [tensor]  # as long as the copy may be under way
return Response([Tensor.from_dlpack("OUT", there)])
"""
    asked = 'parameters { key: "TENSORFERRY_PIN" value: { string_value: "1" } }'
    driver = Driver()
    with served(tmp_path, "import torch\n" + body, gpu=False, cpu_inputs=True, more=asked) as model:
        for _ in range(2):
            model.infer({"IN": ramp()})
        before = driver.counters(pid_of(model))
        for start in range(3):
            answer = model.infer({"IN": ramp(start)})["OUT"]
            np.testing.assert_array_equal(answer.numpy(), ramp(start))
        now = since(before, driver.counters(pid_of(model)))
        same((now.get("copies_h2d_pinned", 0), now.get("copies_h2d_pageable", 0)), (3, 0))
