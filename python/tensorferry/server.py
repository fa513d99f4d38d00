"""The embedded server: loads a repository of models and runs requests on them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _server
from ._arrivals import arrival
from .tensor import Tensor

# Not resolved: in a build tree this file is a link, and the payload lies beside the link.
_PAYLOAD = Path(__file__).absolute().parent / "payload"
# How long a wait goes on before Python looks for signals (Ctrl-C).
_SLICE = 0.2


class Response(dict[str, Tensor]):
    """Output names to tensors, in the model's order. Each tensor is the receiver's own."""

    __slots__ = ("_parameters",)  # set by the extension where the model gave some
    _parameters: dict[str, bool | int | float | str]

    @property
    def parameters(self) -> dict[str, bool | int | float | str]:
        """What the model said with it: ``InferenceResponse(..., parameters={...})``; empty for nothing."""
        return getattr(self, "_parameters", {})

    def __repr__(self) -> str:
        return f"Response({', '.join(f'{name}: {tensor!r}' for name, tensor in self.items())})"


class Future:
    """A request on its way. Thread-safe. `result()` and `await` wait for it; an `await` that is cancelled cancels it."""

    def __init__(self, call: Any, deadline: float | None) -> None:
        self._call = call
        self._deadline = deadline
        self._lock = threading.Lock()
        self._response: Response | None = None
        self._error: Exception | None = None

    def done(self) -> bool:
        """Whether the answer is there."""
        return bool(self._call.done())

    def cancel(self) -> None:
        """Ends it: waiting is over at once, and whatever the model still answers is dropped."""
        self._call.cancel("CANCELLED", "the request was cancelled by the caller")

    def result(self, timeout: float | None = None) -> Response:
        """The response, or the error that the request ended with.

        Raises:
            TimeoutError: it is not there after `timeout` seconds; it runs on.
            tensorferry.Error: what went wrong.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError(f"no answer within {timeout} s; the request runs on")
        try:
            return self._finished(give_up, timeout)
        finally:
            self._lock.release()

    def _finished(self, give_up: float | None, timeout: float | None) -> Response:
        if self._error is not None:
            raise self._error
        while self._response is None and not self._call.wait(self._slice(give_up)):
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                self._expire()
            elif give_up is not None and now >= give_up:
                raise TimeoutError(f"no answer within {timeout} s; the request runs on")
        if self._response is None:
            try:
                self._response = self._call.take()
            except Exception as error:
                self._error = error
                raise
        return self._response

    def _slice(self, give_up: float | None) -> float:
        ends = [end for end in (self._deadline, give_up) if end is not None]
        return max(0.0, min([_SLICE, *(end - time.monotonic() for end in ends)]))

    def __await__(self) -> Generator[Any, None, Response]:
        return self._answer().__await__()

    async def _answer(self) -> Response:
        if not self.done():
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            try:
                await asyncio.wait_for(arrival(self._call), left)
            except asyncio.TimeoutError:
                self._expire()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def _expire(self) -> None:
        self._call.cancel("DEADLINE_EXCEEDED", "no answer within the request's timeout; it was cancelled")


class Model:
    """A loaded model. Thread-safe."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._infer = model.infer

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self._model.name)

    @property
    def version(self) -> int:
        """The version that is served."""
        return int(self._model.version)

    @property
    def config(self) -> str:
        """The whole config as JSON, as model.py gets it."""
        return str(self._model.config)

    def ready(self) -> bool:
        """Whether an instance of it can execute."""
        return bool(self._model.ready())

    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An uninitialised array in the model's shared memory: `infer` takes it without a copy.

        It is *given* by `infer`, read-only afterwards, and can't be given twice: call `empty` again, warm memory is reused.
        So is a view of all of it (``empty(n).reshape(...)``) that is the only one left; any other view is copied once, and
        the array stays the caller's. Views made before it is given stay writable: nothing may be written through them then.
        ``bfloat16`` works where ml_dtypes is installed.
        """
        dims = [shape] if isinstance(shape, int) else list(shape)
        array: NDArray[Any] = self._model.empty(dims, np.dtype(dtype))
        return array

    def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
        request_id: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> Response:
        """Runs the model and returns its outputs.

        Args:
            inputs: names to arrays (NumPy, anything with DLPack or the array interface, lists of bytes). An array from
                `empty` is given; any other is copied once before this call gives control away, and never edited.
            outputs: the names that are wanted; all by default.
            parameters: what the model reads as ``request.parameters()``.
            timeout: the whole deadline in seconds. It ends the wait and cancels the request; it kills nobody.

        Raises:
            tensorferry.Error: what went wrong, with `code`, `model`, `instance`, `request_id`.
        """
        response: Response = self._infer(inputs, outputs, parameters, request_id, priority, timeout)
        return response

    def infer_async(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
        request_id: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> Future:
        """The same without waiting. Inputs are copied or given before it returns."""
        deadline = None if timeout is None else time.monotonic() + timeout
        call = self._model.submit(inputs, outputs, parameters, request_id, priority, timeout)
        return Future(call, deadline)


class Server:
    """Loads the models of a repository and serves them until it is closed.

    Args:
        repository: a folder as Triton has it: ``<repository>/<model>/config.pbtxt``, ``<version>/model.py``.
        models: names to load; all by default.
        python: the interpreter of models that don't name their own (``TENSORFERRY_PYTHON``); this one by default.
        options: ``arena_max_bytes``, ``arena_initial_bytes``, ``arena_growth_bytes`` (bytes), ``load_timeout``,
            ``drain_timeout``, ``finalize_timeout``, ``trim_after`` (seconds), ``max_queue`` (requests),
            ``quiet`` (only errors are logged).

    In a forked child a Server is void: it has no models and is not ready, requests raise `tensorferry.errors.Closed`, and so
    does what had no answer yet at the fork. Nothing that a child does reaches its parent's stubs.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str],
        *,
        models: Sequence[str] | None = None,
        python: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        interpreter = os.fspath(python) if python is not None else sys.executable
        wanted = None if models is None else list(models)
        self._server = _server.Server(os.fspath(repository), wanted, str(_PAYLOAD), interpreter, options)

    def model(self, name: str, version: int | None = None) -> Model:
        """A loaded model."""
        return Model(self._server.model(name, version))

    @property
    def models(self) -> list[str]:
        """Names of the loaded models."""
        return list(self._server.names())

    def load(self, name: str) -> None:
        """Loads a model, or loads it anew: new instances are ready before the old ones drain."""
        self._server.load(name)

    def unload(self, name: str) -> None:
        """Drains and ends a model's processes."""
        self._server.unload(name)

    def ready(self, name: str | None = None) -> bool:
        """Whether a model, or every loaded one, can execute."""
        return bool(self._server.ready(name))

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Per model: counts, times (ns), bytes copied, memory; per instance: state, pid, restarts, PSS (bytes)."""
        return {model["name"]: model for model in self._server.statistics()}

    def metrics(self) -> str:
        """Prometheus text format."""
        return str(self._server.metrics())

    def close(self) -> None:
        """Refuses new requests, waits for those inside, ends the processes. Responses stay valid."""
        self._server.shutdown()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
