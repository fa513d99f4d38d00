"""A server with one model whose `answers(self, tensors)` a test writes, and what it counts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tensorferry

CONFIG = """
backend: "python"
max_batch_size: %d
input [ { name: "IN", data_type: %s, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: %s, dims: [ -1 ] }, { name: "OUT2", data_type: %s, dims: [ -1 ] } ]
%s
"""

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils
from triton_python_backend_utils import InferenceResponse as Response, Tensor


class TritonPythonModel:
    def execute(self, requests):
        return self.answers([request.inputs()[0] for request in requests])

"""

BIG = 1 << 16  # elements of float32


ONE = "x = tensors[0].as_numpy()\ndel tensors\n"


def write_model(folder: Path, body: str, dtype: str = "TYPE_FP32", max_batch: int = 0, delay_us: int = 200_000) -> None:
    """A repository with the model `m`. With `max_batch`, 4 requests that come within `delay_us` are one batch."""
    (folder / "m" / "1").mkdir(parents=True)
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} preferred_batch_size: [ 4 ] }}"
    config = CONFIG % (max_batch, dtype, dtype, dtype, batching if max_batch else "")
    (folder / "m" / "config.pbtxt").write_text(config)
    method = "    def answers(self, tensors):\n" + textwrap.indent(textwrap.dedent(body), " " * 8)
    (folder / "m" / "1" / "model.py").write_text(MODEL + method + "\n")


class Loaded:
    """A server with one model whose `answers(self, tensors)` has the given body."""

    def __init__(
        self, folder: Path, body: str, dtype: str = "TYPE_FP32", max_batch: int = 0, delay_us: int = 200_000, **options: Any
    ) -> None:
        write_model(folder, body, dtype, max_batch, delay_us)
        self.server = tensorferry.Server(folder, **options)
        self.model = self.server.model("m")

    def copied(self) -> int:
        """Payload that the stub has copied so far, in bytes."""
        return int(self.server.statistics()["m"]["stub_copied_bytes"])

    def given(self, value: float, count: int = BIG) -> Any:
        array = self.model.empty(count, np.float32)
        array[:] = value
        return array

    def ask(self, value: float, count: int = BIG) -> Any:
        """The answer's OUT, writable and the caller's own, to a given array full of `value`."""
        return np.asarray(self.model.infer({"IN": self.given(value, count)})["OUT"])

    def ask_all(self, value: float, count: int = BIG) -> Any:
        """The only output, whatever its name."""
        (out,) = self.model.infer({"IN": self.given(value, count)}).values()
        return np.asarray(out)

    def held(self) -> int:
        """Bytes of the stub's arena that its answers hold."""
        return int(self.server.statistics()["m"]["instances"][0]["answers_out_bytes"])


Load = Callable[..., Loaded]
