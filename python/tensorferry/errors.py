"""What can go wrong, as exceptions. All have `code`, `model`, `instance` and `request_id` (empty where not known)."""

from __future__ import annotations


class Error(Exception):
    """The base of all.

    Attributes:
        code: the kind, e.g. ``"NOT_FOUND"``; a model's own TritonError keeps its code.
        model, instance, request_id: where it happened.
    """

    def __init__(
        self, message: str, code: str = "INTERNAL", model: str = "", instance: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.model = model
        self.instance = instance
        self.request_id = request_id


class InvalidRequest(Error):
    """The request does not fit the model, or an array was given twice."""


class NotFound(Error):
    """No such model, file or interpreter."""


class ModelError(Error):
    """The model raised, or answered with an error."""


class StubDied(Error):
    """The model's process ended while it had the request; it is started again."""


class OutOfMemory(Error):
    """Shared memory is used up; the message has the sizes and what to raise."""


class Timeout(Error):
    """The caller's own deadline passed; the request was cancelled."""


class Closed(Error):
    """The server or the model was shut down, or this process is a fork of the server's."""


class QueueFull(Error):
    """Too many requests wait for the model."""


_BY_CODE: dict[str, type[Error]] = {
    "INVALID_ARG": InvalidRequest,
    "NOT_FOUND": NotFound,
    "INTERNAL": ModelError,
    "UNKNOWN": ModelError,
    "STUB_DIED": StubDied,
    "OUT_OF_SHARED_MEMORY": OutOfMemory,
    "DEADLINE_EXCEEDED": Timeout,
    "CLOSED": Closed,
    "QUEUE_FULL": QueueFull,
}


def _make(message: str, code: str, model: str, instance: str, request_id: str) -> Error:
    return _BY_CODE.get(code, Error)(message, code, model, instance, request_id)
