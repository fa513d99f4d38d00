"""Prints, as JSON, where this interpreter's wheels keep the headers that we build on; "" is "not there"."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from pathlib import Path


def package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def folder_with(package: str, below: str, file: str) -> str:
    folder = package_folder(package)
    found = folder is not None and (folder / below / file).exists()
    return str(folder / below) if found else ""


def nvidia_folder(header: str) -> str:
    """NVIDIA's wheels lie in a folder that is named by CUDA's version, or (CUDA 12) by the library."""
    nvidia = package_folder("nvidia")
    found = sorted(nvidia.glob(f"*/include/{header}")) if nvidia else []
    return str(found[-1])[: -len(header) - 1] if found else ""


print(
    json.dumps(
        {
            "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            "numpy": folder_with("numpy", "_core/include", "numpy/arrayobject.h"),  # NumPy 2's place
            "dlpack": folder_with("tvm_ffi", "include", "dlpack/dlpack.h"),
            "nvtx": nvidia_folder("nvtx3/nvToolsExt.h"),  # nvidia-nvtx
            "cuda": nvidia_folder("cuda.h"),  # nvidia-cuda-runtime
            "pybind11": folder_with("pybind11", "share/cmake/pybind11", "pybind11Config.cmake"),
        }
    )
)
