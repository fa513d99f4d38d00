"""The matrix of DLPack: the dtypes and layouts that other libraries give us, and those that they take from us."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlpack_consumers
import numpy as np
import pytest
from dlpack_consumers import DTYPES, LIBRARIES, RIGHT
from dlpack_producer import NAMELESS, Described, far_layouts, packed_layouts, strided_layouts
from site_of_models import Site

import tensorferry
from tensorferry import errors

HERE = Path(__file__).parent
TRITON = {name: "TYPE_" + name.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP") for name in DTYPES}

# Each rank an input of its own, since a config fixes it; a scalar can be no input, but an output.
INPUTS = {str(rank): ("TYPE_FP32", rank) for rank in (1, 2, 3)} | {name: (TRITON[name], 1) for name in DTYPES}
CONFIG = 'backend: "python"\noutput [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] } ]\n' + "".join(
    f'input [ {{ name: "{name}", data_type: {dtype}, dims: {[-1] * rank}, optional: true }} ]\n'
    for name, (dtype, rank) in INPUTS.items()
)

MODEL = f"""
import json
sys.path.insert(0, {str(HERE)!r})
import dlpack_consumers
import dlpack_producer
from dlpack_producer import *


class TritonPythonModel:
    def initialize(self, args):
        self.given = []

    def execute(self, requests):
        (request,) = requests
        asked = json.loads(request.parameters())
        scope = dict(globals(), self=self, asked=asked, inputs=request.inputs())
        exec(asked.get("code", "out = inputs[0]"), scope)
        out = scope["out"]
        if not isinstance(out, pb_utils.Tensor) or out.name() != "OUT":
            out = pb_utils.Tensor.from_dlpack("OUT", out)
        return [pb_utils.InferenceResponse([out])]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tensorferry.Model]:
    """An identity that runs the `code` of the request's parameters before."""
    site = Site(tmp_path_factory.mktemp("matrix") / "models")
    site.add("matrix", MODEL, CONFIG)
    yield site.start(["matrix"]).model("matrix")
    site.close()


def ask(model: tensorferry.Model, value: Any, rank: int) -> Any:
    return model.infer({str(rank): value})["OUT"]


def run(model: tensorferry.Model, code: str, **parameters: Any) -> Any:
    """The answer to a request whose model made `out` by that code."""
    return model.infer({"1": np.zeros(1, np.float32)}, parameters={"code": code, **parameters})["OUT"]


def far(name: str) -> Any:
    try:
        return far_layouts()[name]
    except OSError as error:
        pytest.skip(f"no room for an address space of 4 GiB: {error}")


# ---------------------------------------------------------------------------------- given to the caller


@pytest.mark.parametrize("name", {**packed_layouts(), **strided_layouts()})
def test_a_caller_may_give_any_layout(model: tensorferry.Model, name: str) -> None:
    given, expected = {**packed_layouts(), **strided_layouts()}[name]
    out = ask(model, given, expected.ndim)
    assert out.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(out), expected)
    assert given.left(), "it was read, and is its producer's as before"
    np.testing.assert_array_equal(np.asarray(ask(model, expected, expected.ndim)), expected)  # NumPy's own array


@pytest.mark.parametrize("name", ["byte offset", "stride"])
def test_a_caller_may_give_what_lies_more_than_4_gib_apart(model: tensorferry.Model, name: str) -> None:
    given, expected = far(name)
    np.testing.assert_array_equal(np.asarray(ask(model, given, expected.ndim)), expected)


@pytest.mark.parametrize("name", NAMELESS)
def test_a_dtype_without_a_name_in_the_config_is_refused_with_a_way_out(model: tensorferry.Model, name: str) -> None:
    memory = np.zeros(64, np.uint8)
    given = Described(memory.ctypes.data, (4,), NAMELESS[name], keep=memory)
    with pytest.raises(errors.InvalidRequest, match=r"input '1' has .*, which does not cross: view its bytes as uint8"):
        ask(model, given, 1)
    assert given.left()


@pytest.mark.parametrize(("device", "text"), [((4, 0), "device type 4"), ((10, 0), "device type 10")])
def test_memory_that_is_no_cpus_is_refused(model: tensorferry.Model, device: tuple[int, int], text: str) -> None:
    memory = np.zeros(64, np.uint8)
    given = Described(memory.ctypes.data, (4,), device=device, keep=memory)
    with pytest.raises(BufferError, match=text):
        ask(model, given, 1)
    assert given.left()


def test_a_later_major_version_is_refused(model: tensorferry.Model) -> None:
    memory = np.zeros(64, np.uint8)
    given = Described(memory.ctypes.data, (4,), version=(2, 0), keep=memory)
    with pytest.raises(BufferError, match="version is too new"):
        ask(model, given, 1)
    assert given.asked["max_version"] == (1, 0)
    assert given.left()


# ---------------------------------------------------------------------------------- given to a model

GIVEN = """
given, expected = getattr(dlpack_producer, asked["of"])()[asked["name"]]
self.given[:] = [given]
out = pb_utils.Tensor.from_dlpack("OUT", given)
np.testing.assert_array_equal(out.as_numpy(), expected)
"""


def freed(model: tensorferry.Model) -> tuple[int, bool]:
    """How often the deleter of what the model was given was called, and whether it was left alone."""
    code = "out = np.float32([self.given[0].freed, self.given[0].left()])"
    count, left = np.asarray(run(model, code))
    return int(count), bool(left)


@pytest.mark.parametrize("name", packed_layouts())
def test_a_model_may_answer_with_any_description_of_c_order(model: tensorferry.Model, name: str) -> None:
    _, expected = packed_layouts()[name]
    out = run(model, GIVEN, of="packed_layouts", name=name)
    assert out.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(out), expected)
    assert freed(model) == (name != "no deleter", False)


@pytest.mark.parametrize("name", strided_layouts())
def test_a_model_is_told_that_another_order_is_not_taken(model: tensorferry.Model, name: str) -> None:
    with pytest.raises(tensorferry.Error, match="DLPack tensor is not contiguous"):
        run(model, GIVEN, of="strided_layouts", name=name)
    assert freed(model) == (0, True)


@pytest.mark.parametrize("name", strided_layouts())
def test_numpys_arrays_of_any_order_are_answers(model: tensorferry.Model, name: str) -> None:
    _, expected = strided_layouts()[name]
    out = run(model, f"out = pb_utils.Tensor('OUT', strided_layouts()[{name!r}][1])")
    np.testing.assert_array_equal(np.asarray(out), expected)


def test_a_model_may_answer_with_a_scalar(model: tensorferry.Model) -> None:
    code = "memory = np.array(7, np.float32)\nout = Described(memory.ctypes.data, (), keep=memory)"
    for made in (code, "out = np.array(7, np.float32)"):
        out = run(model, made)
        assert (out.shape, float(np.asarray(out))) == ((), 7)


def test_a_model_may_answer_from_beyond_4_gib(model: tensorferry.Model) -> None:
    _, expected = far("byte offset")
    np.testing.assert_array_equal(np.asarray(run(model, GIVEN, of="far_layouts", name="byte offset")), expected)


@pytest.mark.parametrize("name", NAMELESS)
def test_a_model_is_told_that_a_dtype_does_not_cross(model: tensorferry.Model, name: str) -> None:
    code = f"""
memory = np.zeros(64, np.uint8)
self.given[:] = [Described(memory.ctypes.data, (4,), NAMELESS[{name!r}], keep=memory)]
out = self.given[0]
"""
    with pytest.raises(tensorferry.Error, match="Dtype is invalid"):
        run(model, code)
    assert freed(model) == (0, True)


# ------------------------------------------------------------------------- what has no name goes as bytes

BITS = {
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
}

UNPACKED = """
import ml_dtypes
packed = inputs[0].as_numpy()
bits = np.unpackbits(packed, bitorder="little").reshape(-1, asked["bits"])
values = np.packbits(bits, axis=1, bitorder="little").reshape(-1).view(asked["dtype"])
out = values.astype(np.float32)
"""


@pytest.mark.parametrize("name", BITS)
def test_values_of_few_bits_go_as_packed_bytes_with_their_bits_said(model: tensorferry.Model, name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype = np.dtype(getattr(ml_dtypes, name))
    values = np.float32([0, 1, 2, 1, 4, 2, 1, 0]).astype(dtype)
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 1), axis=1, bitorder="little")[:, : BITS[name]]
    packed = np.packbits(bits.reshape(-1), bitorder="little")
    assert packed.size == values.size * BITS[name] // 8
    answer = model.infer({"uint8": packed}, parameters={"code": UNPACKED, "dtype": name, "bits": BITS[name]})
    np.testing.assert_array_equal(np.asarray(answer["OUT"]), values.astype(np.float32))


def test_complex_values_go_as_pairs_of_floats(model: tensorferry.Model) -> None:
    sent = np.array([1 + 2j, 3 - 4j], np.complex64)
    with pytest.raises(errors.InvalidRequest, match="dtype complex64, which does not cross: view its bytes as uint8"):
        ask(model, sent, 1)
    out = np.asarray(ask(model, sent.view(np.float32), 1)).view(np.complex64)
    np.testing.assert_array_equal(out, sent)


# ------------------------------------------------------------------------------------- taken from us


MAY_REFUSE = {
    "numpy": set(),
    "tvm_ffi": set(),
    "torch": {"backwards"},
    "jax": {"backwards", "repeated", "every second", "a corner"},
}


def expected_of(library: str) -> dict[str, str]:
    """NumPy has no bfloat16 by DLPack; everything else goes everywhere."""
    return {name: RIGHT for name in DTYPES if (library, name) != ("numpy", "bfloat16")}


def installed(library: str) -> None:
    for module in {library, "ml_dtypes"}:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed" + (": ./dev test --with torch" if module == "torch" else ""))


def split(outcomes: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What a library did not refuse, and what it did."""
    refused = {name: how for name, how in outcomes.items() if how.startswith("refused: ")}
    return {name: how for name, how in outcomes.items() if name not in refused}, refused


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_caller_gives_answers_of_each_dtype_on(tmp_path: Path, library: str) -> None:
    installed(library)
    site = Site(tmp_path / "models")
    site.add("matrix", MODEL, CONFIG)
    site.close()
    command = [sys.executable, str(HERE / "dlpack_consumers.py"), str(tmp_path / "models"), "matrix", library]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), JAX_PLATFORMS="cpu")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    taken, refused = split(json.loads(done.stdout))
    assert taken == expected_of(library), refused


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_gives_inputs_of_each_dtype_on(model: tensorferry.Model, library: str) -> None:
    installed(library)
    code = """
os.environ["JAX_PLATFORMS"] = "cpu"
how = dlpack_consumers.outcome(asked["library"], inputs[0], dlpack_consumers.values(inputs[0].name()))
out = np.frombuffer(how.encode(), np.uint8)
"""
    outcomes = {}
    for name in DTYPES:
        answer = model.infer({name: dlpack_consumers.values(name)}, parameters={"code": code, "library": library})
        outcomes[name] = np.asarray(answer["OUT"]).tobytes().decode()
    taken, refused = split(outcomes)
    assert taken == expected_of(library), refused


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_model_gives_on_in_any_order_is_seen_right_or_refused(model: tensorferry.Model, library: str) -> None:
    installed(library)
    code = """
os.environ["JAX_PLATFORMS"] = "cpu"
def how(array):
    return dlpack_consumers.outcome(asked["library"], pb_utils.Tensor("X", array), array)

layouts = {**packed_layouts(), **strided_layouts()}
outcomes = {name: how(array) for name, (_, array) in layouts.items()}
outcomes["rank 0"] = how(np.array(7, np.float32))
read_only = np.arange(9, dtype=np.float32)
read_only.flags.writeable = False
outcomes["read-only"] = how(read_only)
out = np.frombuffer(json.dumps(outcomes).encode(), np.uint8)
"""
    outcomes = json.loads(np.asarray(run(model, code, library=library)).tobytes())
    taken, refused = split(outcomes)
    assert set(taken.values()) == {RIGHT}, taken
    assert set(refused) <= MAY_REFUSE[library], refused
