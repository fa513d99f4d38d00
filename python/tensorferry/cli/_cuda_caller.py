"""A caller with a GPU, by CUDA's driver alone: in the place of PyTorch or CuPy, which the demo shall not need."""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

from .. import Error


class Array:
    """Device memory that tensorferry has not made, as any library shows its own."""

    def __init__(self, address: int, of: NDArray[Any]) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": of.shape,
            "typestr": of.dtype.str,
            "data": (address, False),
            "strides": None,
            "stream": 1,  # written on the legacy default stream
        }


class Caller:
    """Works on the first device, on its legacy default stream; that device's primary context becomes current."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.emulated = hasattr(self._driver, "fakecuda_version")  # tests/fake_cuda
        context, name = ctypes.c_void_p(), ctypes.create_string_buffer(128)
        self._call("cuInit", 0)
        self._call("cuDeviceGetName", name, len(name), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._call("cuCtxSetCurrent", context)
        self.device = name.value.decode(errors="replace")

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._driver, function)(*arguments):
            raise Error(f"{function} of the CUDA driver says {code}", "INTERNAL")

    def write(self, there: Any, values: NDArray[Any]) -> Any:
        """Puts the values into a device array of any library's; returns it."""
        address = ctypes.c_uint64(there.__cuda_array_interface__["data"][0])
        self._call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes))
        return there

    def array(self, values: NDArray[Any]) -> Array:
        """A new one with these values. Its memory is the process's until it ends."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(values.nbytes))
        made = Array(address.value, values)
        self.write(made, values)
        return made
