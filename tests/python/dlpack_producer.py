"""Tensors as any library may describe them by DLPack, right or wrong: for tests of who reads them.

Also imported by models, in the stub.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

CPU, CUDA, PINNED, MANAGED = (1, 0), (2, 0), (3, 0), (13, 0)  # device types
READ_ONLY = 1  # flag
FLOAT32 = (2, 32, 1)  # code, bits, lanes

# What the config of a model has no name for, as code, bits and lanes.
NAMELESS = {
    "complex32": (5, 32, 1),
    "complex64": (5, 64, 1),
    "complex128": (5, 128, 1),
    "float8_e3m4": (7, 8, 1),
    "float8_e4m3": (8, 8, 1),
    "float8_e4m3b11fnuz": (9, 8, 1),
    "float8_e4m3fn": (10, 8, 1),
    "float8_e4m3fnuz": (11, 8, 1),
    "float8_e5m2": (12, 8, 1),
    "float8_e5m2fnuz": (13, 8, 1),
    "float8_e8m0fnu": (14, 8, 1),
    "float6_e2m3fn": (15, 6, 1),
    "float6_e3m2fn": (16, 6, 1),
    "float4_e2m1fn": (17, 4, 1),
    "float4_e2m1fn_x2": (17, 4, 2),
    "int4": (0, 4, 1),
    "uint4": (1, 4, 1),
    "uint1": (1, 1, 1),
    "bool of a bit": (6, 1, 1),
    "float128": (2, 128, 1),
    "float32x4": (2, 32, 4),
    "a handle": (3, 64, 1),
}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_handed_out: dict[int, Any] = {}  # by address, until their deleters are called


class Described:
    """A producer whose one tensor is `memory` (an address, or None) under the given description; `strides` are counted in
    elements, and None is DLPack's NULL: C order."""

    def __init__(
        self,
        memory: int | None,
        shape: tuple[int, ...],
        dtype: tuple[int, int, int] = FLOAT32,
        *,
        strides: tuple[int, ...] | None = None,
        byte_offset: int = 0,
        device: tuple[int, int] = CPU,
        flags: int = 0,
        version: tuple[int, int] | None = (1, 1),
        deleter: bool = True,
        keep: Any = None,
    ) -> None:
        self.device, self.version, self.freed, self.keep = device, version, 0, keep
        self.asked: dict[str, Any] = {}
        self.capsule: Any = None
        self.managed = _Managed() if version is None else _Versioned(major=version[0], minor=version[1], flags=flags)
        self.extents = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in (shape, strides or ())]
        tensor = self.managed.tensor
        tensor.data, tensor.device, tensor.ndim = memory, _Device(*device), len(shape)
        tensor.dtype, tensor.byte_offset = _Type(*dtype), byte_offset
        tensor.shape = ctypes.cast(self.extents[0], ctypes.POINTER(ctypes.c_int64))
        if strides is not None:
            tensor.strides = ctypes.cast(self.extents[1], ctypes.POINTER(ctypes.c_int64))
        if deleter:
            self.managed.deleter = _Deleter(self._free)

    def _free(self, address: int) -> None:
        self.freed += 1
        _handed_out.pop(address, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **asked: Any) -> Any:
        self.asked = asked
        address = ctypes.addressof(self.managed)
        _handed_out[address] = self
        name = b"dltensor" if self.version is None else b"dltensor_versioned"
        self.capsule = _new_capsule(
            address, name, None
        )  # kept here: a destructor in Python could meet an exception under way
        return self.capsule

    def left(self) -> bool:
        """Whether its consumer took nothing over: then nothing is its to end."""
        return '"used_' not in repr(self.capsule) and self.freed == 0


Layout = tuple[Described, NDArray[np.float32]]  # and what is to be read there


def _as_it_lies(view: NDArray[np.float32]) -> Layout:
    strides = tuple(stride // view.itemsize for stride in view.strides)
    return Described(view.ctypes.data, view.shape, strides=strides, keep=view), view


def packed_layouts() -> dict[str, Layout]:
    """Tensors in C order, however they are described."""
    base = np.arange(24, dtype=np.float32)
    at, shape, array = base.ctypes.data, (4, 6), base.reshape(4, 6)
    odd = np.zeros(4 * base.size + 2, np.uint8)[2:]
    odd[:] = base.view(np.uint8)
    none = np.empty((0, 3), np.float32)
    return {
        "C order": _as_it_lies(array),
        "no strides": (Described(at, shape, keep=base), array),
        "strides of axes of one": (Described(at, (1, 24, 1), strides=(7, 1, 5), keep=base), base.reshape(1, 24, 1)),
        "no elements, no memory": (Described(None, (0, 3)), none),
        "no elements": (Described(at, (0, 3), strides=(9, 9), keep=base), none),
        "read-only": (Described(at, shape, flags=READ_ONLY, keep=base), array),
        "unversioned": (Described(at, shape, version=None, keep=base), array),
        "a later minor version": (Described(at, shape, version=(1, 99), keep=base), array),
        "pinned memory": (Described(at, shape, device=PINNED, keep=base), array),
        "another CPU": (Described(at, shape, device=(1, 1), keep=base), array),
        "byte offset": (Described(at, (4,), byte_offset=8, keep=base), base[2:6]),
        "misaligned": (Described(odd.ctypes.data, shape, keep=odd), array),
        "no deleter": (Described(at, shape, deleter=False, keep=base), array),
    }


def strided_layouts() -> dict[str, Layout]:
    base = np.arange(24, dtype=np.float32)
    return {
        "transposed": _as_it_lies(base.reshape(4, 6).T),
        "every second": _as_it_lies(base[::2]),
        "backwards": _as_it_lies(base[::-1]),
        "repeated": _as_it_lies(np.broadcast_to(base, (3, 24))),
        "axes in another order": _as_it_lies(base.reshape(2, 3, 4).transpose(1, 0, 2)),
        "a corner": _as_it_lies(base.reshape(4, 6)[1:3, 2:5]),
    }


def far_layouts() -> dict[str, Layout]:
    """Offsets beyond 4 GiB, in memory of which only what is touched is taken. OSError where that can't be had."""
    far = (4 << 30) + 64
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, far + mmap.PAGESIZE, flags=flags)
    first = np.frombuffer(memory, np.float32, 6)
    last = np.frombuffer(memory, np.float32, 6, far)
    first[:], last[:] = np.arange(6), np.arange(6, 12)
    at = first.ctypes.data
    return {
        "byte offset": (Described(at, (6,), byte_offset=far, keep=memory), last),
        "stride": (Described(at, (2, 6), strides=(far // 4, 1), keep=memory), np.stack([first, last])),
    }
