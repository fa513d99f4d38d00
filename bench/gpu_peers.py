"""A device tensor to another process, which copies it on the device, and the copy back: by tensorferry and by other means.

Each mechanism's `call()` fills the input on the device (the caller's own work), sends it, and returns when the answer can be
used here. `counts()` is what it has done since it began, the work itself left out: threads that waited for the device,
copies on it, and handles of memory that were opened. Nothing where nobody counts.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import tensorferry
from peers import Unavailable
from tensorferry import _server

COUNTED = ("waits", "copies", "opens")
KINDS = {
    "cuStreamSynchronize": "waits",
    "cuEventSynchronize": "waits",
    "cuMemcpyDtoDAsync": "copies",
    "cuIpcOpenMemHandle": "opens",
}
SMALLEST = 2 << 20  # what one allocation of the driver's takes, so that a handle names nothing else
MODELS = Path(__file__).resolve().parent / "gpu_models"
MODEL = "copy_on_device"
CALL, END = b"x", pickle.dumps(None)  # what goes through a pipe raw, and what ends a worker


class Mechanism(Protocol):
    name: str

    def prepare(self, size: int) -> None: ...
    def call(self) -> Any: ...
    def last_byte(self) -> int:
        """Of the last answer, to be compared with what was sent."""
        ...

    def counts(self) -> dict[str, int] | None: ...
    def close(self) -> None: ...


class Gpu:
    """The first device's driver, by name: raises where it refuses, counts what `KINDS` names."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
            from cuda.core import Device
        except ImportError as error:
            raise Unavailable(f"{error}: pip install --group cuda") from None
        Device(0).set_current()
        self.driver: Any = driver
        self.counted: Counter[str] = Counter()
        self.stream = self("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING

    def __call__(self, name: str, *arguments: Any) -> Any:
        code, *results = getattr(self.driver, name)(*arguments)
        if int(code):
            raise RuntimeError(f"{name}: {code.name}")
        if kind := KINDS.get(name):
            self.counted[kind] += 1
        return results[0] if results else None

    def fill(self, address: int, value: int, size: int) -> None:
        self("cuMemsetD8Async", address, value, size, self.stream)

    def byte(self, address: int) -> int:
        seen = np.zeros(1, np.uint8)
        self("cuMemcpyDtoHAsync", seen.ctypes.data, address, 1, self.stream)
        self.driver.cuStreamSynchronize(self.stream)
        return int(seen[0])

    def handle(self, address: int) -> bytes:
        return _bytes(self("cuIpcGetMemHandle", address))

    def open(self, handle: bytes) -> int:
        return int(self("cuIpcOpenMemHandle", _handle(self.driver.CUipcMemHandle(), handle), 1))

    def event_handle(self, event: Any) -> bytes:
        return _bytes(self("cuIpcGetEventHandle", event))

    def open_event(self, handle: bytes) -> Any:
        return self("cuIpcOpenEventHandle", _handle(self.driver.CUipcEventHandle(), handle))


# Versions of cuda.bindings differ in how they show a handle's 64 bytes.
def _bytes(handle: Any) -> bytes:
    return ctypes.string_at(handle.getPtr(), 64)


def _handle(empty: Any, content: bytes) -> Any:
    ctypes.memmove(empty.getPtr(), content, 64)
    return empty


class Ferry:
    """tensorferry: the input is made in the model's device memory, the output comes back in it."""

    name = "tensorferry"

    def __init__(self) -> None:
        self.gpu = Gpu()
        self.server = tensorferry.Server(MODELS)
        self.model = self.server.model(MODEL)
        self.pids = (os.getpid(), int(self.server.statistics()[MODEL]["instances"][0]["pid"]))
        self.size = self.value = 0
        self.answer: Any = None

    def prepare(self, size: int) -> None:
        self.size, self.answer = size, None

    def call(self) -> Any:
        from cuda.core.utils import StridedMemoryView

        self.value = (self.value + 1) % 251
        given = self.model.empty((self.size,), np.uint8, device="cuda:0")
        view: Any = StridedMemoryView.from_dlpack(given, stream_ptr=int(self.gpu.stream))
        self.gpu.fill(view.ptr, self.value, self.size)
        del view
        self.answer = self.model.infer({"IN": given})["OUT"]
        return self.answer

    def last_byte(self) -> int:
        return int(self.answer.numpy()[-1])

    def counts(self) -> dict[str, int]:
        total = dict.fromkeys(COUNTED, 0)
        for pid in self.pids:
            for sample in _server.read_counters(pid):
                labels = dict(sample["labels"])
                if sample["name"] == "host_waits":
                    total["waits"] += sample["value"]
                if sample["name"] == "copies" and labels.get("kind") == "d2d" and not labels.get("device"):
                    total["copies"] += sample["value"]
        return total

    def close(self) -> None:
        self.answer = None
        self.server.close()


class _Other:
    """A second process, spawned since CUDA doesn't outlive a fork, and a pipe to it."""

    name = "?"

    def __init__(self, worker: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def close(self) -> None:
        self.pipe.send_bytes(END)
        self.process.join(30)


class EventPeer(_Other):
    """Buffers that are opened once, interprocess events both ways: the least that such a crossing takes. A thread that waits
    for a `blocking` event sleeps, for another it spins."""

    def __init__(self, blocking: bool) -> None:
        self.name = f"opened once, {'blocking' if blocking else 'spinning'} event waits"
        super().__init__(_event_worker)
        self.gpu = gpu = Gpu()
        self.value = self.size = self.input = self.output = 0
        flags = 2 | 4 | int(blocking)  # CU_EVENT_DISABLE_TIMING, INTERPROCESS, BLOCKING_SYNC
        self.ready, self.done = gpu("cuEventCreate", flags), gpu("cuEventCreate", flags)
        self.pipe.send([gpu.event_handle(event) for event in (self.ready, self.done)])

    def prepare(self, size: int) -> None:
        gpu, before = self.gpu, self.input
        if self.output:
            gpu("cuIpcCloseMemHandle", self.output)
        self.size, self.input = size, int(gpu("cuMemAlloc", max(size, SMALLEST)))
        self.pipe.send((size, gpu.handle(self.input)))
        self.output = gpu.open(self.pipe.recv())
        if before:
            gpu("cuMemFree", before)

    def call(self) -> Any:
        gpu = self.gpu
        self.value = (self.value + 1) % 251
        gpu.fill(self.input, self.value, self.size)
        gpu("cuEventRecord", self.ready, gpu.stream)
        self.pipe.send_bytes(CALL)
        self.pipe.recv_bytes()
        gpu("cuEventSynchronize", self.done)

    def last_byte(self) -> int:
        return self.gpu.byte(self.output + self.size - 1)

    def counts(self) -> dict[str, int]:
        return {kind: self.gpu.counted[kind] for kind in COUNTED}  # the other process waits for nothing and opens once


def _event_worker(pipe: Any) -> None:
    gpu = Gpu()
    ready, done = (gpu.open_event(handle) for handle in pipe.recv())
    input = output = size = 0
    while (told := pipe.recv_bytes()) != END:
        if told == CALL:
            gpu("cuStreamWaitEvent", gpu.stream, ready, 0)
            gpu("cuMemcpyDtoDAsync", output, input, size, gpu.stream)
            gpu("cuEventRecord", done, gpu.stream)
            pipe.send_bytes(CALL)
            continue
        size, handle = pickle.loads(told)
        if input:
            gpu("cuIpcCloseMemHandle", input)
        input, before, output = gpu.open(handle), output, int(gpu("cuMemAlloc", max(size, SMALLEST)))
        pipe.send(gpu.handle(output))
        if before:
            gpu("cuMemFree", before)


class HandlePeer(_Other):
    """A legacy IPC handle for each tensor, opened and closed, and a stream that is waited for on either side: as Triton's
    Python backend does it with memory that is not out of its pool."""

    name = "legacy IPC handle per tensor"

    def __init__(self) -> None:
        super().__init__(_handle_worker)
        self.gpu = Gpu()
        self.value = self.size = self.input = 0
        self.theirs: Counter[str] = Counter()

    def prepare(self, size: int) -> None:
        if self.input:
            self.gpu("cuMemFree", self.input)
        self.size, self.input = size, int(self.gpu("cuMemAlloc", max(size, SMALLEST)))

    def call(self) -> Any:
        gpu = self.gpu
        self.value = (self.value + 1) % 251
        gpu.fill(self.input, self.value, self.size)
        gpu("cuStreamSynchronize", gpu.stream)
        self.pipe.send((self.size, gpu.handle(self.input)))
        output = gpu.open(self.pipe.recv())
        gpu("cuIpcCloseMemHandle", output)

    def last_byte(self) -> int:
        self.pipe.send("show")
        handle, self.theirs = self.pipe.recv()
        output = self.gpu.open(handle)
        seen = self.gpu.byte(output + self.size - 1)
        self.gpu("cuIpcCloseMemHandle", output)
        self.gpu.counted["opens"] -= 1
        return seen

    def counts(self) -> dict[str, int]:
        self.pipe.send("show")
        _, self.theirs = self.pipe.recv()
        return {kind: self.gpu.counted[kind] + self.theirs[kind] for kind in COUNTED}


def _handle_worker(pipe: Any) -> None:
    gpu = Gpu()
    output = room = 0
    handle = b""
    while (told := pipe.recv()) is not None:
        if told == "show":
            work = Counter(copies=gpu.counted["copies"])
            pipe.send((handle, gpu.counted - work))
            continue
        size, theirs = told
        if size > room:
            if output:
                gpu("cuMemFree", output)
            room = max(size, SMALLEST)
            output = int(gpu("cuMemAlloc", room))
        input = gpu.open(theirs)
        gpu("cuMemcpyDtoDAsync", output, input, size, gpu.stream)
        gpu("cuStreamSynchronize", gpu.stream)
        gpu("cuIpcCloseMemHandle", input)
        handle = gpu.handle(output)
        pipe.send(handle)


class TorchPeer:
    """torch.multiprocessing: a tensor goes through one queue, its clone comes back through another."""

    name = "torch.multiprocessing"

    def __init__(self) -> None:
        try:
            import torch
            import torch.multiprocessing as shared
        except ImportError as error:
            raise Unavailable(f"{error}: pip install --group torch") from None
        self.torch: Any = torch
        context = shared.get_context("spawn")
        self.there, self.back = context.SimpleQueue(), context.SimpleQueue()
        self.process = context.Process(target=_torch_worker, args=(self.there, self.back), daemon=True)
        self.process.start()
        self.value = 0
        self.tensor: Any = None
        self.answer: Any = None

    def prepare(self, size: int) -> None:
        self.answer = None
        self.tensor = self.torch.zeros(size, dtype=self.torch.uint8, device="cuda:0")

    def call(self) -> Any:
        self.value = (self.value + 1) % 251
        self.tensor.fill_(self.value)
        self.there.put(self.tensor)
        self.answer = self.back.get()
        self.torch.cuda.current_stream().synchronize()

    def last_byte(self) -> int:
        return int(self.answer[-1].item())

    def counts(self) -> None:
        return None

    def close(self) -> None:
        self.answer = None
        self.there.put(None)
        self.process.join(30)


def _torch_worker(there: Any, back: Any) -> None:
    kept: Any = None  # until the next one is asked for: an answer that its maker drops is gone
    while (tensor := there.get()) is not None:
        kept = tensor.clone()
        del tensor
        back.put(kept)
    del kept
