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
    """Where a BLS call's outputs should lie: a hint."""

    def __init__(self, preferred_memory_type, preferred_device_id=0):
        if not isinstance(preferred_memory_type, MemoryType):
            raise TypeError("PreferredMemory(): preferred_memory_type must be a MemoryType")
        if not isinstance(preferred_device_id, int):
            raise TypeError("PreferredMemory(): preferred_device_id must be an int")
        self._type = preferred_memory_type
        self._device = preferred_device_id


class InferenceTrace:
    """What `request.trace()` gives: the trace that a request is part of."""

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
        if not isinstance(code, _ErrorCode):
            raise TypeError("TritonError(): code must be one of TritonError's, not %s" % type(code).__name__)
        self._message = message
        self._code = code

    def code(self):
        return self._code

    def message(self):
        return self._message


_ErrorCode = type(TritonError.INTERNAL)
# Its name in the original, which the class body above cannot say: Python would mangle it.
setattr(TritonError, "__ErrorCode", _ErrorCode)


def _items(parameters):
    """Parameters as a tuple of (key, value), checked."""
    if not isinstance(parameters, dict):
        raise TritonModelException("Expect parameters to have type dict, got %s" % type(parameters))
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException("Expect parameters keys to have type str, found type %s" % type(key))
        if not isinstance(value, (bool, int, str)):
            raise TritonModelException("Expect parameters values to have type bool/int/str, found type %s" % type(value))
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise TritonModelException("Expect parameters values of type int to have at most 64 bits, found %d" % value)
    return tuple(parameters.items())


def _response_parameters(parameters):
    items = _items(parameters)
    return json.dumps(dict(items)), items


_ANYWHERE, _NO_TRACE = PreferredMemory(TRITONSERVER_MEMORY_CPU), InferenceTrace()


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
    """InferenceRequest's arguments, checked: (inputs, flags, the rest in the order that the extension reads it)."""
    given = dict(locals())
    del given["parameters"]
    for key, value in given.items():
        if value is None:
            raise TypeError("InferenceRequest(): %s must not be None" % key)
    for key, kind in (
        ("request_id", str),
        ("model_name", str),
        ("model_version", int),
        ("flags", int),
        ("timeout", int),
        ("preferred_memory", PreferredMemory),
        ("trace", InferenceTrace),
    ):
        if not isinstance(given[key], kind):
            raise TypeError("InferenceRequest(): %s must be %s, not %s" % (key, kind.__name__, type(given[key]).__name__))
    if not isinstance(correlation_id, (int, str)):
        raise TritonModelException("Correlation ID must be integer or string")
    for key in ("correlation_id", "timeout"):
        if isinstance(given[key], int) and not 0 <= given[key] < 1 << 64:
            raise TypeError("InferenceRequest(): %s must be an int of 64 bits without a sign" % key)
    for key in ("inputs", "requested_output_names"):
        if isinstance(given[key], (str, bytes)):
            raise TypeError("InferenceRequest(): %s must be a list" % key)
    where = "for request with id '%s' and model name '%s' should not be empty." % (request_id, model_name)
    tensors = list(inputs)
    for tensor in tensors:
        if tensor is None:
            raise TritonModelException("Input tensor " + where)
        if not isinstance(tensor, Tensor):
            raise TypeError("InferenceRequest(): inputs must be a list of Tensor")
    names = list(requested_output_names)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("InferenceRequest(): requested_output_names must be a list of str")
    if "" in names:
        raise TritonModelException("Requested output name " + where)
    checked = json.dumps({} if parameters is None else dict(_items(parameters)))
    made = (request_id, correlation_id, names, timeout, checked, trace, model_name, model_version, preferred_memory)
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


def _ordinal(device):
    """Of "cuda" or "cuda:N"; None for the CPU."""
    name = str(device)
    if name == "cpu":
        return None
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdigit()):
        raise ValueError('pb_utils.empty(): device %r is neither "cpu" nor "cuda:N"' % name)
    return int(number or 0)


def empty(shape, dtype, device="cpu"):
    """An uninitialised array in shared memory (an extension): returned as an output it crosses without a copy.

    On a device it is a Tensor without a name: a library takes its memory by `from_dlpack` or the CUDA array interface, and
    `Tensor.from_dlpack(name, what_it_took)` names it as an output.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    number = _NUMBERS.get(dtype.name)
    if number is None or not dtype.isnative:
        raise TypeError("pb_utils.empty(): dtype %s has no fixed size that crosses" % dtype)
    dims = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    ordinal = _ordinal(device)
    if ordinal is not None:
        return _ferry_stub.empty_on_device(dims, number, ordinal)
    array = _ferry_stub.empty(dims, number)
    return np.empty(dims, dtype) if array is None else array


def give(array):
    """Says that the model will not touch `array` again (an extension), and returns it, read-only from now on.

    An array of `empty`, or one that NumPy made in `execute`, then crosses without a copy although the model still holds it:
    once, it is another's from then on. Only `array` itself is given, of a larger one no more than that part. Any other, an
    input among them, is copied as always while the model holds it. A device's memory is given as the Tensor of `empty`, or
    as an object with the CUDA array interface.
    """
    if isinstance(array, Tensor) or hasattr(array, "__cuda_array_interface__"):
        _ferry_stub.give_on_device(array)
        return array
    _ferry_stub.give(array)
    array.flags.writeable = False
    return array


_ferry_stub.register(
    TritonModelException, TritonError, _request_arguments, _response_parameters, json.dumps, InferenceTrace, _find_input
)


class SharedMemory:
    """The memory that this process answers from; models look into it when they hunt for leaks."""

    def free_memory(self):
        """Bytes that it has and that nobody holds."""
        return _ferry_stub.arena_free_bytes()


shared_memory = SharedMemory()

# Also where a process that multiprocessing spawned finds this file under another name.
for _kind in (TritonModelException, MemoryType, PreferredMemory, InferenceTrace, TritonError, Logger, SharedMemory):
    _kind.__module__ = "c_python_backend_utils"
