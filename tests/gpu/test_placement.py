"""Where the model gets each of its inputs: TENSORFERRY_INPUT_PLACEMENT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_model import COUNT, MARKS_A_COPY, Caller, Driver, copies, needs_devices, ramp, same, served, since, write_model
from site_of_models import until

import tensorferry

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated(devices=2)

BYTES = 4 * COUNT
ON_CPU = 'assert tensor.is_cpu()\nreturn Response([Tensor("OUT", tensor.as_numpy() + 1)])'
ON_GPU = "assert not tensor.is_cpu()" + MARKS_A_COPY


def placed(text: str, more: str = "") -> str:
    return f'parameters {{ key: "TENSORFERRY_INPUT_PLACEMENT" value: {{ string_value: "{text}" }} }}\n{more}'


def sevens(values: Any) -> Any:
    return np.concatenate([np.full(3, 7, np.float32), values[3:]])


def test_an_input_of_the_cpu_arrives_on_the_gpu_by_one_copy(tmp_path: Path) -> None:
    with served(tmp_path, ON_GPU, more=placed("IN=gpu")) as model:
        for start in range(4):
            given = model.empty((COUNT,), np.float32)
            given[:] = ramp(start)
            before = copies()
            answer = model.infer({"IN": given})["OUT"]
            same(since(before, copies()), {"h2d_calls": 1, "h2d_bytes": BYTES})
            same(answer.device, "cuda:0")
            np.testing.assert_array_equal(answer.numpy(), sevens(ramp(start)))


def test_so_does_a_small_one_that_would_travel_in_the_message(tmp_path: Path) -> None:
    with served(tmp_path, ON_GPU, more=placed("IN=gpu")) as model:
        for start in range(3):
            before = copies()
            answer = model.infer({"IN": ramp(start, 8)})["OUT"]
            moved = since(before, copies())
            same((moved["h2d_calls"], moved["h2d_bytes"]), (1, 32))
            np.testing.assert_array_equal(answer.numpy(), sevens(ramp(start, 8)))


def test_and_one_without_elements(tmp_path: Path) -> None:
    body = "assert not tensor.is_cpu()\nreturn Response([tensor])"
    with served(tmp_path, body, gpu=False, outputs="IN", more=placed("IN=gpu")) as model:
        same(model.infer({"IN": np.zeros(0, np.float32)})["IN"].numpy().shape, (0,))


def test_many_at_a_time_keep_their_bytes(tmp_path: Path) -> None:
    with served(tmp_path, ON_GPU, more=placed("IN=gpu")) as model:
        futures = [model.infer_async({"IN": ramp(start)}) for start in range(20)]
        for start, future in enumerate(futures):
            np.testing.assert_array_equal(future.result()["OUT"].numpy(), sevens(ramp(start)))


def test_a_device_input_stays_where_it_is(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ON_GPU, cpu_inputs=True, more=placed("IN = gpu")) as model:
        before = copies()
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"]
        same(since(before, copies()), {})
        np.testing.assert_array_equal(answer.numpy(), sevens(ramp()))


def test_as_is_leaves_each_where_the_caller_has_it(tmp_path: Path) -> None:
    caller = Caller()
    body = 'return Response([Tensor("OUT", tensor.as_numpy() + (1 if tensor.is_cpu() else 2))])'
    with served(tmp_path, body, cpu_inputs=True, gpu=False, more=placed("IN=as_is")) as model:
        np.testing.assert_array_equal(np.asarray(model.infer({"IN": ramp()})["OUT"]), ramp() + 1)
        np.testing.assert_array_equal(np.asarray(model.infer({"IN": caller.given(model, ramp())})["OUT"]), ramp() + 2)


def test_cpu_moves_one_that_the_other_setting_would_leave(tmp_path: Path) -> None:
    caller = Caller()
    with served(tmp_path, ON_CPU, gpu=False, more=placed("IN=cpu")) as model:
        before = copies()
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"]
        same(since(before, copies()), {"d2h_calls": 1, "d2h_bytes": BYTES})
        np.testing.assert_array_equal(np.asarray(answer), ramp() + 1)


def test_what_is_not_named_goes_by_the_other_setting(tmp_path: Path) -> None:
    caller = Caller()
    second = 'input [ { name: "SECOND", data_type: TYPE_FP32, dims: [ -1 ], optional: true } ]\n'
    with served(tmp_path, ON_CPU, cpu_inputs=True, gpu=False, more=placed("SECOND=as_is", second)) as model:
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"]
        np.testing.assert_array_equal(np.asarray(answer), ramp() + 1)


def test_each_instance_gets_them_on_its_own_gpu(tmp_path: Path) -> None:
    needs_devices(2)
    group = "instance_group [ { kind: KIND_GPU, gpus: [ 1 ] } ]\n"
    body = """
kind, ordinal = tensor.__dlpack_device__()
return Response([Tensor("OUT", np.full(1, ordinal, np.float32)), ])
"""
    with served(tmp_path, body, gpu=False, more=placed("IN=gpu", group)) as model:
        same(np.asarray(model.infer({"IN": ramp()})["OUT"]).tolist(), [1.0])


def test_once_warm_the_copy_makes_no_thread_wait(tmp_path: Path) -> None:
    driver = Driver()
    with served(tmp_path, ON_GPU, more=placed("IN=gpu")) as model:
        for _ in range(3):
            model.infer({"IN": ramp()})
        before = driver.counters()
        for _ in range(10):
            model.infer({"IN": ramp()})
        now = since(before, driver.counters())
        waits = (
            "stream_syncs",
            "event_syncs",
            "context_syncs",
            "implicit_syncs",
            "stream_queries",
            "maps",
            "events_created",
        )
        same({name: now.get(name, 0) for name in waits}, dict.fromkeys(waits, 0))


# Nothing else that is looked at brings the copy about: see test_crossing.py.
@pytest.mark.emulated(schedulers=("lazy",), variables={"FAKECUDA_POLLS": "200"})
def test_memory_that_is_used_again_does_not_change_what_was_sent(tmp_path: Path) -> None:
    body = """
    self.kept.append(tensor)
    return Response([Tensor("OUT", self.kept[0].as_numpy() if len(self.kept) > 1 else np.zeros(1, np.float32))])
    """
    with served(tmp_path, body, gpu=False, more=placed("IN=gpu")) as model:
        model.empty((COUNT,), np.float32, device="cuda:0")  # the first use of a GPU
        model.empty((COUNT,), np.float32)
        until(lambda: model.server.statistics()["m"]["arena_pinned_bytes"], 30)
        for start in range(4):
            given = model.empty((COUNT,), np.float32)
            given[:] = ramp(start)
            answer = model.infer({"IN": given})["OUT"]
            if start:
                np.testing.assert_array_equal(np.asarray(answer), ramp(0))


def test_a_stub_that_dies_gives_its_batch_and_memory_back(tmp_path: Path) -> None:
    body = "if tensor.shape()[0] == COUNT:\n    os.kill(os.getpid(), 9)\n" + ON_GPU
    with served(tmp_path, body.replace("COUNT", str(COUNT)), more=placed("IN=gpu")) as model:
        with pytest.raises(tensorferry.errors.StubDied):
            model.infer({"IN": ramp()})
        answer = model.infer({"IN": ramp(1, COUNT + 1)})["OUT"]
        np.testing.assert_array_equal(answer.numpy(), sevens(ramp(1, COUNT + 1)))
        del answer
        model.infer({"IN": ramp(2, 5)})  # brings what was let go of
        gpu = model.server.statistics()["m"]["gpus"]["cuda:0"]
        assert gpu["arena_bytes_in_use"] < BYTES, gpu


def test_a_gpu_that_is_not_there_is_the_requests_error(tmp_path: Path) -> None:
    group = "instance_group [ { kind: KIND_GPU, gpus: [ 7 ] } ]\n"
    with served(tmp_path, ON_GPU, gpu=False, more=placed("IN=gpu", group)) as model:
        with pytest.raises(tensorferry.Error, match="gpu_no_device"):
            model.infer({"IN": ramp()})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("OTHER=gpu", "places input 'OTHER', which the model doesn't have; its inputs: 'IN'"),
        ("IN=tpu", "names a place that there is not"),
        ("IN", "names no place"),
        ("IN=cpu,IN=gpu", "is there twice"),
        ("IN=cpu,,", "names no place"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_model_is_loaded(tmp_path: Path, text: str, why: str) -> None:
    write_model(tmp_path, ON_CPU, gpu=False, more=placed(text))
    with pytest.raises(tensorferry.Error) as raised:
        tensorferry.Server(tmp_path).close()
    assert why in str(raised.value), raised.value


def test_strings_have_no_place_on_a_gpu(tmp_path: Path) -> None:
    write_model(tmp_path, ON_CPU, gpu=False, dtype="TYPE_STRING", more=placed("IN=gpu"))
    with pytest.raises(tensorferry.Error, match="TYPE_STRING exists in CPU memory only"):
        tensorferry.Server(tmp_path).close()
