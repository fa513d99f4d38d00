"""PyTorch with expandable segments on the emulated driver: its memory is virtual, in chunks that are mapped side by side.

Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

import ctypes

import pytest
import test_torch_on_it as on_it
import test_torch_shares as shares

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")

pytestmark = pytest.mark.emulated(
    devices=2, schedulers=("eager", "lazy"), variables={"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
)

CHUNK = 20 << 20  # torch's, for tensors of a size

test_copies_go_to_the_device_and_back = on_it.test_copies_go_to_the_device_and_back
test_streams_and_events_order_copies = on_it.test_streams_and_events_order_copies
test_dlpack_export_makes_the_consumers_stream_wait = on_it.test_dlpack_export_makes_the_consumers_stream_wait
test_torchs_own_ipc_shares_a_tensor = shares.test_torchs_own_ipc_shares_a_tensor_with_another_process


def test_a_tensor_lies_in_several_chunks() -> None:
    there = torch.empty(3 * CHUNK, dtype=torch.uint8, device="cuda")
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    driver = ctypes.CDLL("libcuda.so.1")
    address = ctypes.c_uint64(there.data_ptr())
    assert driver.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), address) == 0
    assert size.value < there.nbytes
    source = torch.arange(3 * CHUNK).to(torch.uint8)
    there.copy_(source)
    assert torch.equal(there.cpu(), source)
