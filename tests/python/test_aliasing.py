"""Nothing changes under anybody (docs/design.md, rule 9): what a model keeps or shares is never what a caller holds."""

from __future__ import annotations

import gc
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaded_model import BIG, ONE, Load, Loaded
from site_of_models import until

import tensorferry
from tensorferry import errors


def full_of(array: Any, value: float) -> bool:
    return bool(np.all(array == value))


def edit(arrays: list[Any]) -> None:
    """Each receiver writes its own number, and finds it there when all have."""
    for number, array in enumerate(arrays):
        array[:] = 1000 + number
    assert all(full_of(array, 1000 + number) for number, array in enumerate(arrays))


# ------------------------------------------------------------------------------------ what a model keeps


def test_one_output_buffer_for_all_requests_leaves_a_hundred_answers_unchanged(load: Load) -> None:
    loaded = load(f"""
    if not hasattr(self, "buffer"):
        self.buffer = np.empty({BIG}, np.float32)
    self.buffer[:] = tensors[0].as_numpy()
    return [Response([Tensor("OUT", self.buffer)])]
    """)
    answers = [loaded.ask(value) for value in range(100)]
    assert all(full_of(answer, value) for value, answer in enumerate(answers))
    edit(answers)


def test_an_output_buffer_made_in_shared_memory_and_refilled_is_copied_each_time(load: Load) -> None:
    loaded = load(f"""
    if not hasattr(self, "buffer"):
        self.buffer = pb_utils.empty({BIG}, np.float32)
    self.buffer[:] = tensors[0].as_numpy()
    return [Response([Tensor("OUT", self.buffer)])]
    """)
    answers = [loaded.ask(value) for value in range(5)]
    assert loaded.copied() == 5 * BIG * 4
    assert all(full_of(answer, value) for value, answer in enumerate(answers))


def test_a_buffer_that_a_thread_refills_after_execute_changes_no_answer(load: Load) -> None:
    loaded = load(f"""
    import threading, time
    if not hasattr(self, "buffer"):
        self.buffer = np.empty({BIG}, np.float32) if tensors[0].as_numpy()[0] else None
        self.go = threading.Event()

        def refill():
            while True:
                self.go.wait()
                time.sleep(0.02)
                self.buffer[:] = -1
                self.go.clear()
        threading.Thread(target=refill, daemon=True).start()
    while self.go.is_set():
        time.sleep(0.001)
    self.buffer[:] = tensors[0].as_numpy()
    self.go.set()
    return [Response([Tensor("OUT", self.buffer)])]
    """)
    answers = [loaded.ask(value) for value in range(1, 11)]
    time.sleep(0.05)
    assert all(full_of(answer, value + 1) for value, answer in enumerate(answers))


def test_an_input_passed_through_while_its_view_is_kept_is_copied(load: Load) -> None:
    loaded = load("""
    x = tensors[0].as_numpy()
    self.views = getattr(self, "views", []) + [x[::2]]
    seen = [float(view.min()) for view in self.views] + [float(view.max()) for view in self.views]
    return [Response([Tensor("OUT", x), Tensor("OUT2", np.array(seen, np.float32))])]
    """)
    held = []
    for value in range(8):
        out = loaded.model.infer({"IN": loaded.given(value)})
        held.append(np.asarray(out["OUT"]))
        assert list(np.asarray(out["OUT2"])) == [*range(value + 1), *range(value + 1)]
        held[-1][:] = -5  # what a receiver writes, no view of the model sees
    assert loaded.copied() == 8 * BIG * 4


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param("self.kept = memoryview(y)", id="a memoryview"),
        pytest.param("import ctypes; self.kept = y.ctypes.data_as(ctypes.POINTER(ctypes.c_float))", id="ctypes"),
        pytest.param("self.kept = (value for value in [y]); self.frame = hold(y)", id="a generator's frame"),
        pytest.param(
            "\ntry:\n    raise ValueError(y)\nexcept ValueError as error:\n    self.kept = error", id="a stored exception"
        ),
        pytest.param("cycle = [y]; cycle.append(cycle)", id="a cycle"),
        pytest.param("self.kept = np.from_dlpack(y)", id="NumPy's view by DLPack"),
        pytest.param("self.kept = Tensor('OUT', y)", id="a tensor"),
        pytest.param("self.kept = Tensor('OUT', y).to_dlpack()", id="a capsule"),
        pytest.param("self.kept = Response([Tensor('OUT', y)])", id="a response"),
        pytest.param("self.kept = lambda: y", id="a closure"),
        pytest.param(
            "self.kept = threading.Thread(target=time.sleep, args=(0.01,), kwargs={}); self.kept.y = y", id="a thread"
        ),
    ],
)
@pytest.mark.parametrize("made", ["x", "x * 1", "pb_utils.empty(x.shape, x.dtype)"], ids=["an input", "NumPy's", "empty"])
def test_what_something_still_holds_is_copied_and_never_aliased(load: Load, made: str, keep: str) -> None:
    body = f"""
    import gc, threading, time
    gc.disable()

    def hold(array):
        def frames():
            yield array.sum()
            yield array
        frame = frames()
        next(frame)
        return frame

    x = tensors[0].as_numpy()
    value = float(x[0])
    y = {made}
    y[:] = value
    """
    loaded = load(textwrap.dedent(body) + textwrap.dedent(keep) + "\nreturn [Response([Tensor('OUT', y)])]")
    answers = [loaded.ask(value) for value in range(4)]
    assert loaded.copied() == 4 * BIG * 4
    assert all(full_of(answer, value) for value, answer in enumerate(answers))
    edit(answers)


def test_a_previous_and_a_sum_over_requests_are_the_models_own(load: Load) -> None:
    loaded = load("""
    x = tensors[0].as_numpy()
    if not hasattr(self, "sum"):
        self.sum, self.prev = np.zeros_like(x), np.zeros_like(x)
    self.sum += x
    difference, self.prev = x - self.prev, x
    return [Response([Tensor("OUT", self.sum), Tensor("OUT2", difference)])]
    """)
    sums, differences = [], []
    for value in (1, 4, 9, 16):
        out = loaded.model.infer({"IN": loaded.given(value)})
        sums.append(np.asarray(out["OUT"]))
        differences.append(np.asarray(out["OUT2"]))
    assert [float(array[-1]) for array in sums] == [1, 5, 14, 30]
    assert [float(array[-1]) for array in differences] == [1, 3, 5, 7]
    edit(sums + differences)
    assert float(loaded.ask(0)[0]) == 30


def test_a_delay_line_moves_the_previous_requests_input(load: Load) -> None:
    loaded = load(f"""
    x, before = tensors[0].as_numpy(), getattr(self, "prev", None)
    del tensors
    self.prev = x
    del x
    return [Response([Tensor("OUT", np.zeros({BIG}, np.float32) if before is None else before)])]
    """)
    answers = [loaded.ask(value) for value in range(1, 6)]
    assert [float(answer[7]) for answer in answers] == [0, 1, 2, 3, 4]
    assert loaded.copied() == 0
    edit(answers)
    assert full_of(loaded.ask(9), 5)  # what the model kept is as it came


def test_views_that_a_model_keeps_are_unchanged_when_memory_is_reused(load: Load) -> None:
    loaded = load("""
    x = tensors[0].as_numpy()
    self.kept = getattr(self, "kept", []) + [(float(x[0]), np.from_dlpack(tensors[0]), x[5:9], tensors[0])]
    ok = all((view == value).all() and (part == value).all() for value, view, part, _ in self.kept)
    return [Response([Tensor("OUT", np.float32([ok]))])]
    """)
    for value in range(20):
        assert np.asarray(loaded.model.infer({"IN": loaded.given(value)})["OUT"])[0] == 1


def test_arrays_freed_by_another_thread_or_after_many_requests_go_back(load: Load) -> None:
    loaded = load("""
    import threading
    x = tensors[0].as_numpy() + 1
    self.kept = getattr(self, "kept", [])
    if len(self.kept) == 6:
        pile, self.kept = self.kept, []
        thread = threading.Thread(target=pile.clear)
        del pile
        thread.start()
        thread.join()
    self.kept.append(x)
    return [Response([Tensor("OUT", x)])]
    """)
    answers = [loaded.ask(value) for value in range(30)]
    assert all(full_of(answer, value + 1) for value, answer in enumerate(answers))
    del answers
    gc.collect()
    assert full_of(loaded.ask(1), 2)


def test_an_array_that_grows_and_shrinks_in_place_is_what_it_says(load: Load) -> None:
    """The allocator's realloc: from malloc into the arena, within it, and out of it."""
    loaded = load("""
    value = float(tensors[0].as_numpy()[0])
    a = np.full(10, value, np.float32)
    for size in (70_000, 100, 200_000, 65_536):
        a.resize(size, refcheck=False)
        a[:] = value
    return [Response([Tensor("OUT", a), Tensor("OUT2", np.fromiter((value for _ in range(65_536)), np.float32))])]
    """)
    outs = [loaded.model.infer({"IN": loaded.given(value)}) for value in range(5)]
    for value, out in enumerate(outs):
        assert full_of(np.asarray(out["OUT"]), value)
        assert full_of(np.asarray(out["OUT2"]), value)
        assert np.asarray(out["OUT"]).size == np.asarray(out["OUT2"]).size == BIG


# ------------------------------------------------------------------------------- what answers share


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "t = Tensor('OUT', np.full((1, 4096), 7, np.float32))\nreturn [Response([t]) for _ in tensors]", id="tensor"
        ),
        pytest.param(
            "a = np.full((len(tensors), 4096), 7, np.float32)\n"
            "return [Response([Tensor('OUT', a[i : i + 1])]) for i in range(len(tensors))]",
            id="slices",
        ),
        pytest.param(
            "a = pb_utils.give(np.full((1, 4096), 7, np.float32))\nself.kept = a\n"
            "return [Response([Tensor('OUT', a)]) for _ in tensors]",
            id="given",
        ),
        pytest.param(
            "x = tensors[0].as_numpy()\nx[:] = 7\nreturn [Response([Tensor('OUT', x)]) for _ in tensors]", id="one input"
        ),
        pytest.param(
            "r = Response([Tensor('OUT', np.full((1, 4096), 7, np.float32))])\nreturn [r for _ in tensors]", id="response"
        ),
    ],
)
def test_one_memory_in_a_whole_batch_is_nobodys_twice(load: Load, body: str) -> None:
    loaded = load(body, max_batch=4, delay_us=60_000_000)
    futures = [loaded.model.infer_async({"IN": np.zeros((1, 4096), np.float32)}) for _ in range(4)]
    answers = [np.asarray(future.result()["OUT"]) for future in futures]
    assert until(lambda: loaded.server.statistics()["m"]["executions"])
    assert loaded.server.statistics()["m"]["executions"] == 1
    assert all(full_of(answer, 7) for answer in answers)
    edit(answers)


def test_one_array_in_two_outputs_is_two_arrays(load: Load) -> None:
    loaded = load(ONE + "a = x + 1\nreturn [Response([Tensor('OUT', a), Tensor('OUT2', a)])]")
    out = loaded.model.infer({"IN": loaded.given(1)})
    edit([np.asarray(tensor) for tensor in out.values()])


# ---------------------------------------------------------------------------------------------- give


def test_a_part_that_is_given_gives_nothing_else(load: Load) -> None:
    """The rest is the model's: it goes on editing it."""
    loaded = load(f"""
    if not hasattr(self, "all"):
        self.all = pb_utils.empty({2 * BIG}, np.float32)
        self.all[:] = 1
        pb_utils.give(self.all[:{BIG}])
    self.all[{BIG}:] += 1
    return [Response([Tensor("OUT", self.all[{BIG}:]), Tensor("OUT2", self.all[:{BIG}])])]
    """)
    first = loaded.model.infer({"IN": loaded.given(1)})
    assert loaded.copied() == BIG * 4  # OUT2 moved
    second = loaded.model.infer({"IN": loaded.given(1)})
    assert full_of(np.asarray(first["OUT"]), 2)
    assert full_of(np.asarray(second["OUT"]), 3)
    edit([np.asarray(tensor) for out in (first, second) for tensor in out.values()])


def test_an_array_that_moved_is_neither_moved_nor_given_again(load: Load) -> None:
    """Also when the model lets go of it while its receiver still holds it."""
    loaded = load(f"""
    if not hasattr(self, "old"):
        self.old, self.count = pb_utils.empty({BIG}, np.float32), 0
        self.old[:] = 5
        pb_utils.give(self.old)
    self.count += 1
    old = self.old
    if self.count == 2:
        try:
            pb_utils.give(old)
        except ValueError as error:
            assert "given before" in str(error)
        else:
            raise AssertionError("given twice")
    if self.count == 3:
        del self.old
    return [Response([Tensor("OUT", old)])]
    """)
    answers = [loaded.ask(1) for _ in range(3)]
    assert loaded.copied() == 2 * BIG * 4
    assert all(full_of(answer, 5) for answer in answers)
    edit(answers)
    assert loaded.server.statistics()["m"]["instances"][0]["restarts"] == 0


# ------------------------------------------------------------- requests that come to nothing, or not yet

GATE = """
import os, time
open({began!r}, "w").close()
while not os.path.exists({go!r}):
    time.sleep(0.01)
"""


def gated(load: Load, folder: Path, body: str) -> tuple[Loaded, Path, Path]:
    """A model that begins, then waits for the second file before it looks at its input."""
    began, go = folder / "began", folder / "go"
    return load(GATE.format(began=str(began), go=str(go)) + textwrap.dedent(body)), began, go


@pytest.mark.parametrize("count", [4, BIG], ids=["inline", "arena"])
def test_an_array_edited_right_after_infer_async_has_crossed_as_it_was(load: Load, tmp_path: Path, count: int) -> None:
    loaded, _, go = gated(load, tmp_path, "return [Response([Tensor('OUT', tensors[0].as_numpy())])]")
    array = np.full(count, 3, np.float32)
    future = loaded.model.infer_async({"IN": array})
    array[:] = -1
    go.touch()
    assert full_of(np.asarray(future.result()["OUT"]), 3)
    assert full_of(array, -1)


@pytest.mark.parametrize("ending", ["timeout", "cancel"])
def test_an_array_of_a_request_that_was_given_up_is_given_and_not_used_again(
    load: Load, tmp_path: Path, ending: str
) -> None:
    """As long as the stub may write to it."""
    loaded, began, go = gated(load, tmp_path, "x = tensors[0].as_numpy()\nx[:] = 99\nreturn [Response([Tensor('OUT', x)])]")
    array = loaded.given(1)
    address = array.__array_interface__["data"][0]
    future = loaded.model.infer_async({"IN": array}, timeout=0.2 if ending == "timeout" else None)
    assert until(began.exists)
    if ending == "cancel":
        future.cancel()
    with pytest.raises(tensorferry.Error) as caught:
        future.result()
    assert caught.value.code == {"timeout": "DEADLINE_EXCEEDED", "cancel": "CANCELLED"}[ending]
    assert not array.flags.writeable
    with pytest.raises(errors.InvalidRequest, match=r"given to an earlier request: call model\.empty again"):
        loaded.model.infer({"IN": array})
    del array, future, caught
    gc.collect()
    others = [loaded.given(7) for _ in range(8)]
    assert address not in [other.__array_interface__["data"][0] for other in others]
    go.touch()
    assert until(lambda: loaded.server.statistics()["m"]["executions"] == 1)
    assert all(full_of(other, 7) for other in others)
    held = sum(other.nbytes for other in others)
    assert until(lambda: loaded.server.statistics()["m"]["arena_bytes_in_use"] == held)


REFUSED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "unknown input": lambda array: {"WRONG": array},
    "a second input that the model doesn't have": lambda array: {"IN": array, "WRONG": np.zeros(4, np.float32)},
    "a second input that can't cross": lambda array: {"IN": array, "WRONG": np.zeros(4, ">f4")},
    "the same twice": lambda array: {"IN": array, "WRONG": array},
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("way", ["infer", "infer_async"])
def test_a_request_that_is_refused_leaves_its_arrays_as_they_were(
    load: Load, wrong: Callable[[Any], dict[str, Any]], way: str
) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]")
    array = loaded.given(1)
    with pytest.raises(errors.InvalidRequest):
        getattr(loaded.model, way)(wrong(array))
    assert array.flags.writeable
    array[:] = 5
    before = tensorferry._server.copy_counts()["host_calls"]
    assert full_of(np.asarray(loaded.model.infer({"IN": array})["OUT"]), 5)
    assert tensorferry._server.copy_counts()["host_calls"] == before
    assert not array.flags.writeable


@pytest.mark.parametrize(("shape", "dtype"), [((2, BIG), np.float32), (BIG, np.int32)], ids=["shape", "dtype"])
def test_an_array_that_does_not_fit_is_refused_as_often_as_it_is_sent(load: Load, shape: Any, dtype: type) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]")
    array = loaded.model.empty(shape, dtype)
    for _ in range(2):
        with pytest.raises(errors.InvalidRequest, match=r"inference input 'IN' has .*, model 'm' expects"):
            loaded.model.infer({"IN": array})
        assert array.flags.writeable


def test_what_was_read_only_or_an_answer_stays_so_when_it_is_refused(load: Load) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]")
    array = loaded.given(1)
    array.flags.writeable = False
    answer = np.asarray(tensorferry.give(loaded.model.infer({"IN": loaded.given(2)})["OUT"]))
    for each, writeable in ((array, False), (answer, True)):
        with pytest.raises(errors.InvalidRequest, match="unexpected inference input 'WRONG'"):
            loaded.model.infer({"WRONG": each})
        assert each.flags.writeable == writeable
        loaded.model.infer({"IN": each})
        with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
            loaded.model.infer({"IN": each})


# ---------------------------------------------------------------------- answers that come to nothing


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        pytest.param("raise ValueError('no')", "ValueError: no", id="an exception"),
        pytest.param(
            "return [Response([Tensor('OUT', self.kept), Tensor('OUT2', np.array([chr(0xd800)], object))])]",
            "surrogates not allowed",
            id="an output that cannot be encoded",
        ),
        pytest.param(
            "return [Response([Tensor('OUT', self.kept), Tensor('x' * 5000, x + 1)])]",
            "at most 4096 bytes",
            id="a name too long",
        ),
        pytest.param(
            "return [Response([Tensor('OUT', self.kept), Tensor('OUT2', np.broadcast_to(x[:1], (1 << 40,)))])]",
            "no room for",
            id="no room for an output",
        ),
    ],
)
def test_what_was_copied_for_an_answer_that_fails_goes_back(load: Load, ending: str, text: str) -> None:
    body = f"""
    x = tensors[0].as_numpy()
    if x[0] < 0:
        return [Response([Tensor("OUT", x[:16] + pb_utils_free())])]
    if not hasattr(self, "kept"):
        self.kept = np.ones({BIG}, np.float32)
    {ending}
    """
    # Some arenas' worth of failing answers, and then one that must still find room.
    loaded = load(
        "from c_python_backend_utils import shared_memory\npb_utils_free = shared_memory.free_memory\n"
        + textwrap.dedent(body),
        arena_max_bytes=64 << 20,
    )
    loaded.ask(-1)
    free = float(loaded.ask(-1)[0])
    for _ in range(20):
        with pytest.raises(errors.Error, match=text):
            loaded.model.infer({"IN": loaded.given(1)}, outputs=None)
    assert float(loaded.ask(-1)[0]) >= free
    assert loaded.held() == 0


def test_an_answer_that_finds_no_room_fails_alone(load: Load) -> None:
    """The others of its batch are answered."""
    loaded = load(
        """
        if not hasattr(self, "kept"):
            self.kept = np.ones((1, 5 << 20), np.float32)
        return [Response([Tensor("OUT", self.kept if t.as_numpy()[0, 0] else t.as_numpy())]) for t in tensors]
        """,
        max_batch=4,
        arena_max_bytes=16 << 20,
    )
    values = [0, 1, 0, 0]
    futures = [loaded.model.infer_async({"IN": np.full((1, 4096), value, np.float32)}) for value in values]
    for value, future in zip(values, futures, strict=True):
        if value:
            with pytest.raises(errors.Error, match="no room for"):
                future.result()
        else:
            assert full_of(np.asarray(future.result()["OUT"]), 0)


# ------------------------------------------------------------------------------------------ the caller

SUM = ONE + "return [Response([Tensor('OUT', x.copy())])]"


def test_a_view_of_an_empty_array_is_copied_and_leaves_it_the_callers(load: Load) -> None:
    loaded = load(SUM)
    array = loaded.given(1)
    parts = {"a slice": array[:4096], "all of it": array[:], "reshaped": array.reshape(256, -1), "reversed": array[::-1]}
    for what, view in parts.items():
        before = copied_here()
        out = loaded.model.infer({"IN": view.reshape(-1)})
        assert copied_here() - before == view.nbytes, what
        assert full_of(np.asarray(out["OUT"]), 1)
        assert array.flags.writeable
        assert view.flags.writeable
    del parts, view
    before = copied_here()
    loaded.model.infer({"IN": array})
    assert copied_here() == before
    assert not array.flags.writeable
    for late in (array, array[:10], array.reshape(2, -1)[0], array[::-1]):
        with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
            loaded.model.infer({"IN": late})
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_a_view_that_is_all_that_is_left_of_an_empty_array_is_given(load: Load) -> None:
    loaded = load(SUM)
    view = loaded.given(3).reshape(-1)
    before = copied_here()
    out = loaded.model.infer({"IN": view})
    assert copied_here() == before
    assert full_of(np.asarray(out["OUT"]), 3)
    assert not view.flags.writeable
    with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
        loaded.model.infer({"IN": view})


def copied_here() -> int:
    from tensorferry import _server

    return int(_server.copy_counts()["host_bytes"])


TWO = """
backend: "python"
input [ { name: "A", data_type: TYPE_FP32, dims: [ -1 ] }, { name: "B", data_type: TYPE_FP32, dims: [ -1 ] } ]
output [ { name: "A", data_type: TYPE_FP32, dims: [ -1 ] }, { name: "B", data_type: TYPE_FP32, dims: [ -1 ] } ]
"""


@pytest.mark.parametrize("second", ["array", "array[:]", "array[: 1 << 15]"])
def test_the_same_array_twice_in_a_request_is_two_inputs(site: Any, second: str) -> None:
    model = site.execute(
        "two",
        """
        responses = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
            a += 1
            b += 2
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("A", a), pb_utils.Tensor("B", b)]))
        return responses
        """,
        TWO,
    )
    for array in (np.zeros(BIG, np.float32), model.empty(BIG)):
        array[:] = 0
        out = model.infer({"A": array, "B": eval(second)})
        assert full_of(np.asarray(out["A"]), 1)
        assert full_of(np.asarray(out["B"]), 2)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda a: a[::-1], id="negative strides"),
        pytest.param(lambda a: a[::-3], id="negative steps"),
        pytest.param(lambda a: np.broadcast_to(a[:1], a.shape), id="broadcast"),
        pytest.param(lambda a: np.asfortranarray(a.reshape(16, -1))[3], id="a row in Fortran order"),
        pytest.param(lambda a: a.view(type("Mine", (np.ndarray,), {})), id="a subclass"),
        pytest.param(lambda a: a[:0], id="no elements"),
        pytest.param(lambda a: np.frombuffer(a.tobytes(), np.float32), id="read-only"),
        pytest.param(lambda a: np.ma.masked_less(a, -1), id="masked"),
        pytest.param(lambda a: a.tolist(), id="a list"),
        pytest.param(lambda a: memoryview(a), id="a memoryview"),
        pytest.param(lambda a: np.zeros(a.size, "i1,<f4")["f1"], id="a field, unaligned"),
    ],
)
def test_any_array_of_a_caller_is_read_as_it_is_and_never_edited(load: Load, make: Any) -> None:
    loaded = load("x = tensors[0].as_numpy()\nx += 1\nreturn [Response([Tensor('OUT', x)])]")
    source = make(np.arange(BIG, dtype=np.float32))
    value = source if not isinstance(source, list) else np.float32(source)
    before = np.array(value)
    out = np.asarray(loaded.model.infer({"IN": value})["OUT"])
    np.testing.assert_array_equal(out, before + 1)
    np.testing.assert_array_equal(np.asarray(value), before)
    out[:] = -1
    np.testing.assert_array_equal(np.asarray(value), before)


def test_a_mapped_file_is_read_and_never_edited(load: Load, tmp_path: Any) -> None:
    loaded = load("x = tensors[0].as_numpy()\nx += 1\nreturn [Response([Tensor('OUT', x)])]")
    mapped = np.memmap(tmp_path / "file", np.float32, "w+", shape=(BIG,))
    mapped[:] = 3
    assert full_of(np.asarray(loaded.model.infer({"IN": mapped})["OUT"]), 4)
    assert full_of(mapped, 3)


def test_what_has_no_elements_or_no_axes_keeps_its_shape(site: Any) -> None:
    model = site.execute(
        "shapes",
        """
        inputs = [pb_utils.get_input_tensor_by_name(r, "IN").as_numpy() for r in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x), pb_utils.Tensor("SUM", np.array(x.sum()))])
            for x in inputs
        ]
        """,
        """
        backend: "python"
        input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1, -1 ] } ]
        output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1, -1 ] },
                 { name: "SUM", data_type: TYPE_FP32, dims: [ 1 ] } ]
        """,
    )
    for matrix in (np.float32([[1, 2], [3, 4]]), np.zeros((0, 3), np.float32), np.zeros((2, 0), np.float32)):
        for source in (matrix, model.empty(matrix.shape)):
            if source is not matrix:
                source[:] = matrix
            out = model.infer({"IN": source})
            np.testing.assert_array_equal(np.asarray(out["OUT"]), np.asarray(matrix))
            assert out["OUT"].shape == matrix.shape
            assert out["SUM"].shape == ()
            assert np.asarray(out["SUM"]) == matrix.sum()


class OnlyAnInterface:
    """An array of a library that knows of NumPy's protocol alone."""

    def __init__(self, array: Any) -> None:
        self.kept = array
        self.__array_interface__ = array.__array_interface__


@pytest.mark.parametrize("step", [1, 2], ids=["packed", "strided"])
def test_an_object_with_only_the_array_interface_is_an_array(load: Load, step: int) -> None:
    loaded = load("x = tensors[0].as_numpy()\nx += 1\ndel tensors\nreturn [Response([Tensor('OUT', x)])]")
    array = np.arange(BIG, dtype=np.float32)
    before = tensorferry._server.copy_counts()["host_bytes"]
    out = loaded.model.infer({"IN": OnlyAnInterface(array[::step])})
    assert tensorferry._server.copy_counts()["host_bytes"] - before == BIG * 4 // step
    np.testing.assert_array_equal(np.asarray(out["OUT"]), np.arange(1, BIG + 1, step))
    np.testing.assert_array_equal(array, np.arange(BIG))


def test_big_endian_arrays_are_refused_with_a_way_out(load: Load) -> None:
    loaded = load(SUM)
    array = np.arange(BIG, dtype=">f4")
    with pytest.raises(errors.InvalidRequest, match=r"astype\(array.dtype.newbyteorder"):
        loaded.model.infer({"IN": array})
    out = loaded.model.infer({"IN": array.astype(array.dtype.newbyteorder("="))})
    np.testing.assert_array_equal(np.asarray(out["OUT"]), array)


def test_objects_are_strings_whatever_they_are(load: Load) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]", dtype="TYPE_STRING")
    objects = np.array(["ß", b"\x00b\x00", None, 7, 1.5, "", b""], object)
    as_bytes = ["ß".encode(), b"\x00b\x00", b"None", b"7", b"1.5", b"", b""]
    for value in (objects, objects[::-1][::-1], objects.tolist()):
        assert list(loaded.model.infer({"IN": value})["OUT"].numpy()) == as_bytes
    assert list(loaded.model.infer({"IN": np.array(["a", "bcd"])})["OUT"].numpy()) == [b"a", b"bcd"]
    assert list(loaded.model.infer({"IN": np.array([b"a", b"bcd"])})["OUT"].numpy()) == [b"a", b"bcd"]
    assert loaded.model.infer({"IN": np.array([], object)})["OUT"].numpy().shape == (0,)


def test_an_answer_of_strings_is_passed_on_as_it_lies_or_as_it_was_edited(load: Load) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]", dtype="TYPE_STRING")
    first = loaded.model.infer({"IN": [b"a" * 5000, b"b"]})["OUT"]
    second = loaded.model.infer({"IN": first})["OUT"]
    assert list(second.numpy()) == [b"a" * 5000, b"b"]
    second.numpy()[1] = b"c"
    third = loaded.model.infer({"IN": second})["OUT"]
    assert list(third.numpy()) == [b"a" * 5000, b"c"]


def test_an_answer_in_a_batch_is_unchanged_when_its_neighbours_are_dropped(load: Load) -> None:
    loaded: Loaded = load(
        "a = np.concatenate([t.as_numpy() for t in tensors])\n"
        "return [Response([Tensor('OUT', a[i : i + 1])]) for i in range(len(tensors))]",
        max_batch=4,
    )
    futures = [loaded.model.infer_async({"IN": np.full((1, 4096), value, np.float32)}) for value in range(4)]
    answers = [np.asarray(future.result()["OUT"]) for future in futures]
    kept = answers[2]
    del answers, futures
    for value in range(10):
        loaded.model.infer({"IN": np.full((1, 4096), 100 + value, np.float32)})
    assert full_of(kept, 2)
