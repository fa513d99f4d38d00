"""Tensors of a response."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _server

_LENGTH = struct.Struct("<I")


class Tensor:
    """One output: the receiver's own memory, writable, valid as long as it or an array over it is held.

    That holds also when the stub that answered is killed, restarted or unloaded, or the server is closed. `np.asarray` and
    `from_dlpack` of any framework are views, not copies.
    """

    # Set by the extension: the array alone where NumPy has the dtype, all but the array otherwise.
    __slots__ = ("_array", "_dtype", "_owner", "_shape")
    _array: NDArray[Any] | None
    _dtype: str
    _owner: Any
    _shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """NumPy's name of it, or "bytes" or "bfloat16"."""
        try:
            return self._dtype
        except AttributeError:
            return str(self.numpy().dtype.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, in elements; () of a scalar."""
        try:
            return self._shape
        except AttributeError:
            return self.numpy().shape

    def numpy(self) -> NDArray[Any]:
        """A view of the memory; for ``bytes`` tensors an object array, decoded once."""
        if self._array is None:
            encoded = _server.owner_bytes(self._owner)
            self._array = _decode(encoded, self._shape) if self._dtype == "bytes" else _bfloat16(encoded, self._shape)
        return self._array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        array = self._array if self._array is not None else self.numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"a {self.dtype} tensor is not {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        options = {key: value for key, value in options.items() if value is not None}
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        return f"Tensor(dtype={self.dtype}, shape={self.shape})"


def _decode(encoded: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """Strings out of their length-prefixed layout; each length is read once and checked against what is left."""
    elements = []
    at = 0
    while at < len(encoded):
        if len(encoded) - at < _LENGTH.size:
            raise ValueError("a bytes tensor ends within a length")
        (length,) = _LENGTH.unpack_from(encoded, at)
        at += _LENGTH.size
        if len(encoded) - at < length:
            raise ValueError("a bytes tensor ends within an element")
        elements.append(encoded[at : at + length])
        at += length
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(shape)


def _bfloat16(encoded: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise TypeError("NumPy has no bfloat16: install ml_dtypes") from error
    array: NDArray[Any] = np.frombuffer(encoded, ml_dtypes.bfloat16).reshape(shape).copy()
    return array


def give(answer: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
    """Gives an answer, or an array over the whole of one, to the next `infer` that takes it as an input; returns it.

    As with an array from `Model.empty`, that `infer` moves it where the memory allows (an input that the same model passed
    through; anything else is copied once). The array turns read-only, and giving it again is an error.

    Raises:
        TypeError: it is no answer of tensorferry.
    """
    memory = answer.numpy() if isinstance(answer, Tensor) else answer
    if not _server.offer(memory):
        raise TypeError("give() takes a tensor of a response, or an array over the whole of one")
    return answer
