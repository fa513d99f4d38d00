"""Every type of Triton's, through Server, model and caller, bit for bit: inside the message and through the arena."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from site_of_models import Site

import tensorferry

NUMPY = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
}
INLINE_BELOW = 4096  # bytes

TRITON = {name: f"TYPE_{name}" for name in NUMPY} | {"BYTES": "TYPE_STRING"}
CONFIG = 'backend: "python"\n' + "".join(
    f'input [ {{ name: "{name}", data_type: {dtype}, dims: [ -1 ], optional: true }} ]\n'
    f'output [ {{ name: "OUT_{name}", data_type: {dtype}, dims: [ -1 ] }} ]\n'
    for name, dtype in TRITON.items()
)

# What comes out is an array that NumPy made anew, but for BF16, which it doesn't have.
COPIES = """
def answer(tensor):
    name = "OUT_" + tensor.name()
    if tensor.name() == "BF16":
        return pb_utils.Tensor.from_dlpack(name, tensor.to_dlpack())
    array = tensor.as_numpy()
    assert array.dtype == pb_utils.triton_string_to_numpy(EXPECTED[tensor.name()]), array.dtype
    return pb_utils.Tensor(name, array.copy())

return [pb_utils.InferenceResponse([answer(t) for t in request.inputs()]) for request in requests]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tensorferry.Model]:
    """One model with an input and an output of each type."""
    site = Site(tmp_path_factory.mktemp("dtypes") / "models")
    yield site.execute("types", f"EXPECTED = {TRITON!r}\n{COPIES}", CONFIG)
    site.close()


def any_bits(name: str, size: int) -> Any:
    """An array of `size` bytes in which every bit pattern may come up: NaNs, infinities and denormals too."""
    if name == "BF16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    dtype = np.dtype(NUMPY[name])
    raw = np.random.default_rng(7).integers(0, 2 if name == "BOOL" else 256, size, np.uint8)
    return raw.view(dtype)


def host_copies() -> int:
    return int(tensorferry._server.copy_counts()["host_calls"])


@pytest.mark.parametrize("size", [INLINE_BELOW - 8, INLINE_BELOW], ids=["inline", "arena"])
@pytest.mark.parametrize("name", NUMPY)
def test_a_number_of_any_type_crosses_bit_for_bit(model: tensorferry.Model, name: str, size: int) -> None:
    sent = any_bits(name, size)
    before = host_copies()
    (out,) = model.infer({name: sent}).values()
    assert host_copies() - before == (size >= INLINE_BELOW)
    received = np.asarray(out)
    assert (out.dtype, received.dtype, received.shape) == (NUMPY[name], sent.dtype, sent.shape)
    assert received.tobytes() == sent.tobytes()


@pytest.mark.parametrize("size", [INLINE_BELOW - 8, INLINE_BELOW], ids=["inline", "arena"])
def test_strings_cross_byte_for_byte(model: tensorferry.Model, size: int) -> None:
    length = 4  # before each element
    first = [b"", b"\x00", bytes(range(256)), "straße".encode()]
    last = size - sum(length + len(one) for one in first) - length
    sent = [*first, b"\xff" * last]
    before = host_copies()
    (out,) = model.infer({"BYTES": sent}).values()
    assert host_copies() - before == (size >= INLINE_BELOW)
    assert (out.dtype, out.shape) == ("bytes", (len(sent),))
    assert list(out.numpy()) == sent
