"""The types of Triton's embedded module, over `_ferry_stub`. `triton_python_backend_utils` shows the same objects."""

import enum
import json
import sys

import _ferry_stub
from _ferry_stub import InferenceRequest, InferenceResponse, Tensor, get_input_tensor_by_name  # noqa: F401


class TritonModelException(Exception):
    """What every misuse of these types raises."""


class MemoryType(enum.IntEnum):
    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU


class PreferredMemory:
    def __init__(self, preferred_memory_type, preferred_device_id=0):
        if preferred_memory_type is None or preferred_device_id is None:
            raise TypeError("PreferredMemory arguments must not be None")
        self._type = preferred_memory_type
        self._device = preferred_device_id


class InferenceTrace:
    def __init__(self, context=None):
        self._context = context

    def get_context(self):
        return self._context


class TritonError:
    """An error for one request: a message and one of Triton's eight codes."""

    class __ErrorCode(enum.IntEnum):
        UNKNOWN = 0
        INTERNAL = 1
        NOT_FOUND = 2
        INVALID_ARG = 3
        UNAVAILABLE = 4
        UNSUPPORTED = 5
        ALREADY_EXISTS = 6
        CANCELLED = 7

    UNKNOWN = __ErrorCode.UNKNOWN
    INTERNAL = __ErrorCode.INTERNAL
    NOT_FOUND = __ErrorCode.NOT_FOUND
    INVALID_ARG = __ErrorCode.INVALID_ARG
    UNAVAILABLE = __ErrorCode.UNAVAILABLE
    UNSUPPORTED = __ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = __ErrorCode.ALREADY_EXISTS
    CANCELLED = __ErrorCode.CANCELLED

    def __init__(self, message, code=__ErrorCode.INTERNAL):
        if not isinstance(message, str):
            raise TypeError("TritonError(): message must be a str, not %s" % type(message).__name__)
        self._message = message
        self._code = code

    def code(self):
        return self._code

    def message(self):
        return self._message


def _parameters(parameters):
    if parameters is None:
        return "{}"
    if not isinstance(parameters, dict):
        raise TypeError("Expect parameters to be a dict, got %s" % type(parameters))
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TypeError("Expect parameters keys to have type str, found type %s" % type(key))
        if not isinstance(value, (bool, int, str)):
            raise TypeError("Expect parameters values to have type bool/int/str, found type %s" % type(value))
    return json.dumps(parameters)


_ANYWHERE, _NO_TRACE = PreferredMemory(-1), InferenceTrace()


def _request_arguments(
    request_id="",
    correlation_id=0,
    inputs=None,
    requested_output_names=None,
    model_name=None,
    model_version=-1,
    flags=0,
    timeout=0,
    preferred_memory=_ANYWHERE,
    trace=_NO_TRACE,
    parameters=None,
):
    """InferenceRequest's arguments, checked: (inputs, flags, (id, correlation, outputs, timeout, parameters, ...))."""
    given = dict(locals())
    del given["parameters"]
    for key, value in given.items():
        if value is None:
            raise TypeError("InferenceRequest(): %s must not be None" % key)
    for key, value, kind in (
        ("request_id", request_id, str),
        ("model_name", model_name, str),
        ("model_version", model_version, int),
        ("flags", flags, int),
        ("timeout", timeout, int),
        ("preferred_memory", preferred_memory, PreferredMemory),
        ("trace", trace, InferenceTrace),
    ):
        if not isinstance(value, kind):
            raise TypeError("InferenceRequest(): %s must be %s, not %s" % (key, kind.__name__, type(value).__name__))
    if not isinstance(correlation_id, (int, str)):
        raise TritonModelException("Correlation ID must be integer or string")
    where = "for request with id '%s' and model name '%s' should not be empty." % (request_id, model_name)
    tensors = list(inputs)
    for tensor in tensors:
        if tensor is None:
            raise TritonModelException("Input tensor " + where)
        if not isinstance(tensor, Tensor):
            raise TypeError("InferenceRequest(): inputs must be a list of Tensor")
    names = sorted(set(requested_output_names))
    for name in names:
        if not isinstance(name, str):
            raise TypeError("InferenceRequest(): requested_output_names must be a list of str")
        if not name:
            raise TritonModelException("Requested output name " + where)
    made = (request_id, correlation_id, names, timeout, _parameters(parameters), model_name, model_version)
    return tensors, flags, made


def _find_input(request, name):
    for tensor in request.inputs():
        if tensor.name() == name:
            return tensor
    return None


class Logger:
    """Lines for the server's log, with the file and line of whoever wrote them."""

    class LogLevel(enum.IntEnum):
        VERBOSE = 0
        INFO = 1
        WARNING = 2
        ERROR = 3

    INFO = LogLevel.INFO
    WARNING = LogLevel.WARNING
    ERROR = LogLevel.ERROR
    VERBOSE = LogLevel.VERBOSE

    @staticmethod
    def _write(message, level, depth=2):
        if not isinstance(message, str) or not isinstance(level, Logger.LogLevel):
            raise TypeError("Logger: a str and a Logger.LogLevel are needed")
        frame = sys._getframe(depth)
        _ferry_stub.log(int(level), frame.f_code.co_filename, frame.f_lineno, message)

    @staticmethod
    def log(message, level=LogLevel.INFO):
        Logger._write(message, level)

    @staticmethod
    def log_info(message):
        Logger._write(message, Logger.INFO)

    @staticmethod
    def log_warn(message):
        Logger._write(message, Logger.WARNING)

    @staticmethod
    def log_error(message):
        Logger._write(message, Logger.ERROR)

    @staticmethod
    def log_verbose(message):
        Logger._write(message, Logger.VERBOSE)


_NUMBERS = {
    "bool": 1,
    "uint8": 2,
    "uint16": 3,
    "uint32": 4,
    "uint64": 5,
    "int8": 6,
    "int16": 7,
    "int32": 8,
    "int64": 9,
    "float16": 10,
    "float32": 11,
    "float64": 12,
}


def empty(shape, dtype):
    """An uninitialised array in shared memory (an extension): returned as an output it crosses without a copy."""
    import numpy as np

    number = _NUMBERS.get(np.dtype(dtype).name)
    if number is None:
        raise TypeError("pb_utils.empty(): dtype %s has no fixed size that crosses" % np.dtype(dtype))
    return _ferry_stub.empty((shape,) if isinstance(shape, int) else tuple(shape), number)


def give(array):
    """Says that the model will not touch `array` again (an extension), and returns it, read-only from now on.

    An array in shared memory then crosses without a copy although the model still holds it. Any other is copied as always.
    """
    _ferry_stub.give(array)
    array.flags.writeable = False
    return array


_ferry_stub.register(
    TritonModelException, TritonError, _request_arguments, _parameters, json.dumps, InferenceTrace, _find_input
)

for _kind in (TritonModelException, MemoryType, PreferredMemory, InferenceTrace, TritonError, Logger):
    _kind.__module__ = "c_python_backend_utils"
