"""Calling a model from Python in all the ways: futures, event loops, threads, deadlines; and what a Server tells."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from site_of_models import CONFIG, Site, until

import tensorferry
from tensorferry import errors

EXECUTE = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            x = request.inputs()[0].as_numpy()
            if x[0] > 0:
                time.sleep(float(x[0]))
        return answers(requests)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for all tests here: `m` sleeps as many seconds as its input says, `free` is another like it."""
    site = Site(tmp_path_factory.mktemp("calls") / "models")
    site.add("m", EXECUTE)
    site.add("free", EXECUTE)
    assert site.server.ready()
    yield site
    site.close()


@pytest.fixture
def model(shared: Site) -> tensorferry.Model:
    return shared.server.model("m")


def sleep_for(seconds: float) -> dict[str, np.ndarray]:
    return {"IN": np.full(4, seconds, np.float32)}


def cancelled(site: Site) -> int:
    return int(site.server.statistics()["m"]["cancelled"])


# ---------------------------------------------------------------------------- futures
def test_a_future_is_done_when_its_answer_is_there(model: tensorferry.Model) -> None:
    future = model.infer_async(sleep_for(0.2))
    assert not future.done()
    with pytest.raises(TimeoutError, match="runs on"):
        future.result(0.01)
    assert np.asarray(future.result()["OUT"])[0] == np.float32(0.2)
    assert future.done()
    assert future.result() is future.result(0)


def test_a_cancelled_future_ends_at_once_and_the_model_serves_on(shared: Site, model: tensorferry.Model) -> None:
    before = cancelled(shared)
    future = model.infer_async(sleep_for(0.3), request_id="mine")
    future.cancel()
    with pytest.raises(tensorferry.Error, match="cancelled by the caller") as caught:
        future.result()
    assert (caught.value.code, caught.value.model, caught.value.request_id) == ("CANCELLED", "m", "mine")
    with pytest.raises(tensorferry.Error, match="cancelled"):
        future.result()
    assert until(lambda: cancelled(shared) == before + 1)
    model.infer(sleep_for(0), timeout=30)


def test_a_cancel_after_the_answer_changes_nothing(model: tensorferry.Model) -> None:
    future = model.infer_async(sleep_for(0))
    answer = future.result()
    future.cancel()
    assert future.result() is answer


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), -float("inf")])
def test_a_timeout_that_is_none_is_refused(model: tensorferry.Model, timeout: float) -> None:
    for call in (model.infer, model.infer_async):
        with pytest.raises(ValueError, match="timeout is a number of seconds, zero or more"):
            call(sleep_for(0), timeout=timeout)


@pytest.mark.parametrize("timeout", [1e30, float("inf")])
def test_a_timeout_beyond_every_clock_is_none(model: tensorferry.Model, timeout: float) -> None:
    model.infer(sleep_for(0), timeout=timeout)
    model.infer_async(sleep_for(0), timeout=timeout).result()


def test_a_future_keeps_the_requests_own_deadline(model: tensorferry.Model) -> None:
    future = model.infer_async(sleep_for(0.4), timeout=0.05)
    with pytest.raises(errors.Timeout) as caught:
        future.result()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    model.infer(sleep_for(0), timeout=30)


def test_a_future_that_nobody_keeps_runs_on(shared: Site, model: tensorferry.Model) -> None:
    before = shared.server.statistics()["m"]["succeeded"]
    model.infer_async(sleep_for(0.05))
    assert until(lambda: shared.server.statistics()["m"]["succeeded"] == before + 1)


def test_a_deadline_ends_the_request_though_nobody_waits(shared: Site, model: tensorferry.Model) -> None:
    before = cancelled(shared)
    future = model.infer_async(sleep_for(0.4), timeout=0.05)
    behind = model.infer_async(sleep_for(0), timeout=0.05)
    model.infer_async(sleep_for(0), timeout=0.05)  # nor keeps it
    assert until(lambda: cancelled(shared) == before + 3)
    assert future.done()
    model.infer(sleep_for(0), timeout=30)
    for late in (future, behind):  # the model has ended with the first since
        with pytest.raises(errors.Timeout, match="no answer within the request's timeout"):
            late.result()


def test_a_deadline_that_is_kept_changes_nothing(shared: Site, model: tensorferry.Model) -> None:
    before = cancelled(shared)
    futures = [model.infer_async(sleep_for(0), timeout=60 + i % 2) for i in range(20)]
    assert all(np.asarray(future.result()["OUT"])[0] == 0 for future in futures)
    assert cancelled(shared) == before


def test_ctrl_c_ends_the_wait_for_a_future_and_the_request_runs_on(site: Site, tmp_path: Path) -> None:
    go = tmp_path / "go"
    body = f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\nreturn answers(requests)"
    future = site.execute("waits", body).infer_async({"IN": np.full(4, 3, np.float32)})
    main = threading.get_ident()
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result()
    timer.join()
    assert not future.done()
    go.touch()
    assert np.asarray(future.result()["OUT"])[0] == 3


def test_many_threads_may_wait_for_one_future(model: tensorferry.Model) -> None:
    future = model.infer_async(sleep_for(0.1))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: future.result(), range(8)))
    assert all(answer is answers[0] for answer in answers)


# ---------------------------------------------------------------------------- event loops
def test_an_event_loop_waits_for_many_requests_without_threads(model: tensorferry.Model) -> None:
    async def many() -> tuple[list[float], int]:
        futures = [model.infer_async({"IN": np.full(4, -i, np.float32)}) for i in range(200)]
        threads = threading.active_count()
        answers = await asyncio.gather(*futures)
        return [float(np.asarray(out["OUT"])[0]) for out in answers], threading.active_count() - threads

    values, threads = asyncio.run(many())
    assert values == [-i for i in range(200)]
    assert threads == 0


def test_an_answer_is_not_kept_waiting_by_slower_ones(shared: Site, model: tensorferry.Model) -> None:
    """More of them than a pool of waiting threads would have."""

    async def race() -> list[str]:
        order = []

        async def one(name: str, future: tensorferry.Future) -> None:
            await future
            order.append(name)

        slow = [asyncio.ensure_future(one("slow", model.infer_async(sleep_for(0.02)))) for _ in range(64)]
        quick = asyncio.ensure_future(one("quick", shared.server.model("free").infer_async(sleep_for(0))))
        await asyncio.gather(*slow, quick)
        return order

    assert asyncio.run(race()).index("quick") < 32


def test_the_loop_goes_on_while_a_request_is_awaited(model: tensorferry.Model) -> None:
    async def both() -> int:
        future = asyncio.ensure_future(answer())
        ticks = 0
        while not future.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    async def answer() -> tensorferry.Response:
        return await model.infer_async(sleep_for(0.3))

    assert asyncio.run(both()) > 5


def test_cancelling_the_task_that_awaits_cancels_the_request(shared: Site, model: tensorferry.Model) -> None:
    before = cancelled(shared)

    async def give_up() -> None:
        async def answer() -> tensorferry.Response:
            return await model.infer_async(sleep_for(0.3))

        task = asyncio.ensure_future(answer())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert until(lambda: cancelled(shared) == before + 1)


def test_wait_for_gives_up_in_time_and_cancels(shared: Site, model: tensorferry.Model) -> None:
    before = cancelled(shared)

    async def hurry() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(model.infer_async(sleep_for(0.3)), 0.05)  # type: ignore[arg-type]

    asyncio.run(hurry())
    assert until(lambda: cancelled(shared) == before + 1)


def test_awaiting_keeps_the_deadline_and_raises_the_error(model: tensorferry.Model) -> None:
    async def late() -> None:
        await model.infer_async(sleep_for(0.4), timeout=0.05)

    with pytest.raises(errors.Timeout):
        asyncio.run(late())


def test_a_future_can_be_awaited_again_and_in_another_loop(model: tensorferry.Model) -> None:
    future = model.infer_async(sleep_for(0.05))

    async def twice() -> tuple[tensorferry.Response, tensorferry.Response]:
        async def one() -> tensorferry.Response:
            return await future

        first, second = await asyncio.gather(one(), one())
        return first, second

    first, second = asyncio.run(twice())
    third, _ = asyncio.run(twice())
    assert first is second is third


# ---------------------------------------------------------------------------- threads
def test_threads_share_a_model_and_get_their_own_answers(shared: Site) -> None:
    def work(number: int) -> bool:
        model = shared.server.model("free")
        for i in range(50):
            value = -(number * 1000 + i)
            x = model.empty(2048, np.float32) if i % 2 else np.empty(2048, np.float32)
            x[:] = value
            if not np.all(np.asarray(model.infer({"IN": x})["OUT"]) == value):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_other_threads_run_while_one_waits(model: tensorferry.Model) -> None:
    ticks = 0
    over = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not over.is_set():
            ticks += 1
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks
    model.infer(sleep_for(0.3))
    seen = ticks - before
    over.set()
    thread.join()
    assert seen > 5


# ---------------------------------------------------------------------------- errors
def test_errors_are_one_family_with_the_same_facts() -> None:
    kinds = ["InvalidRequest", "NotFound", "ModelError", "StubDied", "OutOfMemory", "Timeout", "Closed", "QueueFull"]
    for name in kinds:
        kind = getattr(errors, name)
        assert issubclass(kind, tensorferry.Error)
        assert kind.__doc__
        error = kind("text", "CODE", "model", "instance", "id")
        assert (str(error), error.code, error.model, error.instance, error.request_id) == (
            "text",
            "CODE",
            "model",
            "instance",
            "id",
        )


def test_names_and_versions_that_are_not_served_are_not_found(shared: Site) -> None:
    assert shared.server.model("m", 1).version == 1
    with pytest.raises(errors.NotFound, match="loaded: 'free', 'm', 'other'") as caught:
        shared.server.model("nobody")
    assert caught.value.code == "NOT_FOUND"
    with pytest.raises(errors.NotFound, match="served in version 1, not 2"):
        shared.server.model("m", version=2)


TWO_INPUTS = """
backend: "python"
max_batch_size: 4
input [ { name: "IN", data_type: TYPE_FP32, dims: [ 3 ] }, { name: "SECOND", data_type: TYPE_INT64, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ 3 ] } ]
"""
FITS = {"IN": np.ones((1, 3), np.float32), "SECOND": np.ones((1, 5), np.int64)}
TAKES = {  # instead of what fits → what is said
    "shape": ({"IN": np.ones((1, 4), np.float32)}, r"'IN' has shape \[1,4\], model 'm' expects a batch of \[3\]"),
    "rank": ({"SECOND": np.ones(1, np.int64)}, r"'SECOND' has shape \[1\], model 'm' expects a batch of \[-1\]"),
    "missing": ({"SECOND": None}, "'SECOND' is missing: model 'm' needs 'IN', 'SECOND'"),
    "batch too large": ({"IN": np.ones((5, 3), np.float32)}, "'IN' has batch size 5, model 'm' takes 1 to 4"),
    "batch of nothing": ({"IN": np.ones((0, 3), np.float32)}, "'IN' has batch size 0, model 'm' takes 1 to 4"),
    "batches that differ": ({"SECOND": np.ones((2, 5), np.int64)}, "'SECOND' has batch size 2, another .* has 1"),
    "dtype": ({"IN": np.ones((1, 3), np.float64)}, "'IN' has dtype float64, model 'm' expects float32"),
    "unknown": ({"THIRD": np.ones(1)}, "unexpected inference input 'THIRD': model 'm' has inputs 'IN', 'SECOND'"),
}


def test_a_wrong_request_is_told_what_was_expected_and_is_never_sent(site: Site) -> None:
    model = site.execute("m", "return answers(requests)", TWO_INPUTS)
    model.infer(FITS)
    assert until(lambda: site.server.statistics()["m"]["executions"] == 1)
    before = site.server.statistics()["m"]
    for instead, expected in TAKES.values():
        inputs = {name: value for name, value in {**FITS, **instead}.items() if value is not None}
        for way in (model.infer, model.infer_async):
            with pytest.raises(errors.InvalidRequest, match=expected) as caught:
                way(inputs, request_id="mine")
            assert (caught.value.code, caught.value.model, caught.value.request_id) == ("INVALID_ARG", "m", "mine")
    with pytest.raises(errors.InvalidRequest, match="unexpected inference output 'NONE': model 'm' has outputs 'OUT'"):
        model.infer(FITS, outputs=["NONE"])
    after = site.server.statistics()["m"]
    counts = ("executions", "succeeded", "failed", "cancelled", "in_flight")
    assert {key: after[key] for key in counts} == {key: before[key] for key in counts}


IN_BATCHES = """
backend: "python"
max_batch_size: 4
input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] }, { name: "SEEN", data_type: TYPE_STRING, dims: [ 1 ] } ]
dynamic_batching { %s }
"""


# Of a queue's limit: the config, the Server's options, and how many requests are in the stub while one runs.
LIMITS = {
    "config": (IN_BATCHES % "preferred_batch_size: [ 1 ] default_queue_policy { max_queue_size: 2 }", {}, 1),
    "config before option": (
        IN_BATCHES % "preferred_batch_size: [ 1 ] default_queue_policy { max_queue_size: 2 }",
        {"max_queue": 100},
        1,
    ),
    "option": (CONFIG, {"max_queue": 2}, 2),
}


@pytest.mark.parametrize(("config", "options", "inside"), LIMITS.values(), ids=LIMITS.keys())
def test_a_full_queue_refuses_and_answers_those_inside(
    site: Site, tmp_path: Path, config: str, options: dict[str, int], inside: int
) -> None:
    go = tmp_path / "go"
    body = f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\nreturn answers(requests)"
    site.add("m", "class TritonPythonModel:\n    def execute(self, requests):\n" + textwrap.indent(body, "        "), config)
    model = site.start(**options).model("m")
    shape = (1, 2048) if "max_batch_size" in config else (2048,)
    futures = [model.infer_async({"IN": np.full(shape, i, np.float32)}) for i in range(inside + 2)]
    assert site.server.statistics()["m"]["queued"] == 2
    given = model.empty(shape)
    given[:] = 7
    for way in (model.infer, model.infer_async):
        with pytest.raises(errors.QueueFull, match=r"queue of model 'm' is full \(2 requests\).*max_queue") as caught:
            way({"IN": given}, request_id="mine")
        assert (caught.value.code, caught.value.request_id) == ("QUEUE_FULL", "mine")
        assert given.flags.writeable
    go.touch()
    for i, future in enumerate(futures):
        assert np.all(np.asarray(future.result()["OUT"]) == i)
    assert np.all(np.asarray(model.infer({"IN": given})["OUT"]) == 7)


TELLS_WHAT_IT_SAW = """
while not os.path.exists(GO):
    time.sleep(0.01)
import json
found = []
for request in requests:
    seen = [len(requests), request.request_id(), json.loads(request.parameters() or "{}"), request.timeout()]
    x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
    text = np.array([[json.dumps(seen)]] * len(x), object)
    found.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x), pb_utils.Tensor("SEEN", text)]))
return found
"""


def test_requests_of_one_batch_keep_what_is_their_own(site: Site, tmp_path: Path) -> None:
    """They wait while another runs, so that they are one batch."""
    go = tmp_path / "go"
    body = f"GO = {str(go)!r}\n{TELLS_WHAT_IT_SAW}"
    model = site.execute("m", body, IN_BATCHES % "preferred_batch_size: [ 4 ]")
    first = model.infer_async({"IN": np.zeros((1, 8), np.float32)})
    futures = [
        model.infer_async(
            {"IN": np.full((1 + i % 2, 8), i, np.float32)},
            request_id=f"request {i}",
            parameters={"number": i, "text": f"{i}"} if i else None,
            priority=i,
            timeout=60 + i,
        )
        for i in range(3)
    ]
    go.touch()
    first.result()
    for i, future in enumerate(futures):
        out = future.result()
        assert np.array_equal(np.asarray(out["OUT"]), np.full((1 + i % 2, 8), i))
        parameters = {"number": i, "text": f"{i}"} if i else {}
        timeout = (60 + i) * 1_000_000
        assert json.loads(out["SEEN"].numpy()[0, 0]) == [3, f"request {i}", parameters, timeout]
    assert until(lambda: site.server.statistics()["m"]["executions"] == 2)


# ---------------------------------------------------------------------------- what a Server tells and does
def test_an_option_that_does_not_exist_is_refused_with_those_that_do(site: Site) -> None:
    with pytest.raises(TypeError, match=r"no option 'arena_maximum'; there are .*arena_max_bytes") as caught:
        site.start(arena_maximum=1 << 30)
    known = str(caught.value).partition("there are ")[2].split(", ")
    assert len(known) > 5
    assert all(name in str(tensorferry.Server.__doc__) for name in known)


MIB = 1 << 20


def test_arenas_begin_and_grow_by_the_sizes_that_are_given(site: Site) -> None:
    """The server's and the stub's."""
    site.execute("m", "return answers(requests, lambda x: x + 1)")
    site.close()
    server = site.start(arena_initial_bytes=3 * MIB, arena_growth_bytes=5 * MIB, arena_max_bytes=9 * MIB)
    model = server.model("m")

    def arenas() -> tuple[int, int]:
        statistics = server.statistics()["m"]
        return statistics["arena_bytes"], statistics["instances"][0]["arena_bytes"]

    assert arenas()[0] == 0
    given = [model.empty(2 * MIB, np.uint8)]
    assert arenas()[0] == 3 * MIB
    given.append(model.empty(2 * MIB, np.uint8))
    assert arenas()[0] == (3 + 5) * MIB
    with pytest.raises(errors.OutOfMemory, match="arena"):
        model.empty(8 * MIB, np.uint8)
    assert arenas()[0] == 8 * MIB
    del given
    held = [model.infer({"IN": np.ones(MIB // 2, np.float32)})]
    assert arenas()[1] == 3 * MIB
    held.append(model.infer({"IN": np.ones(MIB // 2, np.float32)}))
    assert arenas()[1] == (3 + 5) * MIB


def test_statistics_tell_the_memory_to_reserve(shared: Site, model: tensorferry.Model) -> None:
    x = model.empty(MIB, np.float32)
    x[:] = 0
    model.infer({"IN": x})
    statistics = shared.server.statistics()
    assert statistics["m"]["arena_peak_bytes"] >= 4 * MIB
    expected = 0
    for one in statistics.values():
        expected += one["arena_peak_bytes"]
        for stub in one["instances"]:
            expected += stub["pss_bytes"] + stub["arena_peak_bytes"]
    assert statistics.to_reserve_bytes == expected
    assert tensorferry.server.Statistics().to_reserve_bytes == 0


def test_only_the_models_that_are_named_are_loaded_and_others_later(site: Site) -> None:
    site.add("later", EXECUTE)
    server = site.start(models=["other"])
    assert server.models == ["other"]
    assert server.ready("other")
    assert not server.ready("later")
    server.load("later")
    assert sorted(server.models) == ["later", "other"]
    assert np.all(site.ask("later", -1) == -1)
    server.unload("later")
    assert server.models == ["other"]
    assert server.ready()


def test_outputs_can_be_chosen(shared: Site) -> None:
    demo = Path(tensorferry.__file__).parent / "demo_models"
    with tensorferry.Server(demo, models=["add_sub"]) as server:
        ones = np.ones(4, np.float32)
        out = server.model("add_sub").infer({"INPUT0": ones, "INPUT1": ones}, outputs=["OUTPUT1"])
        assert list(out) == ["OUTPUT1"]


def test_statistics_count_what_happened(shared: Site, model: tensorferry.Model) -> None:
    before = shared.server.statistics()["m"]
    for _ in range(3):
        model.infer(sleep_for(0))
    after = shared.server.statistics()["m"]
    assert after["succeeded"] - before["succeeded"] == 3
    assert after["executions"] - before["executions"] == 3
    assert after["execute_ns"] > before["execute_ns"]
    (instance,) = after["instances"]
    assert instance["state"] == "ready"
    assert instance["pss_bytes"] > 1 << 20
    assert instance["arena_peak_bytes"] >= 0


SAMPLE = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\\n]|\\[\\n"])*",?)*)\} (\S+)')


def test_metrics_are_prometheus_text(shared: Site, model: tensorferry.Model) -> None:
    model.infer(sleep_for(0))
    text = shared.server.metrics()
    kinds: dict[str, str] = {}
    samples = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split()
            assert family not in kinds
            assert kind in ("counter", "gauge", "histogram")
            kinds[family] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            family, labels, value = match.groups()
            assert re.sub("_(bucket|sum|count)$", "", family) in kinds or family in kinds, line
            assert (family, labels) not in samples, line
            samples[family, labels] = float(value)
    assert text.endswith("\n")
    assert all(family.startswith("tensorferry_") for family in kinds)
    assert all(family.endswith("_total") for family, kind in kinds.items() if kind == "counter")
    assert samples["tensorferry_requests_total", 'model="m",version="1",outcome="success"'] >= 1
    assert samples["tensorferry_ready", 'model="m",version="1"'] == 1


def test_metrics_parse_with_the_prometheus_client(shared: Site) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    families = {family.name: family for family in parser.text_string_to_metric_families(shared.server.metrics())}
    assert families["tensorferry_requests"].type == "counter"
