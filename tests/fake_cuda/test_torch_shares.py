"""How PyPI's real PyTorch shares device memory, on the emulated driver: DLPack's C exchange API, pools of memory that others
allocate, and its own CUDA IPC between processes.

Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")

pytestmark = pytest.mark.emulated(devices=2)

COUNT = 1000


CURRENT_WORK_STREAM = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))


class ExchangeApi(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.2."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("from_python", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ctypes.c_void_p))),
        ("to_python", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))),
        ("view", ctypes.c_void_p),
        (
            "current_work_stream",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)),
        ),
    ]


def exchange_api() -> Any:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = pointer_of(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    return ExchangeApi.from_address(address)


def ramp() -> Any:
    return torch.arange(COUNT, dtype=torch.float32)


def test_the_exchange_api_names_the_current_stream_of_each_device() -> None:
    api = exchange_api()
    assert (api.major, api.minor) >= (1, 2)
    for ordinal in range(2):
        stream = torch.cuda.Stream(ordinal)
        told = ctypes.c_void_p()
        with torch.cuda.stream(stream):
            assert api.current_work_stream(2, ordinal, ctypes.byref(told)) == 0
        assert told.value == stream.cuda_stream


def test_the_exchange_api_exports_a_tensor_without_synchronising() -> None:
    there = ramp().to("cuda:1")
    managed = ctypes.c_void_p()
    assert exchange_api().from_python(there, ctypes.byref(managed)) == 0
    # DLManagedTensorVersioned: version, context, deleter and flags, then the tensor, which begins with its data.
    data = ctypes.c_void_p.from_address(managed.value + 32)
    assert data.value == there.data_ptr()
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p).from_address(managed.value + 16)
    deleter(managed)


ALLOCATOR = """
#include <stddef.h>
int cuMemAlloc_v2(unsigned long long*, size_t);
int cuMemFree_v2(unsigned long long);
int allocations, frees;
void* allocate(size_t bytes, int device, void* stream) {
  unsigned long long address = 0;
  ++allocations;
  return cuMemAlloc_v2(&address, bytes) ? NULL : (void*)address;
}
void release(void* pointer, size_t bytes, int device, void* stream) {
  ++frees;
  cuMemFree_v2((unsigned long long)pointer);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_pool_takes_its_memory_from_an_allocator_of_ours(tmp_path: Path) -> None:
    source, library = tmp_path / "allocator.c", tmp_path / "allocator.so"
    source.write_text(ALLOCATOR)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    allocator = torch.cuda.memory.CUDAPluggableAllocator(str(library), "allocate", "release")
    counts = ctypes.CDLL(str(library))
    pool = torch.cuda.MemPool(allocator.allocator())
    with torch.cuda.use_mem_pool(pool):
        there = ramp().to("cuda")
    assert ctypes.c_int.in_dll(counts, "allocations").value == 1
    assert torch.equal(there.cpu(), ramp())
    del there, pool
    torch.cuda.empty_cache()
    assert ctypes.c_int.in_dll(counts, "frees").value == 1


def double_it(inbox: Any, outbox: Any) -> None:
    """The other process: tells what it sees, then overwrites it, and drops it before it says so."""
    there = inbox.get()
    outbox.put((there.device.index, there.tolist()))
    there.copy_(2 * ramp())
    torch.cuda.synchronize()
    del there
    outbox.put("overwritten")


def test_torchs_own_ipc_shares_a_tensor_with_another_process() -> None:
    context = torch.multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    other = context.Process(target=double_it, args=(inbox, outbox))
    other.start()
    there = ramp().to("cuda:1")
    inbox.put(there)
    ordinal, seen = outbox.get()
    assert ordinal == 1
    assert seen == ramp().tolist()
    assert outbox.get() == "overwritten"
    assert torch.equal(there.cpu(), 2 * ramp())
    other.join()
    assert other.exitcode == 0


def test_an_interprocess_event_is_opened_by_its_handle() -> None:
    context = torch.multiprocessing.get_context("spawn")
    stream = torch.cuda.Stream()
    event = torch.cuda.Event(interprocess=True)
    with torch.cuda.stream(stream):
        ramp().to("cuda")
        event.record()
    other = context.Process(target=wait_for, args=(event.ipc_handle(),))
    other.start()
    other.join()
    assert other.exitcode == 0


def wait_for(handle: bytes) -> None:
    event = torch.cuda.Event.from_ipc_handle(torch.device("cuda:0"), handle)
    event.wait(torch.cuda.Stream())
    event.synchronize()
    assert event.query()
