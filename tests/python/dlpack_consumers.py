"""Libraries that take tensors by DLPack, and what each sees there. Also imported by models, in the stub.

As a script it is a caller that gives its answers to one of them, in a process of its own: JAX has threads, and says so at
every fork of a process that imported it. `dlpack_consumers.py REPOSITORY MODEL LIBRARY` prints the outcomes as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np

# The types that a config can name and DLPack has.
DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
          "float16", "float32", "float64", "bfloat16")  # fmt: skip
RIGHT = "right"


def values(dtype: str, count: int = 2000) -> Any:
    """More bytes than travel inside a message, but for the types of one byte."""
    if dtype == "bfloat16":
        import ml_dtypes

        return (np.arange(count) % 100).astype(ml_dtypes.bfloat16)
    return (np.arange(count) % (2 if dtype == "bool" else 100)).astype(dtype)


Seen = tuple[str, tuple[int, ...], bytes]  # dtype, shape, and the elements in C order


def numpy(tensor: Any) -> Seen:
    array = np.from_dlpack(tensor)
    return str(array.dtype), array.shape, array.tobytes()


def jax(tensor: Any) -> Seen:
    import jax

    jax.config.update("jax_enable_x64", True)
    array = np.asarray(jax.dlpack.from_dlpack(tensor))
    return str(array.dtype), array.shape, array.tobytes()


def tvm_ffi(tensor: Any) -> Seen:
    import tvm_ffi

    taken = tvm_ffi.from_dlpack(tensor)
    shape, strides = tuple(taken.shape), tuple(taken.strides)
    size = np.dtype(np.uint8 if str(taken.dtype) == "bool" else values(str(taken.dtype), 0).dtype).itemsize
    # NumPy has no bfloat16: its bits, as they lie there.
    bits = np.dtype(f"u{size}")
    start = np.frombuffer((ctypes.c_char * size).from_address(taken.data_ptr() if taken.numel() else id(bits)), bits)
    view = np.lib.stride_tricks.as_strided(start, shape, [stride * size for stride in strides])
    return str(taken.dtype), shape, view.tobytes()


def torch(tensor: Any) -> Seen:
    import torch

    taken = torch.from_dlpack(tensor)
    name = str(taken.dtype).removeprefix("torch.")
    array = taken.view(torch.int16).numpy() if name == "bfloat16" else taken.numpy()  # NumPy has none: its bits
    return name, tuple(taken.shape), array.tobytes()


LIBRARIES = {"numpy": numpy, "jax": jax, "tvm_ffi": tvm_ffi, "torch": torch}


def outcome(library: str, tensor: Any, expected: Any) -> str:
    """RIGHT, or how it went wrong; "refused: ..." where the library raised."""
    try:
        seen = LIBRARIES[library](tensor)
    except Exception as error:
        return f"refused: {type(error).__name__}: {error}"
    is_right = seen == (str(expected.dtype), expected.shape, expected.tobytes())
    return RIGHT if is_right else f"wrong: {seen[0]} {seen[1]}"


def outcomes(library: str, tensor_of: Any) -> dict[str, str]:
    return {dtype: outcome(library, tensor_of(values(dtype)), values(dtype)) for dtype in DTYPES}


if __name__ == "__main__":
    import tensorferry

    with tensorferry.Server(sys.argv[1], models=[sys.argv[2]]) as server:
        model = server.model(sys.argv[2])
        print(json.dumps(outcomes(sys.argv[3], lambda array: model.infer({str(array.dtype): array})["OUT"])))
