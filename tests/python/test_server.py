"""The embedded server from Python, through real stubs. Models are written into the test's own folder."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import tensorferry
from tensorferry import _server, errors

Start = Callable[..., tensorferry.Model]

CONFIG = """
backend: "python"
input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] } ]
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with one model whose `one(self, x)` has the given body; returns the model."""
    servers = []

    def begin(body: str, config: str = CONFIG, extra: str = "") -> tensorferry.Model:
        folder = tmp_path / "m" / "1"
        folder.mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(config)
        source = """
            import os, sys, threading
            import numpy as np
            import triton_python_backend_utils as pb_utils

            class TritonPythonModel:
                def execute(self, requests):
                    tensors = [pb_utils.get_input_tensor_by_name(r, "IN") for r in requests]
                    outputs = [self.one(t.as_numpy()) for t in tensors]
                    del tensors
                    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", o)]) for o in outputs]

                def one(self, x):
            """
        text = textwrap.dedent(source) + textwrap.indent(textwrap.dedent(body), " " * 8) + "\n" + extra
        (folder / "model.py").write_text(text)
        server = tensorferry.Server(tmp_path)
        servers.append(server)
        model = server.model("m")
        model.server = server  # type: ignore[attr-defined]
        return model

    yield begin
    for server in servers:
        server.close()


def stub_copied(model: tensorferry.Model) -> int:
    return int(model.server.statistics()["m"]["stub_copied_bytes"])  # type: ignore[attr-defined]


BIG = 1 << 18


def test_an_ordinary_array_is_copied_once_and_never_edited(start: Start) -> None:
    model = start("x += 1\nreturn x")
    a = np.arange(BIG, dtype=np.float32)
    before = _server.copy_counts()
    out = model.infer({"IN": a})
    after = _server.copy_counts()
    assert after["host_bytes"] - before["host_bytes"] == a.nbytes
    assert stub_copied(model) == 0
    assert a[0] == 0
    assert np.asarray(out["OUT"])[0] == 1


def test_an_array_from_empty_crosses_without_a_copy_and_is_given(start: Start) -> None:
    model = start("return x")
    x = model.empty(BIG, np.float32)
    x[:] = 3
    address = x.__array_interface__["data"][0]
    before = _server.copy_counts()["host_calls"]
    out = np.asarray(model.infer({"IN": x})["OUT"])
    assert _server.copy_counts()["host_calls"] == before
    assert stub_copied(model) == 0
    assert out.__array_interface__["data"][0] == address
    assert out.flags.writeable
    assert not x.flags.writeable
    with pytest.raises(errors.InvalidRequest, match=r"call model\.empty again"):
        model.infer({"IN": x})


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        pytest.param("return x", 0, id="passed through"),
        pytest.param("return x * 2", 0, id="new array"),
        pytest.param("return x[: x.size // 2]", 0, id="slice of the input"),
        pytest.param("return (x * 2)[1024:]", 0, id="slice of a new array"),
        pytest.param("return (x * 2)[::2]", 1, id="strided"),
        pytest.param("return np.broadcast_to(np.float32(1), x.shape)", 1, id="broadcast"),
        pytest.param("self.kept = x * 2\nreturn self.kept", 1, id="kept by the model"),
        pytest.param("self.kept = x\nreturn x", 1, id="input kept by the model"),
        pytest.param("y = pb_utils.empty(x.shape, np.float32)\ny[:] = x\nreturn y", 0, id="pb_utils.empty"),
    ],
)
def test_outputs_are_copied_only_where_they_must_be(start: Start, body: str, copies: int) -> None:
    model = start(body)
    x = model.empty(BIG, np.float32)
    x[:] = 1
    out = np.asarray(model.infer({"IN": x})["OUT"])
    assert stub_copied(model) == copies * out.nbytes


def test_answers_held_by_callers_never_change(start: Start) -> None:
    body = "if not hasattr(self, 'b'):\n    self.b = np.empty(x.size, np.float32)\nself.b[:] = x\nreturn self.b"
    model = start(body)
    held = [model.infer({"IN": np.full(4096, i, np.float32)})["OUT"] for i in range(100)]
    for i, tensor in enumerate(held):
        assert np.all(np.asarray(tensor) == i)


def test_a_delay_line_returns_the_previous_input_unchanged(start: Start) -> None:
    model = start("prev, self.prev = getattr(self, 'prev', x), x\nreturn prev")
    model.infer({"IN": np.zeros(4096, np.float32)})
    for i in range(1, 20):
        out = np.asarray(model.infer({"IN": np.full(4096, i, np.float32)})["OUT"])
        assert np.all(out == i - 1)
        out += 1000  # an answer is its receiver's own


def test_a_sum_over_requests_is_the_models_own(start: Start) -> None:
    model = start("if not hasattr(self, 's'):\n    self.s = np.zeros(x.size, np.float32)\nself.s += x\nreturn self.s")
    for i in range(1, 10):
        out = np.asarray(model.infer({"IN": np.ones(4096, np.float32)})["OUT"])
        assert np.all(out == i)
        out[:] = -1


def test_a_response_outlives_its_server(start: Start) -> None:
    model = start("return x * 2")
    out = model.infer({"IN": np.full(BIG, 2, np.float32)})["OUT"]
    model.server.close()  # type: ignore[attr-defined]
    assert np.all(np.asarray(out) == 4)
    with pytest.raises(errors.Closed):
        model.infer({"IN": np.zeros(4, np.float32)})


def test_an_exception_has_type_message_and_frames(start: Start) -> None:
    model = start("raise KeyError('nope')")
    with pytest.raises(errors.ModelError, match=r"message: KeyError: 'nope'\n\nAt:\n") as caught:
        model.infer({"IN": np.zeros(4, np.float32)}, request_id="r7")
    assert (caught.value.model, caught.value.instance, caught.value.request_id) == ("m", "m_0_0", "r7")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("tuple()", "Expected a list in the execute return, found type '<class 'tuple'>'."),
        ("[]", "Number of InferenceResponse objects do not match the number of InferenceRequest objects."),
        (
            "[3]",
            "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'int'>'.",
        ),
    ],
)
def test_a_wrong_return_is_told_in_the_original_words(start: Start, answer: str, text: str) -> None:
    model = start("return x", extra=f"\n    def execute(self, requests):\n        return {answer}\n")
    with pytest.raises(errors.ModelError) as caught:
        model.infer({"IN": np.zeros(4, np.float32)})
    assert text in str(caught.value)


def test_a_triton_error_keeps_its_code(start: Start) -> None:
    extra = """
        def execute(self, requests):
            error = pb_utils.TritonError("too cold", pb_utils.TritonError.UNAVAILABLE)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
    """
    model = start("return x", extra=textwrap.indent(textwrap.dedent(extra), "    "))
    with pytest.raises(tensorferry.Error, match="too cold") as caught:
        model.infer({"IN": np.zeros(4, np.float32)})
    assert caught.value.code == "UNAVAILABLE"


def test_a_stub_that_exits_is_started_again(start: Start) -> None:
    model = start("if x[0] == 1:\n    os._exit(3)\nreturn x")
    with pytest.raises(errors.StubDied, match="exited with code 3"):
        model.infer({"IN": np.ones(4, np.float32)})
    assert np.all(np.asarray(model.infer({"IN": np.zeros(4, np.float32)}, timeout=30)["OUT"]) == 0)


def test_a_timeout_cancels_and_kills_nobody(start: Start) -> None:
    model = start("import time\ntime.sleep(float(x[0]))\nreturn x")
    with pytest.raises(errors.Timeout):
        model.infer({"IN": np.full(1, 0.4, np.float32)}, timeout=0.05)
    model.infer({"IN": np.zeros(1, np.float32)}, timeout=30)
    statistics = model.server.statistics()["m"]  # type: ignore[attr-defined]
    assert statistics["instances"][0]["restarts"] == 0


def test_futures_can_be_awaited(start: Start) -> None:
    model = start("return x + 1")

    async def many() -> list[float]:
        futures = [model.infer_async({"IN": np.full(4, i, np.float32)}) for i in range(16)]
        return [float(np.asarray((await future)["OUT"])[0]) for future in futures]

    assert asyncio.run(many()) == [float(i + 1) for i in range(16)]


def test_wrong_requests_say_what_was_expected(start: Start) -> None:
    model = start("return x")
    with pytest.raises(errors.InvalidRequest, match="expects float32"):
        model.infer({"IN": np.zeros(4, np.int64)})
    with pytest.raises(errors.InvalidRequest, match="'IN'"):
        model.infer({"WRONG": np.zeros(4, np.float32)})


def test_a_model_may_use_processes_and_threads(start: Start) -> None:
    body = """
    import multiprocessing, subprocess
    with multiprocessing.get_context("fork").Pool(2) as pool:
        total = sum(pool.map(abs, [int(v) for v in x[:4]]))
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    done = []
    thread = threading.Thread(target=lambda: done.append(x * total))
    thread.start()
    thread.join()
    return done[0]
    """
    model = start(body)
    out = np.asarray(model.infer({"IN": np.full(4096, -2, np.float32)})["OUT"])
    assert np.all(out == -16)


def test_in_a_forked_child_the_server_is_void(start: Start) -> None:
    model = start("return x")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            model.infer({"IN": np.zeros(BIG, np.float32)})
        except errors.Closed as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        assert b"fork" in pipe.read()
    assert np.all(np.asarray(model.infer({"IN": np.ones(4, np.float32)})["OUT"]) == 1)


def test_strings_cross_both_ways(tmp_path: Path) -> None:
    demo = Path(tensorferry.__file__).parent / "demo_models"
    with tensorferry.Server(demo, models=["tokenize"]) as server:
        out = server.model("tokenize").infer({"TEXT": [b"Stra\xc3\x9fe und Meer", b"", b"a\x00b"]})
        assert list(out["LENGTHS"].numpy()) == [3, 0, 2]
        assert list(out["TOKENS"].numpy()) == ["straße".encode(), b"und", b"meer", b"a", b"b"]
