"""What a model.py may rely on of pb_utils, checked from inside a stub: each test's code runs in a model's execute()."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorferry

Inside = Callable[..., str]

CONFIG = """
backend: "python"
input [ { name: "CODE", data_type: TYPE_STRING, dims: [ 1 ] },
        { name: "X", data_type: TYPE_FP32, dims: [ -1 ], optional: true },
        { name: "S", data_type: TYPE_STRING, dims: [ -1 ], optional: true },
        { name: "B", data_type: TYPE_BF16, dims: [ -1 ], optional: true } ]
output [ { name: "RESULT", data_type: TYPE_STRING, dims: [ 1 ] } ]
"""

MODEL = """
import gc, sys, traceback, weakref
import numpy as np
import c_python_backend_utils
import triton_python_backend_utils as pb_utils

def raises(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError("%s was not raised" % kind.__name__)

class TritonPythonModel:
    def initialize(self, args):
        self.args = args

    def execute(self, requests):
        responses = []
        for request in requests:
            code = pb_utils.get_input_tensor_by_name(request, "CODE").as_numpy()[0].decode()
            scope = dict(globals(), request=request, args=self.args)
            exec(code, scope)
            result = np.array([str(scope.get("result", "")).encode()], dtype=np.object_)
            tensors = [pb_utils.Tensor("RESULT", result), *scope.get("more", [])]
            answer = scope.get("answer") or pb_utils.InferenceResponse(tensors, parameters=scope.get("parameters"))
            responses.append(answer)
        return responses
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tensorferry.Model]:
    repository = tmp_path_factory.mktemp("models")
    (repository / "m" / "1").mkdir(parents=True)
    (repository / "m" / "config.pbtxt").write_text(CONFIG)
    (repository / "m" / "1" / "model.py").write_text(MODEL)
    with tensorferry.Server(repository) as server:
        yield server.model("m")


@pytest.fixture
def inside(model: tensorferry.Model) -> Inside:
    """Runs code in the model and returns what it left in `result`."""

    def run(code: str, request_id: str = "", parameters: dict[str, Any] | None = None, **inputs: Any) -> str:
        inputs["CODE"] = [textwrap.dedent(code).encode()]
        out = model.infer(inputs, request_id=request_id, parameters=parameters)
        return str(out["RESULT"].numpy()[0].decode())

    return run


def test_a_tensor_has_name_shape_dtype_and_one_array(inside: Inside) -> None:
    code = """
    tensor = pb_utils.get_input_tensor_by_name(request, "X")
    assert tensor.name() == "X" and tensor.shape() == [6] and tensor.is_cpu()
    assert tensor.triton_dtype() == 11
    assert tensor.as_numpy() is tensor.as_numpy()
    assert tensor.as_numpy().flags.writeable
    assert pb_utils.get_input_tensor_by_name(request, "NO") is None
    assert pb_utils.get_input_tensor_by_name(inference_request=request, name="X") is tensor
    assert [t.name() for t in request.inputs()] == ["CODE", "X"] or [t.name() for t in request.inputs()] == ["X", "CODE"]
    result = tensor.as_numpy().sum()
    """
    assert inside(code, X=np.arange(6, dtype=np.float32)) == "15.0"


def test_a_tensor_refuses_what_triton_refuses(inside: Inside) -> None:
    inside("""
    raises(TypeError, "incompatible", pb_utils.Tensor, "A", None)
    raises(TypeError, "incompatible", pb_utils.Tensor, None, np.zeros(1))
    raises(TypeError, "incompatible", pb_utils.Tensor, "A", [1, 2])
    raises(TypeError, "incompatible", pb_utils.Tensor, "A")
    raises(pb_utils.TritonModelException, "Tensor name cannot be an empty string.", pb_utils.Tensor, "", np.zeros(1))
    for bad in (np.zeros(1, "U4"), np.zeros(1, "c8"), np.zeros(1, ">f4"), np.zeros(1, "M8[s]"), np.zeros(1, "f4,i4")):
        raises(pb_utils.TritonModelException, "NumPy dtype is not supported.", pb_utils.Tensor, "A", bad)
    """)


@pytest.mark.parametrize("name", ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "longlong"])
def test_every_dtype_has_tritons_number(inside: Inside, name: str) -> None:
    inside(f"""
    array = np.zeros((2, 3), {name!r})
    tensor = pb_utils.Tensor("A", array)
    assert tensor.as_numpy() is array and tensor.shape() == [2, 3]
    assert pb_utils.triton_to_numpy_type(tensor.triton_dtype()) == array.dtype
    """)


def test_strings_are_bytes_and_come_in_the_tensors_shape(inside: Inside) -> None:
    code = """
    array = pb_utils.get_input_tensor_by_name(request, "S").as_numpy()
    assert array.dtype == np.object_ and array.shape == (3,)
    result = repr(list(array))
    """
    assert inside(code, S=[b"a\x00", "ß", b""]) == repr([b"a\x00", "ß".encode(), b""])


def test_dlpack_is_a_view_that_holds_one_reference(inside: Inside) -> None:
    code = """
    tensor = pb_utils.get_input_tensor_by_name(request, "X")
    before = sys.getrefcount(tensor)
    capsule = tensor.to_dlpack()
    assert sys.getrefcount(tensor) == before + 1
    del capsule
    assert sys.getrefcount(tensor) == before
    assert tensor.__dlpack_device__() == (1, 0)
    view = np.from_dlpack(tensor)
    assert sys.getrefcount(tensor) == before + 1
    assert view.ctypes.data == tensor.as_numpy().ctypes.data
    del view
    assert sys.getrefcount(tensor) == before
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 0)))
    assert "dltensor_versioned" not in repr(tensor.__dlpack__(max_version=(0, 8)))
    raises(BufferError, "CPU memory", tensor.__dlpack__, dl_device=(2, 0))
    strings = pb_utils.Tensor("S", np.array([b"a"], dtype=object))
    raises(pb_utils.TritonModelException, "DLPack does not have support for string tensors.", strings.to_dlpack)
    """
    inside(code, X=np.arange(2000, dtype=np.float32))


def test_from_dlpack_takes_capsules_and_objects_and_refuses_the_rest(inside: Inside) -> None:
    inside("""
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    from_dlpack = pb_utils.Tensor.from_dlpack
    for source in (array, array.__dlpack__()):
        tensor = from_dlpack("A", source)
        assert tensor.as_numpy().ctypes.data == array.ctypes.data and tensor.shape() == [3, 4]
        assert tensor.triton_dtype() == 8
    del tensor, source
    gc.collect()
    assert sys.getrefcount(array) == 2
    error = pb_utils.TritonModelException
    raises(error, "DLPack tensor is not contiguous.", from_dlpack, "A", array.T)
    raises(error, "DLPack tensor is not contiguous.", from_dlpack, "A", array[::2])
    from_dlpack("A", array[:1].T.T)  # dimensions of one element have no order
    raises(error, "Tensor name cannot be an empty string.", from_dlpack, "", array)
    raises(error, "Provided tensor is not supported.", from_dlpack, "A", [1, 2])
    raises(error, "Dtype is invalid.", from_dlpack, "A", np.zeros(2, np.complex64))
    used = array.__dlpack__()
    from_dlpack("A", used)
    raises(error, "used already", from_dlpack, "A", used)
    class Elsewhere:
        def __dlpack__(self, **_): raise AssertionError("asked for")
        def __dlpack_device__(self): return (10, 0)
    raises(error, "DLDevice type 10 is not support by Python backend.", from_dlpack, "A", Elsewhere())
    readonly = np.zeros(3); readonly.flags.writeable = False
    assert not from_dlpack("A", readonly).as_numpy().flags.writeable
    """)


def test_bfloat16_goes_by_dlpack_only(inside: Inside) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16 arrays to send")
    code = """
    tensor = pb_utils.get_input_tensor_by_name(request, "B")
    assert tensor.shape() == [4] and tensor.triton_dtype() == 14
    raises(pb_utils.TritonModelException, "Tensor dtype is BF16 and cannot be converted to NumPy.", tensor.as_numpy)
    again = pb_utils.Tensor.from_dlpack("C", tensor.to_dlpack())
    assert again.triton_dtype() == 14 and again.shape() == [4]
    """
    inside(code, B=np.arange(4).astype(ml_dtypes.bfloat16))


def test_a_response_checks_its_arguments(inside: Inside) -> None:
    inside("""
    Response, Tensor = pb_utils.InferenceResponse, pb_utils.Tensor
    tensor = Tensor("A", np.zeros(1))
    raises(TypeError, "output_tensors", Response, None)
    raises(TypeError, "output_tensors", Response, [1])
    raises(TypeError, "output_tensors", Response, tensor)
    raises(pb_utils.TritonModelException, "Output tensor for inference response should not be empty.", Response, [None])
    raises(TypeError, "TritonError", Response, [], error="no")
    assert Response([tensor]).output_tensors() == [tensor] and not Response([tensor]).has_error()
    assert Response(output_tensors=(tensor,)).error() is None
    error = pb_utils.TritonError("why", pb_utils.TritonError.NOT_FOUND)
    assert Response(error=error).has_error() and Response([], error).error() is error
    assert Response([], parameters={"a": 1, "b": True, "c": "x"}).parameters() == '{"a": 1, "b": true, "c": "x"}'
    wrong = pb_utils.TritonModelException
    raises(wrong, ", got <class 'list'>", Response, [], parameters=[1])
    raises(wrong, "Expect parameters keys to have type str, found type <class 'int'>", Response, [], parameters={1: "a"})
    for value in (1.5, None, [1]):
        text = "Expect parameters values to have type bool/int/str, found type %s" % type(value)
        raises(wrong, text, Response, [], parameters={"a": value})
    raises(wrong, "at most 64 bits", Response, [], parameters={"a": 1 << 63})
    assert Response([], parameters={"a": -(1 << 63)}).parameters() == '{"a": -9223372036854775808}'
    assert Response([]).parameters() == "{}"
    raises(TypeError, "TritonError", Response, [], error=ValueError("no"))
    assert pb_utils.get_output_tensor_by_name(Response([tensor]), "A") is tensor
    """)


def test_a_request_tells_what_the_client_said(inside: Inside) -> None:
    code = """
    import json
    assert request.request_id() == "r1" and request.correlation_id() == 0 and request.flags() == 0
    assert request.requested_output_names() in ({"RESULT"}, set())
    assert json.loads(request.parameters()) == {"i": 3, "b": True, "s": "x", "f": 0.5}
    assert request.timeout() == 0 and not request.is_cancelled()
    assert request.trace().get_context() is None
    request.set_flags(3)
    assert request.flags() == 3
    """
    inside(code, request_id="r1", parameters={"i": 3, "b": True, "s": "x", "f": 0.5})


def test_a_made_request_checks_its_arguments(inside: Inside) -> None:
    inside("""
    Request, error = pb_utils.InferenceRequest, pb_utils.TritonModelException
    tensor = pb_utils.Tensor("A", np.zeros(1))
    good = dict(inputs=[tensor], requested_output_names=["O", "B"], model_name="m")
    request = Request(request_id="7", correlation_id="c", flags=1, timeout=9, parameters={"p": 1}, **good)
    assert request.inputs() == [tensor] and request.requested_output_names() == {"B", "O"}
    assert (request.request_id(), request.correlation_id(), request.flags(), request.timeout()) == ("7", "c", 1, 9)
    assert request.parameters() == '{"p": 1}'
    for name in ("request_id", "correlation_id", "inputs", "requested_output_names", "model_name", "model_version", "flags",
                 "timeout", "preferred_memory", "trace"):
        raises(TypeError, name, Request, **dict(good, **{name: None}))
    raises(error, "Correlation ID must be integer or string", Request, correlation_id=1.5, **good)
    raises(error, "Input tensor for request with id '' and model name 'm' should not be empty.", Request,
           **dict(good, inputs=[None]))
    raises(error, "Requested output name for request with id '' and model name 'm' should not be empty.", Request,
           **dict(good, requested_output_names=[""]))
    raises(TypeError, "requested_output_names", Request, **dict(good, requested_output_names=[None]))
    raises(TypeError, "PreferredMemory", pb_utils.PreferredMemory, None)
    """)


def test_the_names_of_types_are_the_originals(inside: Inside) -> None:
    inside("""
    for name in ("Tensor", "InferenceRequest", "InferenceResponse", "TritonError", "TritonModelException", "Logger"):
        kind = getattr(pb_utils, name)
        assert kind.__module__ == "c_python_backend_utils" and kind is getattr(c_python_backend_utils, name)
    assert pb_utils.TritonError("x").code() == pb_utils.TritonError.INTERNAL
    raises(TypeError, "message", pb_utils.TritonError, None)
    tensor = pb_utils.Tensor("A", np.zeros(1))
    assert weakref.ref(tensor)() is tensor
    """)


def test_empty_is_in_the_arena_and_give_makes_it_read_only(inside: Inside) -> None:
    inside("""
    array = pb_utils.empty((64, 64), np.float32)
    assert array.shape == (64, 64) and array.dtype == np.float32 and array.flags.writeable
    assert pb_utils.give(array) is array and not array.flags.writeable
    raises(TypeError, "ndarray", pb_utils.give, [1])
    raises(ValueError, "negative", pb_utils.empty, (-1,), np.float32)
    raises(TypeError, "dtype", pb_utils.empty, (1,), object)
    assert pb_utils.empty(3, "i8").nbytes == 24
    """)


def test_objects_that_are_dropped_in_any_order_leave_nothing(model: tensorferry.Model, inside: Inside) -> None:
    code = """
    tensor = pb_utils.get_input_tensor_by_name(request, "X")
    array = tensor.as_numpy()
    capsule = tensor.to_dlpack()
    view = array[5:10]
    del tensor, array, capsule
    assert view.sum() == 35
    """
    for _ in range(50):
        inside(code, X=np.arange(5000, dtype=np.float32))


# --------------------------------------------------------------------------------- names and constants


def test_names_and_constants_are_the_originals(inside: Inside) -> None:
    inside("""
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START == 1
    assert pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END == 2
    assert pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1
    assert pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL == 1
    assert pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE == 2
    memory = c_python_backend_utils.MemoryType
    assert pb_utils.TRITONSERVER_MEMORY_GPU is memory.TRITONSERVER_MEMORY_GPU
    assert pb_utils.TRITONSERVER_MEMORY_CPU is memory.TRITONSERVER_MEMORY_CPU
    for name in ("InferenceTrace", "MemoryType", "SharedMemory", "shared_memory"):
        assert hasattr(c_python_backend_utils, name), name
    assert c_python_backend_utils.shared_memory.free_memory() >= 0
    assert pb_utils.get_model_dir() == args["model_repository"] + "/" + args["model_version"]
    raises(AttributeError, "no attribute 'nothing'", getattr, pb_utils, "nothing")
    """)


def test_the_table_of_dtypes_is_a_whole_dict_from_the_first_look(inside: Inside) -> None:
    inside("""
    import subprocess
    code = "from triton_python_backend_utils import *; print('TYPE_FP32' in TRITON_STRING_TO_NUMPY)"
    done = subprocess.run([sys.executable, "-c", "import sys; sys.path[:] = %r; %s" % (sys.path, code)],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "True", done
    table = pb_utils.TRITON_STRING_TO_NUMPY
    assert type(table) is dict and len(table) == 13 and table is pb_utils.TRITON_STRING_TO_NUMPY
    assert table["TYPE_BOOL"] is bool and table["TYPE_STRING"] is np.object_ and table.get("TYPE_BF16") is None
    assert pb_utils.triton_string_to_numpy("TYPE_FP16") is np.float16
    raises(KeyError, "TYPE_BF16", pb_utils.triton_string_to_numpy, "TYPE_BF16")
    assert pb_utils.triton_to_numpy_type(1) is np.bool_ and pb_utils.triton_to_numpy_type(14) is None
    assert pb_utils.numpy_to_triton_type(np.object_) == 13 and pb_utils.numpy_to_triton_type(np.float32) == 11
    """)


def test_initialize_gets_seven_strings(inside: Inside) -> None:
    inside("""
    import json
    assert all(type(key) is str and type(value) is str for key, value in args.items())
    assert sorted(args) == ["model_config", "model_instance_device_id", "model_instance_kind", "model_instance_name",
                            "model_name", "model_repository", "model_version"]
    assert (args["model_name"], args["model_version"], args["model_instance_kind"]) == ("m", "1", "CPU")
    config = json.loads(args["model_config"])
    assert pb_utils.get_input_config_by_name(config, "X")["data_type"] == "TYPE_FP32"
    assert pb_utils.get_output_config_by_name(config, "RESULT")["dims"] == ["1"] or (
        pb_utils.get_output_config_by_name(config, "RESULT")["dims"] == [1])
    assert pb_utils.get_input_config_by_name(config, "NO") is None
    assert pb_utils.using_decoupled_model_transaction_policy(config) is False
    assert sys.argv == [""] and sys.path[0] == ""
    """)


def test_strings_have_the_originals_layout(inside: Inside) -> None:
    inside("""
    array = np.array([[b"a", "ß"], [None, 7]], dtype=object)
    flat = pb_utils.serialize_byte_tensor(array)
    assert flat == b"\\x01\\0\\0\\0a\\x02\\0\\0\\0" + "ß".encode() + b"\\x04\\0\\0\\0None\\x01\\0\\0\\x007"
    assert pb_utils.serialize_byte_tensor(np.array([b"ab"])) == b"\\x02\\0\\0\\0ab"
    assert pb_utils.serialize_byte_tensor(np.zeros(0, object)) == ()
    assert pb_utils.serialize_byte_tensor(np.zeros(2)) is None
    again = pb_utils.deserialize_bytes_tensor(flat)
    assert again.dtype == np.object_ and list(again) == [b"a", "ß".encode(), b"None", b"7"]
    """)


# ------------------------------------------------------------------------------------------- arguments


def test_errors_and_hints_check_their_arguments(inside: Inside) -> None:
    inside("""
    Error = pb_utils.TritonError
    names = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")
    assert [int(getattr(Error, name)) for name in names] == list(range(8))
    assert all(isinstance(getattr(Error, name), getattr(Error, "__ErrorCode")) for name in names)
    assert Error(message="why", code=Error.CANCELLED).code() == Error.CANCELLED
    assert not issubclass(Error, BaseException) and pb_utils.TritonModelException.__bases__ == (Exception,)
    for bad in (None, 3, "INTERNAL"):
        raises(TypeError, "code", Error, "why", bad)
    for bad in (None, 1, b"bytes"):
        raises(TypeError, "message", Error, bad)
    pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, preferred_device_id=1)
    raises(TypeError, "preferred_memory_type", pb_utils.PreferredMemory, 1)
    raises(TypeError, "preferred_device_id", pb_utils.PreferredMemory, pb_utils.TRITONSERVER_MEMORY_GPU, None)
    for level in (None, 1):
        raises(TypeError, "Logger", pb_utils.Logger.log, "text", level)
    raises(TypeError, "Logger", pb_utils.Logger.log_info, None)
    """)


def test_numbers_of_a_made_request_have_their_ranges(inside: Inside) -> None:
    inside("""
    import json
    good = dict(inputs=[], requested_output_names=[], model_name="m")
    Request = pb_utils.InferenceRequest
    for name, bad in (("flags", -1), ("flags", 1 << 32), ("timeout", -1), ("timeout", 1 << 64), ("correlation_id", -1),
                      ("correlation_id", 1 << 64), ("flags", "1"), ("inputs", "ab"), ("requested_output_names", "ab")):
        raises(TypeError, name, Request, **dict(good, **{name: bad}))
    request = Request("id", True, [], ["O"], "m", 2, 3, (1 << 64) - 1)
    said = (request.request_id(), request.correlation_id(), request.flags(), request.timeout())
    assert said == ("id", 1, 3, (1 << 64) - 1)
    request.set_flags(flags=2)
    assert request.flags() == 2 and not request.is_cancelled()
    raises(TypeError, "flags", request.set_flags, -1)
    raises(TypeError, "flags", request.set_flags, None)
    trace = c_python_backend_utils.InferenceTrace("context")
    assert Request(trace=trace, **good).trace() is trace and Request(**good).trace().get_context() is None
    assert Request(**good).parameters() == "{}"
    error = pb_utils.TritonModelException
    raises(error, ", got <class 'list'>", Request, parameters=[1], **good)
    raises(error, "found type <class 'float'>", Request, parameters={"a": 0.5}, **good)
    """)


# ------------------------------------------------------------------------------------ what comes of it


def test_parameters_of_a_response_reach_the_caller(model: tensorferry.Model) -> None:
    code = b"parameters = {'i': -3, 'b': True, 's': 'text', 'e': '', 'big': (1 << 63) - 1}"
    out = model.infer({"CODE": [code]})
    assert out.parameters == {"i": -3, "b": True, "s": "text", "e": "", "big": (1 << 63) - 1}
    assert type(out.parameters["b"]) is bool
    assert model.infer({"CODE": [b""]}).parameters == {}
    with pytest.raises(tensorferry.errors.InvalidRequest, match="at most 4096 bytes"):
        model.infer({"CODE": [b"parameters = {'x' * 5000: 1}"]})
    assert model.infer({"CODE": [b""]}).parameters == {}


def test_parameters_of_a_request_are_what_they_are(model: tensorferry.Model) -> None:
    code = [b"result = request.parameters()"]
    values = {"i": np.int64(3), "f": np.float64(0.5), "s": np.str_("x"), "min": -(1 << 63)}
    out = model.infer({"CODE": code}, parameters=values)
    assert out["RESULT"].numpy()[0] == b'{"i": 3, "f": 0.5, "s": "x", "min": -9223372036854775808}'
    with pytest.raises(OverflowError):
        model.infer({"CODE": code}, parameters={"i": 1 << 63})
    with pytest.raises(TypeError, match="bool, int, float or str"):
        model.infer({"CODE": code}, parameters={"i": [1]})  # type: ignore[dict-item]


@pytest.mark.parametrize("code", ["NOT_FOUND", "INVALID_ARG", "CANCELLED", "UNAVAILABLE"])
def test_an_error_that_a_model_returns_keeps_code_and_text(model: tensorferry.Model, code: str) -> None:
    said = f"answer = pb_utils.InferenceResponse([], pb_utils.TritonError('why\\ud800', pb_utils.TritonError.{code}))"
    with pytest.raises(tensorferry.Error, match=r"why\\ud800") as caught:
        model.infer({"CODE": [said.encode()]})
    assert caught.value.code in (code, code + "UMENT")


def test_the_longest_error_is_cut_and_kills_nobody(model: tensorferry.Model) -> None:
    said = b"answer = pb_utils.InferenceResponse([], pb_utils.TritonError('x' * (20 << 20)))"
    with pytest.raises(tensorferry.Error, match="cut") as caught:
        model.infer({"CODE": [said]})
    assert len(str(caught.value)) < 2 << 20
    with pytest.raises(tensorferry.Error, match="ValueError: yy"):
        model.infer({"CODE": [b"raise ValueError('y' * (20 << 20))"]})
    assert model.infer({"CODE": [b""]}).parameters == {}


def test_text_that_is_no_utf8_goes_into_the_log_and_into_names(inside: Inside, model: tensorferry.Model) -> None:
    inside("pb_utils.Logger.log_info('lonely \\ud800 surrogate')")
    out = model.infer({"CODE": [b"more = [pb_utils.Tensor('lonely\\ud800', np.zeros(2))]"]}, outputs=None)
    assert list(out) in (["RESULT"], ["RESULT", "lonely\\ud800"])


# --------------------------------------------------------------------------------- arrays that misbehave


def test_a_tensor_whose_array_changes_its_dtype_is_refused(model: tensorferry.Model) -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
array = np.zeros(1000)
tensor = pb_utils.Tensor("RESULT", array)
array.dtype = np.int8
raises(pb_utils.TritonModelException, "NumPy dtype is not supported.", tensor.to_dlpack)
answer = pb_utils.InferenceResponse([tensor])
"""
    with pytest.raises(tensorferry.Error, match="NumPy dtype is not supported"):
        model.infer({"CODE": [code.encode()]})


def test_strings_whose_str_changes_their_array_are_written_as_they_were(model: tensorferry.Model) -> None:
    code = """
class Odd:
    def __init__(self, array): self.array = array
    def __str__(self):
        self.array[:] = [b"changed" * 100 for _ in self.array]
        return "odd"
array = np.empty(50, object)
array[:] = [Odd(array) for _ in array]
answer = pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", array)])
"""
    out = model.infer({"CODE": [code.encode()]})
    assert list(out["RESULT"].numpy()) == [b"odd"] * 50


def test_answers_that_change_while_they_are_read_are_an_error_or_an_answer(model: tensorferry.Model) -> None:
    code = """
class Odd:
    def __str__(self):
        tensors.clear()
        return "odd"
array = np.array([Odd()], object)
answer = pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", array), pb_utils.Tensor("B", np.zeros(3))])
tensors = answer.output_tensors()
"""
    assert list(model.infer({"CODE": [code.encode()]})["RESULT"].numpy()) == [b"odd"]


def test_dlpack_says_what_an_array_is_or_refuses(inside: Inside) -> None:
    inside("""
    import ctypes
    structured = np.zeros(10, "i1,<f4")["f1"]
    raises(BufferError, "strides", pb_utils.Tensor("A", structured).to_dlpack)
    class Head(ctypes.Structure):  # DLManagedTensorVersioned up to its flags
        _fields_ = [("version", ctypes.c_uint32 * 2), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
                    ("flags", ctypes.c_uint64)]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    def flags(capsule):
        return Head.from_address(pointer(capsule, b"dltensor_versioned")).flags
    array = np.zeros(10)
    assert flags(pb_utils.Tensor("A", array).__dlpack__(max_version=(1, 0))) == 0
    array.flags.writeable = False
    assert flags(pb_utils.Tensor("A", array).__dlpack__(max_version=(1, 0))) == 1
    assert flags(pb_utils.Tensor.from_dlpack("A", array).__dlpack__(max_version=(1, 0))) == 1
    pb_utils.Tensor("A", array).to_dlpack()  # as the original does
    for options in (dict(max_version=1), dict(dl_device=2)):
        raises(TypeError, "pairs", pb_utils.Tensor("A", np.zeros(1)).__dlpack__, **options)
    raises(BufferError, "copy", pb_utils.Tensor("A", np.zeros(1)).__dlpack__, copy=True)
    odd = np.zeros(33, np.uint8)[1:].view(np.float64)
    view = pb_utils.Tensor.from_dlpack("A", odd).as_numpy()
    assert not view.flags.aligned and (view == 0).all()
    """)


def test_a_forked_child_gets_ordinary_arrays_from_empty(inside: Inside) -> None:
    code = """
    import os
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        array = pb_utils.empty((1 << 24,), np.float32)
        array[:] = 1
        pb_utils.give(array)
        os.write(write, b"%d" % (array.sum() == 1 << 24 and not request.is_cancelled()))
        os._exit(0)
    os.close(write)
    result = os.read(read, 10).decode()
    os.waitpid(child, 0)
    """
    assert inside(code) == "1"


def test_empty_takes_what_numpys_empty_takes(inside: Inside) -> None:
    inside("""
    assert pb_utils.empty(np.int64(3), "f4").shape == (3,) and pb_utils.empty([2, np.int32(3)], bool).shape == (2, 3)
    assert pb_utils.empty((), np.float64).shape == () and pb_utils.empty((0, 4), "i2").shape == (0, 4)
    raises(TypeError, "dtype", pb_utils.empty, 3, ">f4")
    array = pb_utils.empty(4096, "f4")
    part = array[::2]
    pb_utils.give(part)
    assert not part.flags.writeable and array.flags.writeable
    """)
