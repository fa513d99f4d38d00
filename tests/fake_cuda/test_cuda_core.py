"""NVIDIA's own cuda.core, unmodified, on the emulated driver."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")

pytestmark = pytest.mark.emulated(devices=2)

BYTES = 4096


def device(ordinal: int = 0) -> Any:
    chosen = core.Device(ordinal)
    chosen.set_current()
    return chosen


def bytes_of(buffer: Any, stream: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A copy in pinned host memory."""
    host = core.LegacyPinnedMemoryResource().allocate(buffer.size, stream=stream)
    buffer.copy_to(host, stream=stream)
    stream.sync()
    copied = np.from_dlpack(host).view(np.uint8).copy()
    host.close(stream)
    return copied


def filled(of: Any, stream: Any, value: int, resource: Any = None) -> Any:
    buffer = (resource or of).allocate(BYTES, stream=stream)
    buffer.fill(value, stream=stream)
    return buffer


def test_devices_tell_of_themselves() -> None:
    assert len(core.Device.get_all_devices()) == 2
    first, second = core.Device(0), core.Device(1)
    assert first.uuid != second.uuid
    assert first.name
    assert first.compute_capability >= (7, 0)
    assert first.properties.multiprocessor_count > 0


def test_a_buffer_is_filled_and_copied_in_a_streams_order() -> None:
    gpu = device()
    stream = gpu.create_stream()
    buffer = filled(gpu, stream, 7)
    assert buffer.is_device_accessible
    assert not buffer.is_host_accessible
    assert np.all(bytes_of(buffer, stream) == 7)
    buffer.close(stream)


def test_an_event_orders_two_streams() -> None:
    gpu = device()
    first, second = gpu.create_stream(), gpu.create_stream()
    buffer = filled(gpu, first, 9)
    event = first.record()
    second.wait(event)
    assert np.all(bytes_of(buffer, second) == 9)
    assert event.is_done
    buffer.close(second)


def test_events_tell_elapsed_time() -> None:
    gpu = device()
    stream = gpu.create_stream()
    options = core.EventOptions(timing_enabled=True)
    begin, end = stream.record(options=options), stream.record(options=options)
    end.sync()
    assert end - begin >= 0


def test_a_buffer_is_copied_to_a_device_that_its_pool_lets_in() -> None:
    gpu = device(0)
    stream = gpu.create_stream()
    resource = core.DeviceMemoryResource(gpu, core.DeviceMemoryResourceOptions())
    resource.peer_accessible_by = [1]
    here = filled(gpu, stream, 3, resource)
    stream.sync()
    other = device(1)
    there_stream = other.create_stream()
    there = other.allocate(BYTES, stream=there_stream)
    there.copy_from(here, stream=there_stream)
    assert np.all(bytes_of(there, there_stream) == 3)


def test_a_buffer_exports_dlpack_on_its_device() -> None:
    gpu = device()
    stream = gpu.create_stream()
    buffer = filled(gpu, stream, 5)
    stream.sync()
    kind, ordinal = buffer.__dlpack_device__()
    assert (int(kind), ordinal) == (2, 0)
    view = core.utils.StridedMemoryView.from_dlpack(buffer, stream_ptr=int(stream.handle))
    assert view.ptr == int(buffer.handle)
    assert view.is_device_accessible
    assert view.shape == (BYTES,)


def test_an_array_interface_is_viewed_without_a_copy() -> None:
    gpu = device()
    stream = gpu.create_stream()
    buffer = filled(gpu, stream, 5)
    stream.sync()

    interface = {
        "version": 3,
        "shape": (BYTES // 4,),
        "typestr": "<f4",
        "data": (int(buffer.handle), False),
        "strides": None,
        "stream": 1,
    }
    exporter = SimpleNamespace(__cuda_array_interface__=interface)
    view = core.utils.StridedMemoryView.from_cuda_array_interface(exporter, stream_ptr=int(stream.handle))
    assert view.ptr == int(buffer.handle)
    assert view.dtype == np.float32


def test_pinned_memory_is_accessible_on_both_sides() -> None:
    gpu = device()
    stream = gpu.create_stream()
    pinned = core.LegacyPinnedMemoryResource().allocate(BYTES, stream=stream)
    assert pinned.is_host_accessible
    assert pinned.is_device_accessible
    np.from_dlpack(pinned).view(np.uint8)[:] = 11
    buffer = gpu.allocate(BYTES, stream=stream)
    buffer.copy_from(pinned, stream=stream)
    assert np.all(bytes_of(buffer, stream) == 11)
    pinned.close(stream)


def test_virtual_memory_is_mapped_and_grows() -> None:
    gpu = device()
    stream = gpu.create_stream()
    resource = core.VirtualMemoryResource(gpu)
    buffer = resource.allocate(2 << 20, stream=stream)
    buffer.fill(1, stream=stream)
    stream.sync()
    grown = resource.modify_allocation(buffer, 4 << 20)
    assert grown.size >= 4 << 20
    grown.fill(2, stream=stream)
    assert np.all(bytes_of(grown, stream)[:BYTES] == 2)
    grown.close(stream)


def answer_filled(buffer: Any, event_handle: Any, connection: Any) -> None:
    """The other process: waits on the device for the owner's event, reads, then fills in turn."""
    gpu = device()
    stream = gpu.create_stream()
    ready = core.Event.from_ipc_descriptor(event_handle)
    stream.wait(ready)
    connection.send(int(bytes_of(buffer, stream)[0]))
    buffer.fill(22, stream=stream)
    stream.sync()
    connection.send("filled")


def test_a_pools_buffer_is_shared_with_another_process_in_the_order_of_an_event() -> None:
    gpu = device()
    stream = gpu.create_stream()
    resource = core.DeviceMemoryResource(gpu, core.DeviceMemoryResourceOptions(max_size=64 << 20, ipc_enabled=True))
    buffer = filled(gpu, stream, 21, resource)
    event = stream.record(options=core.EventOptions(ipc_enabled=True))
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=answer_filled, args=(buffer, event.ipc_descriptor, there))
    other.start()
    there.close()
    assert here.recv() == 21
    assert here.recv() == "filled"
    other.join()
    assert other.exitcode == 0
    assert np.all(bytes_of(buffer, stream) == 22)
    buffer.close(stream)
    resource.close()


def test_a_missing_wait_is_reported_and_a_lazy_scheduler_makes_the_result_wrong() -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    gpu = device()
    first, second = gpu.create_stream(), gpu.create_stream()
    buffer = filled(gpu, first, 1)
    first.sync()
    buffer.fill(2, stream=first)
    seen = bytes_of(buffer, second)
    text = ctypes.create_string_buffer(4096)
    driver.fakecuda_reports(text, ctypes.c_size_t(4096))
    driver.fakecuda_clear_reports()
    assert b"unordered" in text.value
    if os.environ["FAKECUDA_SCHED"] == "lazy":
        assert np.all(seen == 1)
    first.sync()
    buffer.close(first)


def test_a_captured_fill_runs_when_its_graph_is_launched() -> None:
    gpu = device()
    stream = gpu.create_stream()
    buffer = filled(gpu, stream, 1)
    stream.sync()
    builder = gpu.create_graph_builder().begin_building()
    buffer.fill(2, stream=builder)
    graph = builder.end_building().complete()
    assert np.all(bytes_of(buffer, stream) == 1)
    graph.launch(stream)
    assert np.all(bytes_of(buffer, stream) == 2)
    buffer.close(stream)
