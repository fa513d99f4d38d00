"""What goes wrong with device tensors: stubs that die, memory that runs out, devices that aren't there."""

from __future__ import annotations

import gc
import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import Caller, await_ready, pid_of, ramp, same, served
from site_of_models import until

import tensorferry
from tensorferry import errors

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated

MIB = 1 << 20

ECHO = """
out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
self.gpu.copy(self.gpu.view(out), self.gpu.view(tensor), tensor.shape()[0])
return Response([Tensor.from_dlpack("OUT", out)])
"""


def in_use(model: Any) -> int:
    return int(model.server.statistics()["m"]["gpus"]["cuda:0"]["arena_bytes_in_use"])


def await_home(model: Any) -> None:
    """Until nobody holds anything of the model's arena on the device."""
    gc.collect()
    until(lambda: in_use(model) == 0)
    same(in_use(model), 0)


def test_a_stub_that_is_killed_at_work_costs_its_request_and_keeps_no_memory(tmp_path: Path) -> None:
    caller = Caller()
    sign = tmp_path / "die"
    body = f"""
    if os.path.exists("{sign}"):
        os.remove("{sign}")
        view = self.gpu.view(tensor)
        self.gpu.fill(view, 1, 10)
        os.kill(os.getpid(), 9)
    """
    with served(tmp_path, textwrap.dedent(body) + ECHO) as model:
        for _ in range(2):
            sign.touch()
            with pytest.raises(errors.StubDied, match="SIGKILL"):
                model.infer({"IN": caller.given(model, ramp())})
            await_home(model)
            await_ready(model)
            np.testing.assert_array_equal(model.infer({"IN": caller.given(model, ramp(1))})["OUT"].numpy(), ramp(1))


def test_answers_outlive_the_stub_that_made_them(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ECHO) as model:
        kept = [model.infer({"IN": caller.given(model, ramp(n))})["OUT"] for n in range(3)]
        os.kill(pid_of(model), signal.SIGKILL)
        until(lambda: model.server.statistics()["m"]["instances"][0]["restarts"] > 0)
        await_ready(model)
        later = model.infer({"IN": caller.given(model, ramp(9))})["OUT"]
        for n, answer in enumerate(kept):
            np.testing.assert_array_equal(answer.numpy(), ramp(n))
        np.testing.assert_array_equal(later.numpy(), ramp(9))


def test_answers_outlive_the_server(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ECHO) as model:
        answer = model.infer({"IN": caller.given(model, ramp(4))})["OUT"]
    np.testing.assert_array_equal(answer.numpy(), ramp(4))


def test_the_pools_end_is_an_error_with_sizes_and_no_end_of_the_model(tmp_path: Path) -> None:
    caller = Caller()
    limit = f'parameters {{ key: "TENSORFERRY_GPU_POOL_BYTE_SIZE" value: {{ string_value: "{4 * MIB}" }} }}\n'
    with served(tmp_path, ECHO, more=limit) as model:
        held = [model.empty((MIB // 2,), np.float32, device="cuda:0")]
        with pytest.raises(errors.OutOfMemory, match=rf"no room for {4 * MIB} bytes in the arena: .* at most {4 * MIB}"):
            held.append(model.empty((MIB,), np.float32, device="cuda:0"))
        held.clear()
        same(model.empty((MIB,), np.float32, device="cuda:0").shape, (MIB,))
        answer = model.infer({"IN": caller.given(model, ramp(2))})["OUT"]
        np.testing.assert_array_equal(answer.numpy(), ramp(2))


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    with served(tmp_path, ECHO) as model:
        with pytest.raises(tensorferry.Error, match="gpu_no_device"):
            model.empty((5,), np.float32, device="cuda:99")
        for wrong in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", 3):
            with pytest.raises(ValueError, match='it is "cpu", "cuda" or "cuda:<number>"'):
                model.empty((5,), np.float32, device=wrong)


def test_a_model_that_raises_gives_its_inputs_back(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, 'view = self.gpu.view(tensor)\nraise ValueError("no")') as model:
        for _ in range(5):
            with pytest.raises(errors.ModelError, match="ValueError: no"):
                model.infer({"IN": caller.given(model, ramp())})
        model.server.statistics()
        await_home(model)


def test_a_request_that_is_refused_leaves_device_memory_its_callers(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ECHO) as model:
        given = caller.given(model, ramp(3))
        with pytest.raises(errors.InvalidRequest, match="unexpected inference input"):
            model.infer({"IN": given, "OTHER": given})
        np.testing.assert_array_equal(model.infer({"IN": given})["OUT"].numpy(), ramp(3))


def test_a_forked_child_of_the_model_is_told_to_spawn(tmp_path: Path) -> None:
    caller = Caller()
    body = """
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            self.gpu.view(tensor)
        except Exception as error:
            os.write(write, str(error).encode())
        os._exit(0)
    said = os.read(read, 10000)
    os.wait()
    for end in (read, write):
        os.close(end)
    return Response([Tensor("OUT", np.frombuffer(said, np.uint8).astype(np.float32))])
    """
    with served(tmp_path, body) as model:
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"]
        said = bytes(np.asarray(answer).astype(np.uint8)).decode()
        assert "gpu_forked" in said, said
        assert "spawn" in said, said
