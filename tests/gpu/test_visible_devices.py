"""TENSORFERRY_GPU_VISIBLE_DEVICES: stubs number the devices otherwise than the server, and tensors land on the right one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import MARKS_A_COPY, needs_devices, ramp, same, served, write_model

import tensorferry

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated(devices=3)

ON_ITS_FIRST = "assert tensor.__dlpack_device__()[1] == 0, tensor.__dlpack_device__()" + MARKS_A_COPY
SAYS_WHAT_IT_SEES = """
seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").encode()
return Response([Tensor("OUT", np.frombuffer(seen, np.uint8))])
"""


def visible(text: str, more: str = "") -> str:
    return f'parameters {{ key: "TENSORFERRY_GPU_VISIBLE_DEVICES" value: {{ string_value: "{text}" }} }}\n{more}'


def gpus(*numbers: int) -> str:
    return f"instance_group [ {{ kind: KIND_GPU, gpus: {list(numbers)} }} ]\n"


def placed() -> str:
    return 'parameters { key: "TENSORFERRY_INPUT_PLACEMENT" value: { string_value: "IN=gpu" } }\n'


def uuid_of(ordinal: int) -> str:
    from cuda.core import Device

    return str(Device(ordinal).uuid)


def on_device(ordinal: int, model: Any, values: Any) -> Any:
    """Memory of the model's there with these values."""
    from cuda.bindings import driver
    from cuda.core import Device

    device = Device(ordinal)
    device.set_current()
    given = model.empty(values.shape, values.dtype, device=f"cuda:{ordinal}")
    (code,) = driver.cuMemcpyHtoD(given.__cuda_array_interface__["data"][0], values.ctypes.data, values.nbytes)
    assert code == 0, code
    return given


def sevens(values: Any) -> Any:
    return np.concatenate([np.full(3, 7, np.float32), values[3:]])


@pytest.mark.parametrize("ordinal", [1, 2])
@pytest.mark.parametrize("by_uuid", [False, True])
def test_the_servers_device_is_the_stubs_first(tmp_path: Path, ordinal: int, by_uuid: bool) -> None:
    needs_devices(3)
    text = "GPU-" + uuid_of(ordinal).removeprefix("GPU-") if by_uuid else str(ordinal)
    with served(tmp_path, ON_ITS_FIRST, more=visible(text)) as model:
        for start in range(3):
            answer = model.infer({"IN": on_device(ordinal, model, ramp(start))})["OUT"]
            same(answer.device, f"cuda:{ordinal}")
            np.testing.assert_array_equal(answer.numpy(), sevens(ramp(start)))


def test_an_instances_gpu_counts_what_its_stub_sees(tmp_path: Path) -> None:
    needs_devices(3)
    body = "assert tensor.__dlpack_device__()[1] == 1\nreturn Response([tensor])"
    with served(tmp_path, body, gpu=False, outputs="IN", more=visible("0,2", gpus(1) + placed())) as model:
        answer = model.infer({"IN": ramp()})["IN"]
        same(answer.device, "cuda:2")
        np.testing.assert_array_equal(answer.numpy(), ramp())


def test_a_tensor_of_a_device_that_the_stub_does_not_see_is_the_requests_error(tmp_path: Path) -> None:
    needs_devices(3)
    with served(tmp_path, ON_ITS_FIRST, more=visible("1")) as model:
        with pytest.raises(tensorferry.Error, match=r"gpu_no_device.*which this stub does not see"):
            model.infer({"IN": on_device(2, model, ramp())})
        answer = model.infer({"IN": on_device(1, model, ramp())})["OUT"]
        np.testing.assert_array_equal(answer.numpy(), sevens(ramp()))


@pytest.mark.parametrize("parameter", ["", visible(""), visible(" 1 , 0 ")])
def test_what_stands_in_the_stubs_environment(tmp_path: Path, parameter: str) -> None:
    needs_devices(3)
    expected = {"": os.environ.get("CUDA_VISIBLE_DEVICES", "unset"), visible(""): ""}.get(
        parameter, ",".join("GPU-" + uuid_of(one).removeprefix("GPU-") for one in (1, 0))
    )
    with served(tmp_path, SAYS_WHAT_IT_SEES, gpu=False, dtype="TYPE_UINT8", more=parameter) as model:
        for _ in range(2):
            same(np.asarray(model.infer({"IN": np.zeros(1, np.uint8)})["OUT"]).tobytes().decode(), expected)


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        ("GPU-00000000-0000-0000-0000-000000000000", "", "gpu_no_device"),
        ("17", "", "gpu_no_device"),
        ("first", "", "'first' is neither a number nor a UUID"),
        ("0,,1", "", "'' is neither a number nor a UUID"),
        ("1,1", "", "'1' is there twice"),
        ("1", gpus(1), "an instance is for GPU 1, but TENSORFERRY_GPU_VISIBLE_DEVICES leaves 1 visible"),
    ],
)
def test_what_there_is_not_is_refused_when_the_model_is_loaded(tmp_path: Path, text: str, more: str, why: str) -> None:
    if text.startswith("1") and text != "17":
        needs_devices(2)
    write_model(tmp_path, SAYS_WHAT_IT_SEES, gpu=False, more=visible(text, more))
    with pytest.raises(tensorferry.Error) as raised:
        tensorferry.Server(tmp_path).close()
    assert why in str(raised.value), raised.value
    assert "TENSORFERRY_GPU_VISIBLE_DEVICES" in str(raised.value)
