"""NVIDIA's own cuda.bindings, unmodified, on the emulated driver: what its import asks for, and calls through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed: pip install --group cuda")

pytestmark = pytest.mark.emulated()

BYTES = 1 << 20


def done(answer: Any) -> Any:
    """The values of a call that must succeed."""
    code, *values = answer
    assert code == driver.CUresult.CUDA_SUCCESS
    return values[0] if len(values) == 1 else tuple(values)


def context() -> Any:
    done(driver.cuInit(0))
    made = done(driver.cuDevicePrimaryCtxRetain(0))
    done(driver.cuCtxSetCurrent(made))
    return made


def test_the_driver_has_a_version_and_devices_before_any_context() -> None:
    assert done(driver.cuDriverGetVersion()) >= 11040
    done(driver.cuInit(0))
    assert done(driver.cuDeviceGetCount()) >= 1
    assert done(driver.cuDeviceGetName(64, 0)).rstrip(b"\0") != b""


def test_errors_have_names_and_texts() -> None:
    assert done(driver.cuGetErrorName(driver.CUresult.CUDA_ERROR_NOT_READY)) == b"CUDA_ERROR_NOT_READY"
    assert done(driver.cuGetErrorString(driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY))


def test_memory_is_copied_there_and_back() -> None:
    context()
    pointer = done(driver.cuMemAlloc(BYTES))
    stream = done(driver.cuStreamCreate(0))
    source = np.arange(BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    done(driver.cuMemcpyHtoDAsync(pointer, source.ctypes.data, BYTES, stream))
    done(driver.cuMemcpyDtoHAsync(target.ctypes.data, pointer, BYTES, stream))
    done(driver.cuStreamSynchronize(stream))
    assert np.array_equal(target, source)
    done(driver.cuStreamDestroy(stream))
    done(driver.cuMemFree(pointer))


def test_virtual_memory_goes_through_a_descriptor() -> None:
    import os

    context()
    kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = 0
    properties.requestedHandleTypes = kind
    minimum = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    granularity = done(driver.cuMemGetAllocationGranularity(properties, minimum))
    handle = done(driver.cuMemCreate(granularity, properties, 0))
    descriptor = done(driver.cuMemExportToShareableHandle(handle, kind, 0))
    imported = done(driver.cuMemImportFromShareableHandle(descriptor, kind))
    os.close(descriptor)
    address = done(driver.cuMemAddressReserve(granularity, 0, 0, 0))
    done(driver.cuMemMap(address, granularity, 0, imported, 0))
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    done(driver.cuMemSetAccess(address, granularity, [access], 1))
    done(driver.cuMemsetD8(address, 5, granularity))
    target = np.zeros(16, np.uint8)
    done(driver.cuMemcpyDtoH(target.ctypes.data, address, target.nbytes))
    assert np.all(target == 5)
    done(driver.cuMemUnmap(address, granularity))
    done(driver.cuMemAddressFree(address, granularity))
    done(driver.cuMemRelease(imported))
    done(driver.cuMemRelease(handle))


def test_an_event_is_not_ready_before_what_it_follows_has_run() -> None:
    context()
    stream = done(driver.cuStreamCreate(1))
    event = done(driver.cuEventCreate(2))
    done(driver.cuEventRecord(event, stream))
    done(driver.cuEventSynchronize(event))
    done(driver.cuEventQuery(event))
    done(driver.cuEventDestroy(event))
    done(driver.cuStreamDestroy(stream))
