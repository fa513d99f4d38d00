"""The types of Triton's embedded module, over `_ferry_stub`. `triton_python_backend_utils` shows the same objects."""

import enum
import json
import struct
import sys

import _ferry_stub


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


# Triton's number -> NumPy's name; 13 is BYTES, 14 is BF16.
_NUMPY = {
    1: "bool",
    2: "uint8",
    3: "uint16",
    4: "uint32",
    5: "uint64",
    6: "int8",
    7: "int16",
    8: "int32",
    9: "int64",
    10: "float16",
    11: "float32",
    12: "float64",
}
_NUMBER = {name: number for number, name in _NUMPY.items()}
_BYTES, _BF16 = 13, 14
_LENGTH = struct.Struct("<I")


def _decode_bytes(encoded, shape):
    import numpy as np

    elements, at, end = [], 0, len(encoded)
    while at < end:
        if end - at < 4:
            raise TritonModelException("Invalid bytes tensor data: incomplete length field")
        (length,) = _LENGTH.unpack_from(encoded, at)
        at += 4
        if end - at < length:
            raise TritonModelException("Invalid bytes tensor data: string extends beyond buffer")
        elements.append(encoded[at : at + length])
        at += length
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(shape)


def _encode_bytes(array):
    import numpy as np

    parts = []
    for item in np.nditer(array, flags=["refs_ok", "zerosize_ok"], order="C") if array.size else ():
        value = item.item()
        data = value if isinstance(value, bytes) else str(value).encode("utf-8")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


class Tensor:
    """A named tensor: an input's view of shared memory, or an array that a model makes."""

    __slots__ = ("__weakref__", "_array", "_memory", "_name", "_number", "_shape")

    def __init__(self, name, numpy_array):
        import numpy as np

        if not isinstance(name, str) or not isinstance(numpy_array, np.ndarray):
            raise TypeError("Tensor(): incompatible arguments: a str and a numpy.ndarray are needed")
        _check_name(name)
        kind = numpy_array.dtype
        if kind.kind in "OS":
            number = _BYTES
        elif kind.isnative and kind.name in _NUMBER:
            number = _NUMBER[kind.name]
        else:
            raise TritonModelException("NumPy dtype is not supported.")
        self._set(name, number, numpy_array.shape, numpy_array, None)

    def _set(self, name, number, shape, array, memory):
        self._name = name
        self._number = number
        self._shape = tuple(shape)
        self._array = array
        self._memory = memory

    @classmethod
    def _from_wire(cls, wire):
        tensor = cls.__new__(cls)
        name, number, shape, memory = wire
        tensor._set(name, number, shape, None, memory)
        return tensor

    def name(self):
        return self._name

    def shape(self):
        return list(self._shape)

    def triton_dtype(self):
        return self._number

    def is_cpu(self):
        return True

    def as_numpy(self):
        """The same array every time: a writable view of an input's own memory."""
        if self._array is None:
            import numpy as np

            if self._number == _BF16:
                raise TritonModelException(
                    "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
                )
            if self._number == _BYTES:
                self._array = _decode_bytes(self._memory.tobytes(), self._shape)
            else:
                self._array = np.asarray(self._memory)
            self._memory = None
        return self._array

    def _for_dlpack(self):
        if self._number == _BYTES:
            raise TritonModelException("DLPack does not have support for string tensors.")
        return self.as_numpy()

    def to_dlpack(self):
        return self._for_dlpack().__dlpack__()

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        array = self._for_dlpack()
        if max_version is None:
            return array.__dlpack__()
        return array.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self):
        return (1, 0)

    @staticmethod
    def from_dlpack(name, tensor):
        import numpy as np

        _check_name(name)
        if not hasattr(tensor, "__dlpack__") or not hasattr(tensor, "__dlpack_device__"):
            if type(tensor).__name__ != "PyCapsule":
                raise TritonModelException(
                    "Provided tensor is not supported. Tensor must be a DLPack capsule         or have `__dlpack__` and "
                    "`__dlpack_device__` attributes"
                )
            tensor = _Capsule(tensor)
        device = tensor.__dlpack_device__()
        if device[0] not in (1, 3):
            raise TritonModelException("DLDevice type %d is not support by Python backend." % device[0])
        array = np.from_dlpack(tensor)
        if not array.flags.c_contiguous:
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
            )
        return Tensor(name, array)


class _Capsule:
    """A raw capsule as an object that has the protocol."""

    def __init__(self, capsule):
        self._capsule = capsule

    def __dlpack__(self, **_):
        return self._capsule

    def __dlpack_device__(self):
        return (1, 0)


def _check_name(name):
    if name == "":
        raise TritonModelException("Tensor name cannot be an empty string.")


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


class InferenceRequest:
    """A request as `execute` gets it."""

    __slots__ = ("_correlation", "_flags", "_id", "_inputs", "_outputs", "_parameters", "_timeout")

    @classmethod
    def _from_wire(cls, wire):
        request = cls.__new__(cls)
        _, request._id, request._correlation, request._flags, request._timeout, request._parameters, outputs, inputs = wire
        request._outputs = outputs
        request._inputs = [Tensor._from_wire(tensor) for tensor in inputs]
        return request

    def __init__(
        self,
        request_id="",
        correlation_id=0,
        inputs=None,
        requested_output_names=None,
        model_name=None,
        model_version=-1,
        flags=0,
        timeout=0,
        preferred_memory=None,
        trace=None,
        parameters=None,
    ):
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        self._id = request_id
        self._correlation = correlation_id
        self._flags = flags
        self._timeout = timeout
        self._parameters = json.loads(_parameters(parameters))
        self._outputs = sorted(set(requested_output_names or ()))
        self._inputs = list(inputs or ())

    def inputs(self):
        return self._inputs

    def request_id(self):
        return self._id

    def correlation_id(self):
        return self._correlation

    def requested_output_names(self):
        return set(self._outputs)

    def flags(self):
        return self._flags

    def set_flags(self, flags):
        self._flags = flags

    def timeout(self):
        return self._timeout

    def parameters(self):
        return json.dumps(self._parameters)

    def trace(self):
        return InferenceTrace()

    def is_cancelled(self):
        return False


class InferenceResponse:
    """The answer to one request: tensors, or an error."""

    __slots__ = ("_error", "_parameters", "_tensors")

    def __init__(self, output_tensors=(), error=None, parameters=None):
        if output_tensors is None or isinstance(output_tensors, Tensor):
            raise TypeError("InferenceResponse(): output_tensors must be a list of Tensor")
        self._tensors = list(output_tensors)
        for tensor in self._tensors:
            if tensor is None:
                raise TritonModelException("Output tensor for inference response should not be empty.")
            if not isinstance(tensor, Tensor):
                raise TypeError("InferenceResponse(): output_tensors must be a list of Tensor")
        if error is not None and not isinstance(error, TritonError):
            raise TypeError("InferenceResponse(): error must be a TritonError")
        self._error = error
        self._parameters = _parameters(parameters)

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def parameters(self):
        return self._parameters


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


def empty(shape, dtype):
    """An uninitialised array in shared memory (an extension): returned as an output it crosses without a copy."""
    import numpy as np

    dtype = np.dtype(dtype)
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for dim in dims:
        count *= dim
    return np.asarray(_ferry_stub.empty(count * dtype.itemsize, dtype.str, dims))


def give(array):
    """Says that the model will not touch `array` again (an extension). Returns it."""
    return array


def _output(tensor):
    """(wire tuple, what must stay alive until it is planned) of an output tensor."""
    import numpy as np

    if tensor._number == _BYTES:
        if tensor._array is None:
            tensor.as_numpy()
        encoded = _encode_bytes(tensor._array)
        return (tensor._name, _BYTES, tensor._shape, encoded, len(encoded)), encoded
    if tensor._number == _BF16:
        memory = tensor._memory
        return (tensor._name, _BF16, tensor._shape, memory.address, _size(tensor._shape) * 2), memory
    array = tensor.as_numpy()
    if not array.flags.c_contiguous or not array.flags.aligned:
        array = np.ascontiguousarray(array)
        _ferry_stub.count_copy(array.nbytes)
    return (tensor._name, tensor._number, tensor._shape, array.__array_interface__["data"][0], array.nbytes), array


def _size(shape):
    count = 1
    for dim in shape:
        count *= dim
    return count


def _to_wire(number, response, wanted):
    if response._error is not None:
        return number, response._error._message, int(response._error._code), [], []
    outputs, keep = [], []
    for tensor in response._tensors:
        if wanted and tensor._name not in wanted:
            continue
        wire, alive = _output(tensor)
        outputs.append(wire)
        keep.append(alive)
    return number, None, 0, outputs, keep


for _kind in (
    TritonModelException,
    MemoryType,
    PreferredMemory,
    InferenceTrace,
    TritonError,
    Tensor,
    InferenceRequest,
    InferenceResponse,
    Logger,
):
    _kind.__module__ = "c_python_backend_utils"
