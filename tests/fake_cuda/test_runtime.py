"""The fake CUDA runtime as a C program sees it, in both versions: by ctypes, without any of NVIDIA's packages."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection
from emulated import LIBRARIES

pytestmark = pytest.mark.emulated(devices=2)

BYTES = 4096
MEMORY_ALLOCATION, INITIALIZATION, NOT_READY, NOT_SUPPORTED = 2, 3, 600, 801
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2

both = pytest.mark.parametrize("major", [12, 13])


class PointerAttributes(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("device", ctypes.c_int),
        ("on_device", ctypes.c_void_p),
        ("on_host", ctypes.c_void_p),
        ("beyond", ctypes.c_long * 8),  # CUDA 13's only
    ]


def runtime(major: int) -> ctypes.CDLL:
    return ctypes.CDLL(f"libcudart.so.{major}")


def allocated(cuda: ctypes.CDLL, size: int = BYTES) -> ctypes.c_void_p:
    pointer = ctypes.c_void_p()
    assert cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
    return pointer


def current(cuda: ctypes.CDLL) -> int:
    device = ctypes.c_int(-1)
    assert cuda.cudaGetDevice(ctypes.byref(device)) == 0
    return device.value


def attributes(cuda: ctypes.CDLL, pointer: Any) -> PointerAttributes:
    found = PointerAttributes(beyond=(0x55,) * 8)
    assert cuda.cudaPointerGetAttributes(ctypes.byref(found), pointer) == 0
    assert set(found.beyond) == {0x55}, "it wrote beyond what CUDA 12's struct has"
    return found


@both
def test_each_symbol_has_the_version_that_clients_ask_for(major: int) -> None:
    name = f"libcudart.so.{major}"
    with (LIBRARIES / name).open("rb") as file:
        elf = ELFFile(file)
        assert {tag.soname for tag in elf.get_section_by_name(".dynamic").iter_tags() if tag.entry.d_tag == "DT_SONAME"} == {
            name
        }
        versions = next(section for section in elf.iter_sections() if isinstance(section, GNUVerDefSection))
        assert name in {auxiliary.name for _, entries in versions.iter_versions() for auxiliary in entries}


@both
def test_it_says_its_own_version(major: int) -> None:
    version = ctypes.c_int()
    assert runtime(major).cudaRuntimeGetVersion(ctypes.byref(version)) == 0
    assert version.value // 1000 == major


@both
def test_bytes_are_copied_there_and_back(major: int) -> None:
    cuda = runtime(major)
    there = allocated(cuda)
    source, target = ctypes.create_string_buffer(b"there", BYTES), ctypes.create_string_buffer(BYTES)
    assert cuda.cudaMemcpy(there, source, ctypes.c_size_t(BYTES), HOST_TO_DEVICE) == 0
    assert cuda.cudaMemcpy(target, there, ctypes.c_size_t(BYTES), DEVICE_TO_HOST) == 0
    assert target.raw == source.raw
    assert cuda.cudaFree(there) == 0


@both
def test_nothing_may_be_allocated_and_freed(major: int) -> None:
    cuda = runtime(major)
    assert allocated(cuda, 0).value is None
    assert cuda.cudaFree(None) == 0
    assert cuda.cudaFreeHost(None) == 0


@both
def test_pointers_are_told_apart(major: int) -> None:
    cuda = runtime(major)
    there, pinned = allocated(cuda), ctypes.c_void_p()
    assert cuda.cudaHostAlloc(ctypes.byref(pinned), ctypes.c_size_t(BYTES), 0) == 0
    of_device, of_pinned = attributes(cuda, there), attributes(cuda, pinned)
    assert (of_device.type, of_device.device, of_device.on_device) == (2, current(cuda), there.value)
    assert (of_pinned.type, of_pinned.on_host) == (1, pinned.value)
    assert attributes(cuda, ctypes.create_string_buffer(8)).type == 0
    assert cuda.cudaFree(there) == 0
    assert cuda.cudaFreeHost(pinned) == 0


@both
def test_each_thread_has_a_current_device(major: int) -> None:
    cuda = runtime(major)
    seen = []
    assert cuda.cudaSetDevice(1) == 0
    other = threading.Thread(target=lambda: seen.append(current(cuda)))
    other.start()
    other.join()
    assert (current(cuda), seen) == (1, [0])
    assert cuda.cudaSetDevice(0) == 0
    assert cuda.cudaSetDevice(2) != 0
    assert cuda.cudaGetLastError() != 0
    assert current(cuda) == 0


@both
def test_an_error_is_remembered_by_its_thread_until_it_is_asked_for(major: int) -> None:
    cuda = runtime(major)
    assert cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1 << 60)) == MEMORY_ALLOCATION
    allocated(cuda)
    seen = []
    other = threading.Thread(target=lambda: seen.append(cuda.cudaGetLastError()))
    other.start()
    other.join()
    assert seen == [0]
    assert cuda.cudaPeekAtLastError() == MEMORY_ALLOCATION
    assert cuda.cudaGetLastError() == MEMORY_ALLOCATION
    assert cuda.cudaGetLastError() == 0


@both
def test_errors_have_the_runtimes_names(major: int) -> None:
    cuda = runtime(major)
    cuda.cudaGetErrorName.restype = cuda.cudaGetErrorString.restype = ctypes.c_char_p
    assert cuda.cudaGetErrorName(NOT_READY) == b"cudaErrorNotReady"
    assert cuda.cudaGetErrorString(NOT_READY)
    assert cuda.cudaGetErrorName(12345) == b"unrecognized error code"


@both
def test_what_is_not_emulated_is_there_and_says_so(major: int) -> None:
    cuda = runtime(major)
    assert cuda.cudaMallocArray(None, None, 0, 0, 0) == NOT_SUPPORTED
    assert cuda.cudaGetLastError() == NOT_SUPPORTED


@both
def test_a_callback_is_called_when_its_stream_comes_to_it(major: int) -> None:
    cuda = runtime(major)
    stream = ctypes.c_void_p()
    assert cuda.cudaStreamCreate(ctypes.byref(stream)) == 0
    told: list[tuple[int, int]] = []
    with_status = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
        lambda _, status, data: told.append((status, data))
    )
    plain = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: told.append((0, data)))
    assert cuda.cudaStreamAddCallback(stream, with_status, ctypes.c_void_p(1), 0) == 0
    assert cuda.cudaLaunchHostFunc(stream, plain, ctypes.c_void_p(2)) == 0
    assert cuda.cudaStreamSynchronize(stream) == 0
    assert told == [(0, 1), (0, 2)]
    assert cuda.cudaStreamDestroy(stream) == 0


@both
def test_a_forked_child_is_told_that_it_must_not_use_what_its_parent_has_begun(major: int) -> None:
    cuda = runtime(major)
    allocated(cuda)
    child = os.fork()
    if child == 0:
        os._exit(cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(BYTES)))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == INITIALIZATION
    allocated(cuda)
