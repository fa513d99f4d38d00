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
    def execute(self, requests):
        responses = []
        for request in requests:
            code = pb_utils.get_input_tensor_by_name(request, "CODE").as_numpy()[0].decode()
            scope = dict(globals(), request=request)
            exec(code, scope)
            result = np.array([str(scope.get("result", "")).encode()], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", result)]))
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
    raises(TypeError, ", got <class 'list'>", Response, [], parameters=[1])
    raises(TypeError, "Expect parameters values to have type bool/int/str, found type <class 'float'>", Response, [],
           parameters={"a": 1.5})
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
