"""A server with one model that works on a GPU by cuda.core, and what both sides did on the emulated driver."""

from __future__ import annotations

import ctypes
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dlpack_consumers import DTYPES
from emulated import on_the_machines_driver
from numpy.typing import NDArray
from site_of_models import until

import tensorferry

CONFIG = """
backend: "python"
input [ { name: "IN", data_type: %(dtype)s, dims: [ -1 ] } ]
output [ { name: "%(outputs)s", data_type: %(dtype)s, dims: [ -1 ] } ]
%(parameters)s
"""

# `Gpu` is what the tests' models are written with: it names its stream to whoever gives it memory.
MODEL = '''
import os
import numpy as np
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import InferenceResponse as Response, Tensor


class Gpu:
    def __init__(self):
        from cuda.bindings import driver
        from cuda.core import Device
        from cuda.core.utils import StridedMemoryView

        self.driver, self.view_of = driver, StridedMemoryView.from_dlpack
        self.device = Device(0)
        self.device.set_current()
        self.stream = self.device.create_stream()

    def view(self, tensor):
        return self.view_of(tensor, stream_ptr=int(self.stream.handle))

    def fill(self, view, value, count):
        """`count` float32 of the view become `value`, in the stream's time."""
        (bits,) = np.float32([value]).view(np.uint32)
        (code,) = self.driver.cuMemsetD32Async(view.ptr, int(bits), count, self.stream.handle)
        assert code == 0, code

    def copy(self, to, of, count):
        (code,) = self.driver.cuMemcpyDtoDAsync(to.ptr, of.ptr, 4 * count, self.stream.handle)
        assert code == 0, code


class Produced:
    """A buffer of cuda.core's that does what the array API asks of a producer, and cuda.core can't: the consumer's stream
    waits for the one that wrote it."""

    def __init__(self, gpu, buffer):
        self.gpu, self.buffer = gpu, buffer

    def __dlpack_device__(self):
        return self.buffer.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        written = self.gpu.stream.record()
        (code,) = self.gpu.driver.cuStreamWaitEvent(stream or 1, int(written.handle), 0)
        assert code == 0, code
        return self.buffer.__dlpack__(stream=stream, **options)


class TritonPythonModel:
    def initialize(self, args):
        self.kept = []
        self.gpu = Gpu() if %(gpu)s else None

    def execute(self, requests):
        return [self.answer(request.inputs()[0]) for request in requests]

'''

COUNT = 3000  # float32 elements of most tests: more than travels inside a message


def write_model(
    folder: Path,
    body: str,
    *,
    name: str = "m",
    cpu_inputs: bool = False,
    gpu: bool = True,
    dtype: str = "TYPE_FP32",
    outputs: str = "OUT",
    more: str = "",
) -> None:
    """A model in the repository `folder` whose `answer(self, tensor)` has the body that is given."""
    (folder / name / "1").mkdir(parents=True)
    place = "" if cpu_inputs else 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: { string_value: "no" } }\n'
    (folder / name / "config.pbtxt").write_text(CONFIG % {"dtype": dtype, "outputs": outputs, "parameters": place + more})
    method = "    def answer(self, tensor):\n" + textwrap.indent(textwrap.dedent(body), " " * 8)
    (folder / name / "1" / "model.py").write_text(MODEL % {"gpu": gpu} + method + "\n")


# 7s at the beginning of a copy, by a stream of the model's.
MARKS_A_COPY = """
out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
there, view = self.gpu.view(out), self.gpu.view(tensor)
self.gpu.copy(there, view, tensor.shape()[0])
self.gpu.fill(there, 7, 3)
del there, view
return Response([Tensor.from_dlpack("OUT", out)])
"""


@contextmanager
def served(folder: Path, body: str, **options: Any) -> Iterator[Any]:
    """The model, on a server of its own."""
    write_model(folder, body, **options)
    with tensorferry.Server(folder) as server:
        model = server.model("m")
        model.server = server
        yield model


TRITON = {name: "TYPE_" + name.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP") for name in DTYPES}


@contextmanager
def served_types(folder: Path, body: str, **options: Any) -> Iterator[Any]:
    """The model with an input of each type under the type's name, and of float32 one of each rank, "1" to "3"."""
    inputs = [(name, dtype, 1) for name, dtype in TRITON.items()] + [(str(rank), "TYPE_FP32", rank) for rank in (1, 2, 3)]
    listed = "".join(
        f'input [ {{ name: "{name}", data_type: {dtype}, dims: {[-1] * rank}, optional: true }} ]\n'
        for name, dtype, rank in inputs
    )
    write_model(folder, body, **options)
    config = folder / "m" / "config.pbtxt"
    config.write_text(re.sub(r"input \[.*\]\n", lambda _: listed, config.read_text(), count=1))
    with tensorferry.Server(folder) as server:
        model = server.model("m")
        model.server = server
        yield model


def pid_of(model: Any, instance: int = 0) -> int:
    return int(model.server.statistics()["m"]["instances"][instance]["pid"])


class Caller:
    """What a caller has: a stream, and device memory that it fills and reads on it."""

    def __init__(self) -> None:
        from cuda.bindings import driver
        from cuda.core import Device
        from cuda.core.utils import StridedMemoryView

        self.driver, self.view_of = driver, StridedMemoryView.from_dlpack
        self.device = Device(0)
        self.device.set_current()
        self.stream = self.device.create_stream()
        self.sent: list[Any] = []  # host memory of copies under way

    def view(self, tensor: Any) -> Any:
        return self.view_of(tensor, stream_ptr=int(self.stream.handle))

    def write(self, tensor: Any, values: NDArray[Any]) -> Any:
        """Puts the values there, in the stream's time; returns the tensor."""
        self.sent.append(values)
        (code,) = self.driver.cuMemcpyHtoDAsync(self.view(tensor).ptr, values.ctypes.data, values.nbytes, self.stream.handle)
        assert code == 0, code
        return tensor

    def given(self, model: Any, values: NDArray[Any]) -> Any:
        """Memory of the model's with these values, to be given to it."""
        return self.write(model.empty(values.shape, values.dtype, device="cuda:0"), values)

    def buffer(self, values: NDArray[Any]) -> Any:
        """Memory of cuda.core's."""
        made = self.device.allocate(values.nbytes, stream=self.stream)
        self.sent.append(values)
        (code,) = self.driver.cuMemcpyHtoDAsync(int(made.handle), values.ctypes.data, values.nbytes, self.stream.handle)
        assert code == 0, code
        return made


def ramp(start: float = 0, count: int = COUNT) -> NDArray[np.float32]:
    return np.arange(start, start + count, dtype=np.float32)


def await_ready(model: Any) -> None:
    until(model.ready, 30)


def needs_the_emulator(what: str) -> None:
    if on_the_machines_driver():
        pytest.skip(f"needs the emulated driver: {what}")


def needs_devices(count: int) -> None:
    from cuda.core import Device

    visible = len(Device.get_all_devices())
    if visible < count:
        pytest.skip(f"needs {count} devices; visible: {visible}")


class Driver:
    """The emulated driver's counters, of this process or of another that uses it. Who asks for it skips elsewhere."""

    def __init__(self) -> None:
        needs_the_emulator("its counters")
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fakecuda_counter_names.restype = ctypes.c_char_p
        self.library.fakecuda_read_calls.restype = ctypes.c_uint64
        self.names = self.library.fakecuda_counter_names().decode().split(",")

    def counters(self, pid: int | None = None) -> dict[str, int]:
        values = (ctypes.c_uint64 * len(self.names))()
        if pid is None:
            self.library.fakecuda_get_counters(ctypes.byref(values))
        elif self.library.fakecuda_read_counters(os.fsencode(self.file(pid)), ctypes.byref(values)):
            return dict.fromkeys(self.names, 0)  # it has not loaded the driver
        return dict(zip(self.names, values, strict=True))

    def calls(self, pid: int, function: str) -> int:
        return int(self.library.fakecuda_read_calls(os.fsencode(self.file(pid)), function.encode()))

    @staticmethod
    def file(pid: int) -> Path:
        return Path(os.environ["FAKECUDA_STATE"]) / f"{pid}.fakecuda"


def copies() -> dict[str, int]:
    return {key: value for key, value in tensorferry._server.copy_counts().items() if value}


def since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """What was added, without what was not."""
    return {key: value - before.get(key, 0) for key, value in now.items() if value != before.get(key, 0)}


def same(actual: Any, expected: Any) -> None:
    """As `assert actual == expected` that says what they are: pytest doesn't rewrite what runs on the emulator."""
    assert actual == expected, f"{actual!r} is not {expected!r}"
