"""PyPI's real PyTorch on the emulated driver, by the fake runtime. Kernels compute nothing there; copies and fills do.

Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")

# Bound at once, each function that torch imports must be there, also those that no test calls.
pytestmark = pytest.mark.emulated(devices=2, variables={"LD_BIND_NOW": "1"})

COUNT = 1000


def on_device(values: Any, device: str = "cuda:0") -> Any:
    return values.to(device)


def ramp(count: int = COUNT) -> Any:
    return torch.arange(count, dtype=torch.float32)


def test_devices_are_there_with_their_properties() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 2
    properties = torch.cuda.get_device_properties(1)
    assert properties.major >= 7
    assert properties.total_memory > 0
    assert properties.multi_processor_count > 0
    assert torch.cuda.get_device_properties(0).uuid != properties.uuid
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total


def test_copies_go_to_the_device_and_back() -> None:
    source = ramp()
    there = on_device(source)
    assert there.device == torch.device("cuda:0")
    assert torch.equal(there.cpu(), source)
    assert torch.equal(there.clone().cpu(), source)


def test_zeros_are_filled_by_the_driver() -> None:
    there = torch.zeros(COUNT, device="cuda", dtype=torch.uint8)
    assert torch.equal(there.cpu(), torch.zeros(COUNT, dtype=torch.uint8))


def test_copies_go_from_device_to_device() -> None:
    source = ramp()
    other = on_device(source).to("cuda:1")
    assert other.device == torch.device("cuda:1")
    assert torch.equal(other.cpu(), source)


def test_a_device_pointer_is_no_host_memory() -> None:
    there = on_device(ramp())
    reader = multiprocessing.get_context("fork").Process(target=ctypes.string_at, args=(there.data_ptr(), 4))
    reader.start()
    reader.join()
    assert reader.exitcode == -signal.SIGSEGV


def test_streams_and_events_order_copies() -> None:
    source = ramp().pin_memory()
    target = torch.empty(COUNT).pin_memory()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    copied = torch.cuda.Event()
    with torch.cuda.stream(first):
        there = source.to("cuda", non_blocking=True)
        copied.record()
    with torch.cuda.stream(second):
        copied.wait()
        target.copy_(there, non_blocking=True)
    there.record_stream(second)
    second.synchronize()
    assert second.query()
    assert copied.query()
    assert torch.equal(target, source)


def test_an_event_tells_elapsed_time() -> None:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    on_device(ramp())
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) >= 0


def test_pinned_memory_is_known_as_such() -> None:
    assert not ramp().is_pinned()
    pinned = ramp().pin_memory()
    assert pinned.is_pinned()
    assert torch.equal(pinned, ramp())
    again = torch.empty(COUNT, pin_memory=True)
    assert again.is_pinned()


def test_memory_that_another_registers_is_pinned_to_torch() -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    torch.cuda.init()
    host = torch.arange(1 << 20, dtype=torch.float32)
    there = ctypes.c_void_p(host.data_ptr())
    assert driver.cuMemHostRegister_v2(there, ctypes.c_size_t(host.nbytes), 0) == 0
    assert host.is_pinned()
    assert torch.equal(host.to("cuda", non_blocking=True).cpu(), host)
    assert driver.cuMemHostUnregister(there) == 0
    assert not host.is_pinned()


def test_a_kernel_is_launched_and_computes_nothing() -> None:
    there = on_device(ramp())
    there.add_(1)
    torch.cuda.synchronize()
    assert torch.equal(there.cpu(), ramp())


def test_dlpack_goes_both_ways_over_the_same_memory() -> None:
    there = on_device(ramp())
    assert there.__dlpack_device__() == (2, 0)
    again = torch.from_dlpack(there)
    assert again.data_ptr() == there.data_ptr()
    stream = torch.cuda.Stream()
    capsule = there.__dlpack__(stream=stream.cuda_stream, max_version=(1, 0))
    assert torch.equal(torch.from_dlpack(capsule).cpu(), ramp())


def test_dlpack_export_makes_the_consumers_stream_wait() -> None:
    source = ramp().pin_memory()
    producer, consumer = torch.cuda.Stream(), torch.cuda.Stream()
    target = torch.empty(COUNT).pin_memory()
    with torch.cuda.stream(producer):
        there = source.to("cuda", non_blocking=True)
        capsule = there.__dlpack__(stream=consumer.cuda_stream)
    with torch.cuda.stream(consumer):
        target.copy_(torch.from_dlpack(capsule), non_blocking=True)
    consumer.synchronize()
    assert torch.equal(target, source)


def test_the_dlpack_exchange_api_is_there() -> None:
    assert "dlpack_exchange_api" in repr(torch.Tensor.__dlpack_c_exchange_api__)


def test_memory_statistics_follow_the_driver() -> None:
    before = torch.cuda.memory_allocated()
    there = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - before == 1 << 20
    del there
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == before


def test_too_much_memory_is_torchs_own_out_of_memory_error() -> None:
    _, total = torch.cuda.mem_get_info()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2 * total, dtype=torch.uint8, device="cuda")
    assert torch.equal(on_device(ramp()).cpu(), ramp())


def test_no_stream_is_being_captured() -> None:
    assert not torch.cuda.is_current_stream_capturing()


def test_a_captured_copy_runs_when_its_graph_is_replayed() -> None:
    source, target = ramp().to("cuda"), torch.zeros(COUNT, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert torch.cuda.is_current_stream_capturing()
        target.copy_(source)
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.equal(target.cpu(), torch.zeros(COUNT))
    graph.replay()
    assert torch.equal(target.cpu(), ramp())
