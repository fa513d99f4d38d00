"""The matrix of device tensors: what cuda.core and numba-cuda see of ours, and what is taken of others' or refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import Caller, copies, same, served_types, since
from dlpack_consumers import DTYPES, values
from dlpack_producer import CUDA, MANAGED, NAMELESS, Described

import tensorferry

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
pytestmark = pytest.mark.emulated


def needs_numba() -> None:
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: pip install --group cuda")


def text_of(answer: Any) -> str:
    return np.asarray(answer["OUT"]).tobytes().decode()


SAID = """
def said(what):
    return Response([Tensor("OUT", np.frombuffer(str(what).encode(), np.uint8))])

def refusal(function):
    try:
        function()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return "none"

"""

PASSED = "return Response([tensor])"


# --------------------------------------------------------------------------------- what is seen of ours


def test_cuda_core_sees_each_dtype_of_an_answer(tmp_path: Path) -> None:
    caller = Caller()
    with served_types(tmp_path, 'return Response([Tensor.from_dlpack("OUT", tensor)])', gpu=False) as model:
        for name in DTYPES:
            sent = values(name)
            answer = model.infer({name: caller.given(model, sent)})["OUT"]
            view = caller.view(answer)
            same((str(view.dtype), view.shape, view.device_id), (name, sent.shape, 0))
            there = np.empty_like(sent)
            (code,) = caller.driver.cuMemcpyDtoH(there.ctypes.data, view.ptr, sent.nbytes)
            same((int(code), there.tobytes() == sent.tobytes(), answer.dtype), (0, True, name))
            same(answer.numpy().tobytes() == sent.tobytes(), True)


def test_cuda_core_sees_each_dtype_of_an_input_in_the_model(tmp_path: Path) -> None:
    caller = Caller()
    body = "view = self.gpu.view(tensor)\nreturn said([str(view.dtype), view.shape, view.readonly])"
    with served_types(tmp_path, SAID + body) as model:
        for name in DTYPES:
            same(text_of(model.infer({name: caller.given(model, values(name))})), str([name, (2000,), False]))


def test_numba_sees_each_dtype_that_numpy_has(tmp_path: Path) -> None:
    needs_numba()
    from numba import cuda

    caller = Caller()
    with served_types(tmp_path, 'return Response([Tensor.from_dlpack("OUT", tensor)])', gpu=False) as model, cuda.gpus[0]:
        for name in DTYPES:
            sent = values(name)
            answer = model.infer({name: caller.given(model, sent)})["OUT"]
            if name == "bfloat16":
                same(cuda.is_cuda_array(answer), False)
                continue
            array = cuda.as_cuda_array(answer)
            same((str(array.dtype), array.shape), (name, sent.shape))
            np.testing.assert_array_equal(array.copy_to_host(), sent)


def test_numbas_arrays_are_inputs_of_each_dtype_which_it_reads_in_the_model(tmp_path: Path) -> None:
    needs_numba()
    from numba import cuda

    body = """
    from numba import cuda
    with cuda.gpus[0]:  # otherwise its context stays on the thread
        return Response([Tensor("OUT", cuda.as_cuda_array(tensor).copy_to_host())])
    """
    with served_types(tmp_path, body, gpu=False) as model, cuda.gpus[0]:
        for name in DTYPES[:-1]:
            sent = values(name)
            before = copies()
            answer = model.infer({name: cuda.to_device(sent)})["OUT"]
            moved = since(before, copies())
            same((moved["d2d_calls"], moved["d2d_bytes"]), (1, sent.nbytes))
            same(answer.dtype, name)
            np.testing.assert_array_equal(np.asarray(answer), sent)


# ------------------------------------------------------------------------------ what is taken of others'


class Array:
    """Memory of cuda.core's under a description of the CUDA array interface."""

    def __init__(self, buffer: Any, shape: tuple[int, ...], typestr: str = "<f4", **more: Any) -> None:
        self.buffer = buffer
        address = 0 if buffer is None else int(buffer.handle)
        self.__cuda_array_interface__ = {
            "version": 3, "shape": shape, "typestr": typestr, "data": (address + more.pop("offset", 0), False), **more
        }  # fmt: skip


def test_a_caller_may_give_any_description_of_c_order(tmp_path: Path) -> None:
    caller, base = Caller(), np.arange(24, dtype=np.float32)
    buffer = caller.buffer(base)
    at, stream = int(buffer.handle), int(caller.stream.handle)
    given = {
        "shape alone": (Array(buffer, (4, 6), stream=stream), base.reshape(4, 6)),
        "strides of C order": (Array(buffer, (4, 6), strides=(24, 4), stream=stream), base.reshape(4, 6)),
        "strides of axes of one": (Array(buffer, (1, 24), strides=(9, 4), stream=stream), base.reshape(1, 24)),
        "an offset": (Array(buffer, (6,), offset=8, stream=stream), base[2:8]),
        "no elements": (Array(None, (0, 3)), np.empty((0, 3), np.float32)),
        "DLPack": (Described(at, (4, 6), device=CUDA, keep=buffer), base.reshape(4, 6)),
        "DLPack, a byte offset": (Described(at, (4,), byte_offset=8, device=CUDA), base[2:6]),
        "DLPack, managed": (Described(at, (24,), device=MANAGED), base),
        "DLPack, no elements": (Described(None, (0,), device=CUDA), base[:0]),
    }
    with served_types(tmp_path, 'return Response([Tensor("OUT", tensor.as_numpy())])', gpu=False) as model:
        for name, (value, expected) in given.items():
            out = model.infer({str(expected.ndim): value}, stream=caller.stream)["OUT"]
            same((name, out.shape, np.asarray(out).tolist()), (name, expected.shape, expected.tolist()))


def test_a_caller_may_give_what_lies_beyond_4_gib(tmp_path: Path) -> None:
    caller, far = Caller(), (4 << 30) + 64
    code, address = caller.driver.cuMemAlloc(far + 4096)
    assert int(code) == 0, code
    assert caller.driver.cuMemsetD32Async(int(address) + far, 7, 1000, caller.stream.handle) == (0,)
    with served_types(tmp_path, 'return Response([Tensor("OUT", tensor.as_numpy())])', gpu=False) as model:
        given = Described(int(address), (1000,), (1, 32, 1), byte_offset=far, device=CUDA)
        same(np.unique(np.asarray(model.infer({"uint32": given}, stream=caller.stream)["OUT"])).tolist(), [7])
    assert caller.driver.cuMemFree(address) == (0,)


def test_what_does_not_cross_is_refused_at_the_caller_before_it_is_copied(tmp_path: Path) -> None:
    caller, base = Caller(), np.arange(24, dtype=np.float32)
    buffer = caller.buffer(base)
    at = int(buffer.handle)
    refused = {
        name: (Described(at, (4,), dtype, device=CUDA), "which does not cross: view its bytes as uint8")
        for name, dtype in NAMELESS.items()
    }
    refused |= {typestr: (Array(buffer, (2,), typestr), "does not cross") for typestr in ("<c8", ">f4", "|V4", "<M8[s]")}
    refused |= {
        "transposed": (Array(buffer, (6, 4), strides=(4, 24)), "not in C order: pass a contiguous one"),
        "backwards": (Array(buffer, (24,), strides=(-4,), offset=92), "not in C order"),
        "repeated": (Described(at, (3, 24), strides=(0, 1), device=CUDA), "not in C order"),
        "masked": (Array(buffer, (4,), mask=Array(buffer, (4,))), "masked"),
        "on the host": (Array(None, (4,), offset=base.ctypes.data), "in no device's memory"),
    }
    with served_types(tmp_path, PASSED, gpu=False) as model:
        before = copies()
        for name, (value, text) in refused.items():
            with pytest.raises((BufferError, tensorferry.Error)) as raised:
                model.infer({"1": value}, stream=caller.stream)
            assert text in str(raised.value), (name, raised.value)
        same(since(before, copies()), {})


LAYOUTS = (
    SAID
    + """
class Array:
    def __init__(self, shape, strides, offset=0, typestr="<f4"):
        data = (view.ptr + offset, False)
        self.owner, self.__cuda_array_interface__ = view, {
            "version": 3, "shape": shape, "strides": strides, "typestr": typestr, "data": data, "stream": stream}

view, stream = self.gpu.view(tensor), int(self.gpu.stream.handle)
"""
)


PACKED = (
    ((4, 6), None, 0),
    ((), None, 8),
    ((0, 3), None, 0),
    ((12,), (8,), 4),
    ((2, 3), (24, 4), 8),
    ((2, 2, 2), (48, 16, 4), 4),
)  # shape, strides and offset, in bytes


def test_a_model_may_answer_with_what_one_copy_packs(tmp_path: Path) -> None:
    caller, base = Caller(), np.arange(24, dtype=np.float32)
    body = (
        LAYOUTS
        + f"""
shape, strides, offset = {PACKED}[len(self.kept)]
self.kept.append(None)
return Response([Tensor.from_dlpack("OUT", Array(shape, strides, offset))])
"""
    )
    with served_types(tmp_path, body) as model:
        for shape, strides, offset in PACKED:
            expected = np.ndarray(shape, np.float32, base, offset, strides)
            out = model.infer({"1": caller.given(model, base)})["OUT"]
            same((out.shape, out.device, out.numpy().tolist()), (shape, "cuda:0", expected.tolist()))


def test_a_model_is_told_what_does_not_cross(tmp_path: Path) -> None:
    body = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1] / "python")]}
from dlpack_producer import CUDA, MANAGED, NAMELESS, Described

def described(*how, **more):
    return refusal(lambda: Tensor.from_dlpack("OUT", Described(view.ptr, *how, **{{"device": CUDA, **more}})))

def array(*how):
    return refusal(lambda: Tensor.from_dlpack("OUT", Array(*how)))

import json
found = {{name: described((4,), dtype) for name, dtype in NAMELESS.items()}}
found |= {{typestr: array((2,), None, 0, typestr) for typestr in ("<c8", ">f4", "|V4")}}
found["managed"] = described((4,), device=MANAGED)
found["backwards"], found["repeated"] = array((24,), (-4,), 92), array((3, 24), (0, 4))
found["transposed"] = described((6, 4), strides=(1, 6))
return said(json.dumps(found))
"""
    expected = dict.fromkeys(NAMELESS, "Dtype is invalid")
    expected |= dict.fromkeys(("<c8", ">f4", "|V4"), "a typestr that can't cross")
    expected |= dict.fromkeys(("backwards", "repeated"), "make it contiguous first")
    expected |= {"managed": "DLDevice type 13 is not support", "transposed": "not contiguous"}
    caller = Caller()
    with served_types(tmp_path, LAYOUTS + body) as model:
        found = json.loads(text_of(model.infer({"1": caller.given(model, np.arange(24, dtype=np.float32))})))
    same(found.keys(), expected.keys())
    for name, text in expected.items():
        assert text in found[name], (name, found[name])
