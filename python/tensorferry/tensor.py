"""Tensors of a response."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _server


class Tensor:
    """One output: the receiver's own memory, writable, valid as long as it or an array over it is held. Also what
    `Model.empty` gives on a GPU.

    That holds also when the stub that answered is killed, restarted or unloaded, or the server is closed. `np.asarray` and
    `from_dlpack` of any framework are views, not copies; so is a ``bfloat16`` tensor by DLPack, and by NumPy where ml_dtypes
    is installed.

    On a GPU (`device` says so) it is complete, and its memory is reused only after the work that its holders have put on the
    streams they named by then: ``__dlpack__(stream=...)`` of PyTorch, CuPy, JAX or cuda.core names one, and
    ``__cuda_array_interface__`` the legacy default stream. Nothing waits on a thread, but for `numpy`, which copies.
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

    @property
    def device(self) -> str:
        """ "cpu", or "cuda:0" and so on, by this process's count."""
        ordinal = self._ordinal()
        return "cpu" if ordinal is None else f"cuda:{ordinal}"

    def _ordinal(self) -> int | None:
        return None if self._array is not None else _server.device_of(self._owner)

    def numpy(self) -> NDArray[Any]:
        """A view of the memory; for ``bytes`` tensors an object array, decoded once. Of a GPU's a copy, each time.

        Raises:
            ValueError: the model answered with bytes that are no such tensor.
            TypeError: it is ``bfloat16``, and ml_dtypes is not installed: use DLPack.
        """
        if self._array is None and self._ordinal() is not None:
            copy = _server.copy_to_host(self._owner)
            return _bfloat16(copy) if self._dtype == "bfloat16" else _server.array_of(copy)
        if self._array is None:
            self._array = _server.decode_strings(self._owner) if self._dtype == "bytes" else _bfloat16(self._owner)
        return self._array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        array = self._array if self._array is not None else self.numpy()
        if copy is False and self._ordinal() is not None:
            raise ValueError(f"a tensor on {self.device} is no array without a copy")
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"a {self.dtype} tensor is not {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if self.dtype == "bfloat16" or self._ordinal() is not None:
            if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
                raise BufferError(f"the tensor lies on {self.device}: let the consumer move it to another device")
            return _server.export_owner(self._owner, max_version, bool(copy), stream)
        options = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return self.numpy().__dlpack__(**{key: value for key, value in options.items() if value is not None})

    def __dlpack_device__(self) -> tuple[int, int]:
        ordinal = self._ordinal()
        return (1, 0) if ordinal is None else (2, ordinal)

    # Not by __getattr__: NumPy asks each tensor for what it has not, and that would be a call each time.
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Of a tensor on a GPU; others don't have it, which consumers look for."""
        if self._ordinal() is None:
            raise AttributeError("'Tensor' object has no attribute '__cuda_array_interface__'")
        interface: dict[str, Any] = _server.cuda_array_interface(self._owner)
        return interface

    def __repr__(self) -> str:
        place = "" if self._ordinal() is None else f", device='{self.device}'"
        return f"Tensor(dtype={self.dtype}, shape={self.shape}{place})"


def _bfloat16(owner: Any) -> NDArray[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise TypeError("NumPy has no bfloat16: install ml_dtypes, or use from_dlpack of a framework that has it") from error
    return _server.bits(owner).view(ml_dtypes.bfloat16)


def give(answer: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
    """Gives an answer, or an array over the whole of one, to the next `infer` that takes it as an input; returns it.

    As with an array from `Model.empty`, that `infer` moves it where the memory allows (an input that the same model passed
    through; anything else is copied once). The array turns read-only, and giving it again is an error.

    Raises:
        TypeError: it is no answer of tensorferry.
    """
    memory = getattr(answer, "_owner", None)
    if memory is None:
        memory = answer.numpy() if isinstance(answer, Tensor) else answer
    if not _server.offer(memory):
        raise TypeError("give() takes a tensor of a response, or an array over the whole of one")
    return answer
