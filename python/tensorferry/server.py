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
from typing import Any, overload

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
    """A request on its way. Thread-safe. `result()` and `await` wait for it; an `await` that is cancelled cancels it.

    In a forked child an answer that nobody had asked for yet is the parent's: asking raises `tensorferry.errors.Closed`.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._response: Response | None = None
        self._error: Exception | None = None

    def done(self) -> bool:
        """Whether the answer is there, or the error: `result` would return or raise at once."""
        return bool(self._call.done())

    def cancel(self) -> None:
        """Ends it: waiting is over at once, and whatever the model still answers is dropped."""
        self._call.cancel()

    def result(self, timeout: float | None = None) -> Response:
        """The response, or the error that the request ended with.

        Raises:
            TimeoutError: it is not there after `timeout` seconds; it runs on.
            tensorferry.Error: what went wrong; `errors.Timeout`: the request's own deadline passed.
        """
        if self._response is not None:
            return self._response
        self._call.check_process()
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
            if give_up is not None and time.monotonic() >= give_up:
                raise TimeoutError(f"no answer within {timeout} s; the request runs on")
        if self._response is None:
            try:
                self._response = self._call.take()
            except Exception as error:
                self._error = error
                raise
        return self._response

    def _slice(self, give_up: float | None) -> float:
        return _SLICE if give_up is None else max(0.0, min(_SLICE, give_up - time.monotonic()))

    def __await__(self) -> Generator[Any, None, Response]:
        return self._answer().__await__()

    async def _answer(self) -> Response:
        if not self.done():
            try:
                await arrival(self._call)
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()


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
        """Whether an instance of it can execute.

        Raises:
            errors.Closed: this process is a fork of the server's.
        """
        return bool(self._model.ready())

    @overload
    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = ..., device: None = None) -> NDArray[Any]: ...
    @overload
    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = ..., device: str = ...) -> Any: ...
    def empty(self, shape: Sequence[int] | int, dtype: DTypeLike = np.float32, device: str | None = None) -> Any:
        """An uninitialised array in the model's shared memory: `infer` takes it without a copy.

        It is *given* by `infer`, read-only afterwards, and can't be given twice: call `empty` again, warm memory is reused.
        So is a view of all of it (``empty(n).reshape(...)``) that is the only one left; any other view is copied once, and
        the array stays the caller's. Views made before it is given stay writable: nothing may be written through them then.
        ``bfloat16`` works where ml_dtypes is installed.

        With ``device="cuda:0"`` it is a `Tensor` there, which PyTorch, CuPy or cuda.core write through DLPack. `infer`
        takes it without a copy where the model's config says ``FORCE_CPU_ONLY_INPUT_TENSORS: "no"``, after all that was put
        on the streams that it was handed to.

        Raises:
            TypeError: elements of `dtype` have no fixed size that crosses (objects, strings).
            ValueError: a dimension is negative.
            errors.OutOfMemory: the model's arena is at its maximum, or the machine has no memory left.
            errors.Closed: this process is a fork of the server's.
        """
        dims = [shape] if isinstance(shape, int) else list(shape)
        return self._model.empty(dims, np.dtype(dtype), device)

    def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
        request_id: str = "",
        priority: int = 0,
        timeout: float | None = None,
        stream: Any = None,
    ) -> Response:
        """Runs the model and returns its outputs.

        Args:
            inputs: names to arrays (NumPy, anything with DLPack or the array interface, lists of bytes). An array from
                `empty` is given; any other is copied once before this call gives control away, and never edited.
            outputs: the names that are wanted; all by default.
            parameters: what the model reads as ``request.parameters()``.
            request_id: the caller's name for it, in errors and logs too; what the model reads as ``request.request_id()``.
            priority: travels with the request; requests are taken in order of arrival whatever it is.
            timeout: the whole deadline in seconds. It ends the wait and cancels the request; it kills nobody.
            stream: of inputs in device memory: the stream that they were written on, where the library doesn't tell (PyTorch
                does, cuda.core's buffers don't). Its number, or a stream of cuda.core, PyTorch or CuPy.

        Raises:
            errors.InvalidRequest: it does not fit the model, or an array in it was given before.
            errors.QueueFull: too many requests wait already.
            errors.OutOfMemory: there is no room for the inputs.
            errors.Closed: the model was unloaded, or the server closed.
            errors.ModelError, errors.StubDied: the model raised, or its process ended.
            errors.Timeout: `timeout` passed.

        All are a `tensorferry.Error` with `code`, `model`, `instance`, `request_id`. After an InvalidRequest or a QueueFull
        nothing was sent, and arrays from `empty` are the caller's as before.
        """
        response: Response = self._infer(inputs, outputs, parameters, request_id, priority, timeout, stream)
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
        stream: Any = None,
    ) -> Future:
        """`infer` without waiting; the arguments are the same. Inputs are copied or given before it returns.

        When `timeout` has passed, the request is cancelled, whether anybody waits for it or not.

        Raises:
            tensorferry.Error: what `infer` refuses before it sends anything; what comes later is raised by the future.
        """
        return Future(self._model.submit(inputs, outputs, parameters, request_id, priority, timeout, stream))


class Statistics(dict[str, dict[str, Any]]):
    """Names of models to what is known of each."""

    @property
    def to_reserve_bytes(self) -> int:
        """Memory to reserve: of each model its arena's peak in the server, of each stub its PSS and its arena's peak."""
        stubs = [stub for model in self.values() for stub in model["instances"]]
        total: int = sum(model["arena_peak_bytes"] for model in self.values())
        total += sum(stub["pss_bytes"] + stub["arena_peak_bytes"] for stub in stubs)
        return total


class Server:
    """Loads the models of a repository and serves them until it is closed.

    Args:
        repository: a folder as Triton has it: ``<repository>/<model>/config.pbtxt``, ``<version>/model.py``.
        models: names to load; all by default.
        python: the interpreter of models that don't name their own (``TENSORFERRY_PYTHON``); this one by default.
        options: ``arena_initial_bytes``, ``arena_growth_bytes``, ``arena_max_bytes`` (bytes of each arena: one per model
            for inputs, one per stub for outputs; see below), ``load_timeout``, ``drain_timeout``, ``finalize_timeout``,
            ``trim_after`` (seconds), ``max_queue`` (requests that wait per model, where its config doesn't say),
            ``quiet`` (only errors are logged).

    An arena begins with `arena_initial_bytes` when it is first used, and grows by `arena_growth_bytes` (by half of what it
    has, or by what is asked for, where that is more): Triton's ``shm-default-byte-size`` and ``shm-growth-byte-size``, with
    Triton's default of 1 MiB each. It takes at most `arena_max_bytes`, by default a quarter of this process's memory limit:
    the smallest of its cgroups' and the host's memory.

    In a forked child a Server is void, as are its models and what had no answer yet at the fork: every call raises
    `tensorferry.errors.Closed`, but `close`, which does nothing there. Nothing that a child does reaches its parent's stubs.

    Raises:
        errors.NotFound: no such repository, model or interpreter.
        errors.ModelError: a model raised while it was loaded.
        tensorferry.Error: what else keeps a model from being loaded; the message names each that failed. Nothing is left
            running then.
        TypeError: an option that does not exist.
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
        """A loaded model.

        Raises:
            errors.NotFound: it is not loaded, or not in this version.
            errors.Closed: the server is closed.
        """
        return Model(self._server.model(name, version))

    @property
    def models(self) -> list[str]:
        """Names of the loaded models."""
        return list(self._server.names())

    def load(self, name: str) -> None:
        """Loads a model, or loads it anew: new instances are ready before the old ones drain.

        Raises:
            errors.NotFound: the repository has no such model.
            errors.ModelError: it raised while it was loaded.
            errors.Closed: the server is closed.
            tensorferry.Error: what else is wrong with it. What was loaded before goes on serving.
        """
        self._server.load(name)

    def unload(self, name: str) -> None:
        """Drains and ends a model's processes. Requests that are inside after `drain_timeout` fail.

        Raises:
            errors.NotFound: it is not loaded.
            errors.Closed: the server is closed.
        """
        self._server.unload(name)

    def ready(self, name: str | None = None) -> bool:
        """Whether a model, or every loaded one, can execute."""
        return bool(self._server.ready(name))

    def statistics(self) -> Statistics:
        """Per model: counts, times (ns), bytes copied, memory; per instance: state, pid, restarts, memory (PSS, arena)."""
        return Statistics((model["name"], model) for model in self._server.statistics())

    def metrics(self) -> str:
        """Prometheus text format."""
        return str(self._server.metrics())

    def close(self) -> None:
        """Refuses new requests, waits for those inside, ends the processes. Responses stay valid. Raises nothing."""
        self._server.shutdown()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
