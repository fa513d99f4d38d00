"""PyTorch on both sides: tensors as inputs and outputs of a model, as arguments and answers of a caller.

Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from loaded_model import BIG
from site_of_models import Site

import tensorferry
from tensorferry import _server, errors

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")

CONFIG = """
backend: "python"
input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ], optional: true },
        { name: "BF16", data_type: TYPE_BF16, dims: [ -1 ], optional: true } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] } ]
"""

# Importing torch takes seconds, so one model runs the code of all tests, each with a `self` of its own.
MODEL = """
import json, textwrap, types
import torch


class TritonPythonModel:
    def initialize(self, args):
        self.selves = {}

    def execute(self, requests):
        (request,) = requests
        test, code = (json.loads(request.parameters())[key] for key in ("test", "code"))
        self = self.selves.setdefault(test, types.SimpleNamespace())
        scope = dict(
            np=np, torch=torch, pb_utils=pb_utils, Tensor=pb_utils.Tensor, Response=pb_utils.InferenceResponse
        )
        exec("def answers(self, tensors):\\n" + textwrap.indent(code, " "), scope)
        tensors = request.inputs()
        del request, requests[:]
        return scope.pop("answers")(self, [tensors.pop()])
"""


class Torch:
    """The model, and what it copied."""

    def __init__(self, site: Site) -> None:
        site.add("torch", MODEL, CONFIG)
        self.site = site
        self.model = site.start(["torch"]).model("torch")
        self.test = ""

    def copied(self) -> int:
        return int(self.site.server.statistics()["torch"]["stub_copied_bytes"])

    def given(self, value: float) -> Any:
        array = self.model.empty(BIG)
        array[:] = value
        return array

    def run(self, code: str, value: Any) -> Any:
        """The one output, to an input `value`."""
        bf16 = getattr(value, "dtype", None) in (torch.bfloat16, "bfloat16")
        (out,) = self.model.infer({"BF16" if bf16 else "IN": value}, parameters={"test": self.test, "code": code}).values()
        return out


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torch]:
    site = Site(tmp_path_factory.mktemp("torch") / "models")
    yield Torch(site)
    site.close()


@pytest.fixture
def stub(one_model: Torch, request: pytest.FixtureRequest) -> Torch:
    one_model.test = request.node.nodeid
    return one_model


TORCH = "x = tensors.pop()\nt = torch.from_dlpack(x)\n"


def copied_here() -> int:
    return int(_server.copy_counts()["host_bytes"])


# ------------------------------------------------------------------------------------------ in the stub


@pytest.mark.parametrize(
    ("ending", "copies"),
    [
        pytest.param("t.add_(1)\nreturn [Response([x])]", 0, id="an input edited in place"),
        pytest.param("t.add_(1)\ndel x\nreturn [Response([Tensor.from_dlpack('OUT', t)])]", 0, id="an input's view"),
        pytest.param("t.add_(1)\ndel x\nreturn [Response([Tensor('OUT', t.numpy())])]", 0, id="an input's view by NumPy"),
        pytest.param("return [Response([Tensor.from_dlpack('OUT', t + 1)])]", 1, id="owned"),
        pytest.param("return [Response([Tensor('OUT', (t + 1).numpy())])]", 1, id="owned, by NumPy"),
        pytest.param("y = t + 1\nself.kept = y\nreturn [Response([Tensor.from_dlpack('OUT', y)])]", 1, id="kept"),
        pytest.param(
            "y = torch.utils.dlpack.to_dlpack(t + 1)\nreturn [Response([Tensor.from_dlpack('OUT', y)])]", 1, id="a capsule"
        ),
        pytest.param("return [Response([Tensor('OUT', (t + 1).reshape(256, -1).T.numpy())])]", 1, id="transposed"),
        pytest.param("return [Response([Tensor('OUT', (t.repeat(2) + 1)[::2].numpy())])]", 1, id="every second"),
        pytest.param("return [Response([Tensor('OUT', (t[:1] + 1).expand(t.shape).numpy())])]", 1, id="expanded"),
        pytest.param(
            "y = (t + 1).requires_grad_()\nreturn [Response([Tensor.from_dlpack('OUT', y.detach())])]", 1, id="detached"
        ),
        pytest.param(
            "y = torch._neg_view(-t - 1)\nassert y.is_neg()\nreturn [Response([Tensor.from_dlpack('OUT', y)])]",
            1,
            id="negative",
        ),
        pytest.param(
            "y = torch.complex(t, -t - 1).conj().imag\nassert y.is_neg()\nreturn [Response([Tensor.from_dlpack('OUT', y)])]",
            1,
            id="the imaginary part of a conjugate",
        ),
        pytest.param(
            "y = pb_utils.empty(t.shape, 'f4')\ntorch.add(t, 1, out=torch.from_numpy(y))\n"
            "return [Response([Tensor('OUT', y)])]",
            0,
            id="computed into pb_utils.empty",
        ),
        pytest.param(
            "y = torch.from_numpy(pb_utils.empty(t.shape, 'f4'))\ntorch.add(t, 1, out=y)\n"
            "return [Response([Tensor.from_dlpack('OUT', y)])]",
            0,
            id="over pb_utils.empty",
        ),
    ],
)
def test_copies_of_tensors_in_the_stub(stub: Torch, ending: str, copies: int) -> None:
    for value in (1, 2):
        before = stub.copied()
        out = stub.run(TORCH + ending, stub.given(value))
        assert stub.copied() - before == copies * BIG * 4
        assert np.all(np.asarray(out) == value + 1)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        pytest.param("Tensor.from_dlpack('OUT', t.reshape(256, -1).T)", "DLPack tensor is not contiguous", id="transposed"),
        pytest.param("Tensor.from_dlpack('OUT', t[::2])", "DLPack tensor is not contiguous", id="every second"),
        pytest.param("Tensor.from_dlpack('OUT', t.clone().requires_grad_())", "require gradient", id="requires_grad"),
        pytest.param("Tensor.from_dlpack('OUT', torch.complex(t, t))", "Dtype is invalid", id="complex"),
        pytest.param("Tensor.from_dlpack('OUT', t.to(torch.float8_e5m2))", "Dtype is invalid", id="float8"),
        pytest.param("Tensor('OUT', t)", "numpy.ndarray", id="not NumPy's"),
    ],
)
def test_tensors_that_triton_refuses_are_refused(stub: Torch, ending: str, text: str) -> None:
    with pytest.raises(errors.ModelError, match=text):
        stub.run(TORCH + "return " + ending, stub.given(1))


def test_an_input_is_a_writable_view_of_its_block(stub: Torch) -> None:
    before = stub.copied()
    out = stub.run(
        TORCH + "y = x.as_numpy()\nassert t.data_ptr() == y.ctypes.data and t.dtype == torch.float32\n"
        "t[0] = -7\nassert y[0] == -7\n"
        "again = torch.utils.dlpack.from_dlpack(x.to_dlpack())\nassert again.data_ptr() == t.data_ptr()\n"
        "return [Response([x])]",
        stub.given(3),
    )
    assert list(np.asarray(out)[:2]) == [-7, 3]
    assert stub.copied() == before


def test_a_tensor_kept_beyond_execute_stays_as_it_was(stub: Torch) -> None:
    code = (
        TORCH + "self.kept = getattr(self, 'kept', []) + [(float(t[0]), t, t[3:9])]\n"
        "assert all((a == value).all() and (b == value).all() for value, a, b in self.kept)\nreturn [Response([x])]"
    )
    before = stub.copied()
    answers = [np.asarray(stub.run(code, stub.given(value))) for value in range(10)]
    for value, answer in enumerate(answers):
        assert np.all(answer == value)
        answer[:] = -1
    stub.run(code, stub.given(10))
    assert stub.copied() - before == 11 * BIG * 4  # each is kept, so each is copied


def test_tensors_freed_by_a_thread_give_their_blocks_back(stub: Torch) -> None:
    code = (
        TORCH + "import threading\nbox = [t]\ndel t\nthread = threading.Thread(target=box.clear)\n"
        "thread.start()\nthread.join()\nreturn [Response([x])]"
    )
    before = stub.copied()
    for value in range(20):
        assert np.all(np.asarray(stub.run(code, stub.given(value))) == value)
    assert stub.copied() == before


@pytest.mark.parametrize(
    ("ending", "copies"),
    [
        pytest.param("t.add_(1)\nreturn [Response([x])]", 0, id="edited in place"),
        pytest.param("return [Response([Tensor.from_dlpack('OUT', t + 1)])]", 1, id="owned"),
        pytest.param(
            "return [Response([Tensor.from_dlpack('OUT', torch.utils.dlpack.to_dlpack(t + 1))])]", 1, id="a capsule"
        ),
    ],
)
def test_bfloat16_goes_in_and_out(stub: Torch, ending: str, copies: int) -> None:
    source = torch.arange(BIG, dtype=torch.float32).remainder(200).to(torch.bfloat16)
    copied = stub.copied()
    out = stub.run(TORCH + "assert t.dtype == torch.bfloat16\n" + ending, source)
    assert stub.copied() - copied == copies * BIG * 2
    assert (out.dtype, out.shape) == ("bfloat16", (BIG,))
    before = copied_here()
    answer = torch.from_dlpack(out)
    assert copied_here() == before
    assert answer.dtype == torch.bfloat16
    assert torch.equal(answer, source + 1)
    assert torch.from_dlpack(out).data_ptr() == answer.data_ptr()
    assert source[1] == 1


ADD = TORCH + "t.add_(1)\nreturn [Response([x])]"


def test_bfloat16_answers_pass_on_by_copy_or_given(stub: Torch) -> None:
    first = stub.run(ADD, torch.zeros(BIG, dtype=torch.bfloat16))
    second = stub.run(ADD, first)
    assert torch.from_dlpack(first)[0] == 1
    assert torch.from_dlpack(second)[0] == 2
    before = copied_here()
    third = stub.run(ADD, tensorferry.give(second))
    assert copied_here() == before
    assert torch.from_dlpack(third)[0] == 3
    with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
        stub.run(ADD, second)
    with pytest.raises(BufferError, match="read-only"):
        second.__dlpack__()
    torch.from_dlpack(third).add_(5)
    assert torch.all(torch.from_dlpack(first) == 1)


def test_a_bfloat16_answer_outlives_its_tensor_and_its_server(site: Site) -> None:
    site.add("torch", MODEL, CONFIG)
    model = site.start(["torch"]).model("torch")
    out = model.infer({"BF16": torch.ones(BIG, dtype=torch.bfloat16)}, parameters={"test": "", "code": ADD})
    answer = torch.from_dlpack(out.popitem()[1])
    copy = torch.from_dlpack(model.infer({"BF16": answer}, parameters={"test": "", "code": ADD})["BF16"], copy=True)
    del out
    site.close()
    gc.collect()
    assert torch.all(answer == 2)
    assert torch.all(copy == 3)


# ------------------------------------------------------------------------------------------ at the caller


def test_an_answer_is_edited_in_place_and_changes_nothing_of_anybody(stub: Torch) -> None:
    code = TORCH + "return [Response([Tensor.from_dlpack('OUT', t * 2)])]"
    outs = [stub.run(code, stub.given(value)) for value in range(5)]
    before = copied_here()
    answers = [torch.from_dlpack(out).add_(1) for out in outs]
    assert copied_here() == before
    for value, (out, answer) in enumerate(zip(outs, answers, strict=True)):
        assert answer.data_ptr() == np.asarray(out).ctypes.data
        assert torch.all(answer == 2 * value + 1)


SOURCES = [
    pytest.param(lambda t: t, id="owned"),
    pytest.param(lambda t: t.reshape(256, -1).T.reshape(-1), id="reshaped"),
    pytest.param(lambda t: t.repeat_interleave(2)[::2], id="every second"),
    pytest.param(lambda t: t[:1].expand(BIG), id="expanded"),
    pytest.param(lambda t: t.flip(0), id="flipped"),
    pytest.param(lambda t: t.clone().requires_grad_(), id="requires_grad"),
    pytest.param(lambda t: torch._neg_view(t), id="negative"),
    pytest.param(lambda t: t[:0], id="no elements"),
    pytest.param(lambda t: torch.nn.Parameter(t), id="a parameter"),
    pytest.param(lambda t: t[1:], id="a slice"),
]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_callers_tensor_is_copied_once_and_never_edited(stub: Torch, make: Any, dtype: str) -> None:
    source = make(torch.arange(BIG, dtype=torch.float32).remainder(100).to(getattr(torch, dtype)))
    expected = source.detach().clone()
    before = copied_here()
    out = stub.run(ADD, source)
    assert copied_here() - before == source.numel() * source.element_size()
    answer = torch.from_dlpack(out)
    assert torch.equal(answer, expected + 1)
    assert torch.equal(source.detach(), expected)
    answer.zero_()
    assert torch.equal(source.detach(), expected)


@pytest.mark.parametrize("shape", [(7,), (0, 3), (3, 1, 2), (2, 64, 40)])
def test_axes_of_a_tensor_are_kept(site: Any, shape: tuple[int, ...]) -> None:
    dims = ", ".join(["-1"] * len(shape))
    config = f"""
    backend: "python"
    input [ {{ name: "IN", data_type: TYPE_BF16, dims: [ {dims} ] }} ]
    output [ {{ name: "IN", data_type: TYPE_BF16, dims: [ {dims} ] }} ]
    """
    model = site.execute("axes", "return [pb_utils.InferenceResponse(r.inputs()) for r in requests]", config)
    source = torch.rand(tuple(reversed(shape))).to(torch.bfloat16).permute(*reversed(range(len(shape))))
    out = model.infer({"IN": source})["IN"]
    assert out.shape == tuple(source.shape) == shape
    assert torch.equal(torch.from_dlpack(out), source)


def test_a_tensor_on_another_device_says_so(stub: Torch) -> None:
    class Elsewhere:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("asked for")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (8, 0)  # Metal

    with pytest.raises(BufferError, match="move it there first"):
        stub.run(ADD, Elsewhere())
    with pytest.raises(errors.InvalidRequest, match=r"input .IN. has dtype torch.complex64, which does not cross"):
        stub.run(ADD, torch.zeros(4, dtype=torch.complex64))
