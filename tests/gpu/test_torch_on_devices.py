"""PyPI's real PyTorch on both sides of a server, on the emulated driver: its device tensors as inputs, outputs and views.

Kernels compute nothing there; copies and fills do. Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import Driver, copies, pid_of, same, served_types, since
from dlpack_consumers import DTYPES, values

from tensorferry import errors

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")
pytestmark = pytest.mark.emulated(variables={"LD_BIND_NOW": "1"})

NAMELESS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
            "complex64", "complex128")  # fmt: skip


def on_host(dtype: str) -> Any:
    """The values of that type as torch's own."""
    if dtype == "bfloat16":
        return torch.from_numpy(values(dtype).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values(dtype))


def test_tensors_of_each_dtype_go_to_the_model_and_come_back_by_one_copy_each(tmp_path: Path) -> None:
    body = """
    import torch
    seen = torch.from_dlpack(tensor)
    assert seen.device.type == "cuda" and str(seen.dtype) == "torch." + tensor.name(), seen
    made = torch.empty_like(seen)
    made.copy_(seen)
    return Response([Tensor.from_dlpack("OUT", made)])
    """
    driver = Driver()
    with served_types(tmp_path, body, gpu=False) as model:
        for name in DTYPES:
            sent = on_host(name)
            given = sent.to("cuda")
            before, stub = copies(), driver.counters(pid_of(model))
            answer = model.infer({name: given})["OUT"]
            size = sent.numel() * sent.element_size()
            same(since(before, copies()), {"d2d_calls": 1, "d2d_bytes": size})
            there = since(stub, driver.counters(pid_of(model)))
            same((there["copies_d2d"], there["bytes_d2d"]), (2, 2 * size))  # the model's own, and ours
            back = torch.from_dlpack(answer)
            same((back.device.type, back.dtype, back.shape), ("cuda", sent.dtype, sent.shape))
            same(torch.equal(back.cpu(), sent), True)


def test_views_that_one_copy_packs_need_no_kernel(tmp_path: Path) -> None:
    body = """
    import torch
    seen = torch.from_dlpack(tensor)
    view = {"2": lambda: seen[1:3, 2:5], "1": lambda: seen[4::2], "3": lambda: seen[:, 1:2]}[tensor.name()]()
    return Response([Tensor.from_dlpack("OUT", view)])
    """
    base = torch.arange(24, dtype=torch.float32)
    cases = {"1": (base, base[4::2]), "2": (base.reshape(4, 6), base.reshape(4, 6)[1:3, 2:5])}
    cases["3"] = (base.reshape(2, 3, 4), base.reshape(2, 3, 4)[:, 1:2])
    with served_types(tmp_path, body, gpu=False) as model:
        for name, (given, expected) in cases.items():
            answer = model.infer({name: given.to("cuda")})["OUT"]
            same((answer.shape, answer.numpy().tolist()), (tuple(expected.shape), expected.tolist()))


def test_dtypes_without_a_name_are_refused_with_a_way_out_and_not_copied(tmp_path: Path) -> None:
    with served_types(tmp_path, "return Response([tensor])", gpu=False) as model:
        for name in NAMELESS:
            dtype = getattr(torch, name)
            given = torch.zeros(64, dtype=torch.uint8, device="cuda").view(dtype)
            before = copies()
            with pytest.raises(errors.InvalidRequest) as raised:
                model.infer({"1": given})
            assert "does not cross: view its bytes as uint8" in str(raised.value), (name, raised.value)
            same(since(before, copies()), {})


def test_dtypes_without_a_name_go_as_packed_bytes_with_their_dtype_said(tmp_path: Path) -> None:
    body = """
    import torch
    def refused(value):
        try:
            Tensor.from_dlpack("OUT", value)
        except pb_utils.TritonModelException as error:
            return str(error)

    for name in %r:
        seen = torch.from_dlpack(tensor).view(getattr(torch, name))
        said = refused(seen)
        assert said == "Dtype is invalid.", (name, said)
    return Response([Tensor.from_dlpack("OUT", seen.view(torch.uint8))])
    """
    sent = torch.arange(64, dtype=torch.uint8)
    with served_types(tmp_path, body % (NAMELESS,), gpu=False) as model:
        given = sent.to("cuda").view(torch.float4_e2m1fn_x2)
        answer = model.infer({"uint8": given.view(torch.uint8)})["OUT"]
        back = torch.from_dlpack(answer).view(torch.float4_e2m1fn_x2)
        same((back.dtype, torch.equal(back.view(torch.uint8).cpu(), sent)), (torch.float4_e2m1fn_x2, True))
