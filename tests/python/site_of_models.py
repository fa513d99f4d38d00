"""A repository of models written by a test, and the server on it."""

from __future__ import annotations

import gc
import os
import signal
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tensorferry

CONFIG = """
backend: "python"
input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] } ]
"""

PROLOGUE = """
import os, signal, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils


def answers(requests, function=lambda x: x):
    tensors = [pb_utils.get_input_tensor_by_name(r, "IN") for r in requests]
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", function(t.as_numpy()))]) for t in tensors]


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")


def await_file(path):
    end = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.005)

"""

IDENTITY = """
class TritonPythonModel:
    def execute(self, requests):
        return answers(requests)
"""


def until(what: Callable[[], Any], seconds: float = 20) -> bool:
    """Whether `what()` came true in time; for what happens in other processes."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Site:
    """Begins with the model `other`, an identity, which must serve whatever happens to its neighbours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: tensorferry.Server | None = None
        self.add("other", IDENTITY)

    def add(self, name: str, source: str, config: str = CONFIG) -> None:
        """A model whose model.py is PROLOGUE and the dedented `source`."""
        version = self.folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(config)
        (version / "model.py").write_text(PROLOGUE + textwrap.dedent(source))

    def execute(self, name: str, body: str, config: str = CONFIG) -> tensorferry.Model:
        """Adds a model whose `execute(self, requests)` has this body, starts the server, returns the model."""
        method = "def execute(self, requests):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        self.add(name, "class TritonPythonModel:\n" + textwrap.indent(method, "    ") + "\n", config)
        return self.server.model(name)

    def start(self, models: Sequence[str] | None = None, **options: Any) -> tensorferry.Server:
        """With options of the test's own; otherwise `server` starts it when it is first used."""
        self._server = tensorferry.Server(self.folder, models=models, **options)
        return self._server

    @property
    def server(self) -> tensorferry.Server:
        return self._server or self.start()

    def pid(self, name: str) -> int:
        """Of the model's first stub; 0 where none runs."""
        return int(self.server.statistics()[name]["instances"][0]["pid"])

    def restarts(self, name: str) -> int:
        return int(self.server.statistics()[name]["instances"][0]["restarts"])

    def ask(self, name: str, value: float = 1, count: int = 4, timeout: float = 30) -> Any:
        out = self.server.model(name).infer({"IN": np.full(count, value, np.float32)}, timeout=timeout)
        return np.asarray(out["OUT"])

    def assert_sound(self) -> None:
        """Nothing is held in any arena, and the other model answers and was never restarted."""
        gc.collect()
        assert np.all(self.ask("other", 5, 1 << 16) == 5)
        assert self.restarts("other") == 0

        def idle() -> bool:
            all_models = self.server.statistics().values()
            held = [i["answers_out_bytes"] for model in all_models for i in model["instances"]]
            return not any(model["arena_bytes_in_use"] for model in all_models) and not any(held)

        assert until(idle, 5), self.server.statistics()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def group_members(group: int) -> list[int]:
    """Living processes of a process group."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            try:
                if os.getpgid(int(entry)) == group:
                    members.append(int(entry))
            except ProcessLookupError:
                continue
    return members


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
