"""Each rung of the ladder, end to end: what crosses, what is copied, who waits. docs/cuda.md has the same figures."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from device_model import Caller, Driver, await_ready, needs_the_emulator, pid_of, ramp, same, served
from site_of_models import until

import tensorferry
from tensorferry import _server, errors

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install --group cuda")
pytestmark = pytest.mark.emulated(schedulers=("eager", "lazy"))


class Rung(NamedTuple):
    """How one is had: by the model's parameter, or by what the emulated driver can do."""

    name: str
    parameter: str = ""

    @property
    def more(self) -> str:
        text = f'parameters {{ key: "TENSORFERRY_GPU_TRANSPORT" value: {{ string_value: "{self.parameter}" }} }}'
        return text if self.parameter else ""

    @property
    def kind(self) -> str:
        """What its costs are like."""
        return {"vmm": "shared", "legacy_ipc": "shared", "pinned_staging": "staged", "pageable": "staged"}.get(
            self.name, self.name
        )


def under(profile: str, name: str, parameter: str = "") -> Any:
    emulated = pytest.mark.emulated(profile=profile)
    return pytest.param(Rung(name, parameter), marks=emulated, id=f"{profile}-{parameter or 'auto'}")


CROSSING = [
    under("full", "vmm", "vmm"),
    under("full", "legacy_ipc", "ipc"),
    under("no_vmm", "legacy_ipc"),
    under("no_ipc_events", "no_events"),
    under("full", "pinned_staging", "staging"),
    under("attributes_lie", "pinned_staging"),
    under("no_register", "pageable"),
]
every_rung = pytest.mark.parametrize("rung", [*CROSSING, under("full", "no_gpu", "off")])
every_crossing_rung = pytest.mark.parametrize("rung", CROSSING)

ECHO = """
out = pb_utils.empty(tensor.shape(), "float32", device="cuda:0")
self.gpu.copy(self.gpu.view(out), self.gpu.view(tensor), tensor.shape()[0])
return Response([Tensor.from_dlpack("OUT", out)])
"""
MAKES_ITS_OWN = """
made = self.gpu.device.allocate(4 * tensor.shape()[0], stream=self.gpu.stream)
(code,) = self.gpu.driver.cuMemsetD32Async(int(made.handle), 0, tensor.shape()[0], self.gpu.stream.handle)
return Response([Tensor.from_dlpack("OUT", Produced(self.gpu, made))])
"""


def counted(pid: int, name: str, key: str) -> dict[str, int]:
    return {
        dict(sample["labels"])[key]: sample["value"]
        for sample in _server.read_counters(pid)
        if sample["name"] == name and not sample["labels"].get("device")
    }


def costs(pid: int) -> dict[str, int]:
    waits = {f"wait_{reason}": count for reason, count in counted(pid, "host_waits", "reason").items()}
    return {**counted(pid, "copies", "kind"), **waits}


def spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


def cost_of(model: Any, ask: Any) -> tuple[Any, dict[str, int], dict[str, int]]:
    """What ask() gives, and what it cost in the server and in the stub. Its second time: then all is open, and the
    server's memory pinned where that can be."""
    ask()
    await_pinned(model)
    stub = pid_of(model)
    ours, theirs = costs(os.getpid()), costs(stub)
    answer = ask()
    return answer, spent(ours, costs(os.getpid())), spent(theirs, costs(stub))


def await_pinned(model: Any) -> None:
    def is_pinned() -> bool:
        statistics = model.server.statistics()["m"]
        refused = counted(os.getpid(), "pinned_segments", "outcome").get("refused")
        return statistics["arena_pinned_bytes"] == statistics["arena_bytes"] or bool(refused)

    assert until(is_pinned), model.server.statistics()["m"]


# ----------------------------------------------------------------------------------- what it costs

# By kind of rung: in the server, in the stub.
Costs = dict[str, tuple[dict[str, int], dict[str, int]]]

GIVEN_AND_EMPTY: Costs = {
    "shared": ({}, {}),
    "no_events": ({"wait_no_events": 1}, {"wait_no_events": 1}),
    "staged": ({"d2h": 1, "h2d": 1, "wait_staging": 1}, {"h2d": 1, "d2h": 1, "wait_staging": 2}),
}
PASSED_THROUGH: Costs = {
    "shared": ({}, {}),
    "no_events": ({"wait_no_events": 1}, {}),
    "staged": ({"d2h": 1, "h2d": 1, "wait_staging": 1}, {}),
    "no_gpu": ({"d2h": 1}, {}),
}
READ_BY_NUMPY: Costs = {
    "shared": ({"d2h": 1}, {}),
    "no_events": ({"d2h": 1, "wait_no_events": 1}, {}),
    "staged": ({"d2h": 1, "wait_staging": 1}, {"host": 1}),
    "no_gpu": ({"d2h": 1}, {}),
}
ANOTHER_LIBRARYS: Costs = {
    "shared": ({}, {"d2d": 1}),
    "no_events": ({"wait_no_events": 1}, {"d2d": 1, "wait_no_events": 1}),
    "staged": ({"d2h": 1, "h2d": 1, "wait_staging": 1}, {"d2h": 1, "wait_staging": 1}),
    "no_gpu": ({"d2h": 1}, {"d2h": 1, "wait_host_array": 1}),
}


@every_crossing_rung
def test_a_given_input_and_an_output_of_empty(tmp_path: Path, rung: Rung) -> None:
    caller = Caller()
    with served(tmp_path, ECHO, more=rung.more) as model:
        answer, here, there = cost_of(model, lambda: model.infer({"IN": caller.given(model, ramp(3))})["OUT"])
        same((here, there), GIVEN_AND_EMPTY[rung.kind])
        same(answer.device, "cuda:0")
        np.testing.assert_array_equal(answer.numpy(), ramp(3))


@every_rung
def test_an_input_that_nobody_touches_passes_through(tmp_path: Path, rung: Rung) -> None:
    caller, driver = Caller(), Driver()
    body = f"assert tensor.is_cpu() is {rung.name == 'no_gpu'}\nreturn Response([tensor])"
    with served(tmp_path, body, gpu=False, outputs="IN", more=rung.more) as model:
        answer, here, there = cost_of(model, lambda: model.infer({"IN": caller.given(model, ramp(5))})["IN"])
        same((here, there), PASSED_THROUGH[rung.kind])
        seen = np.asarray(answer) if rung.name == "no_gpu" else answer.numpy()
        np.testing.assert_array_equal(seen, ramp(5))
        same(driver.counters(pid_of(model))["driver_calls"], 0)


@every_rung
def test_numpy_of_an_input_needs_no_context(tmp_path: Path, rung: Rung) -> None:
    caller, driver = Caller(), Driver()
    body = 'return Response([Tensor("OUT", tensor.as_numpy() * 2)])'
    with served(tmp_path, body, gpu=False, more=rung.more) as model:
        answer, here, there = cost_of(model, lambda: model.infer({"IN": caller.given(model, ramp(2))})["OUT"])
        same((here, there), READ_BY_NUMPY[rung.kind])
        np.testing.assert_array_equal(np.asarray(answer), ramp(2) * 2)
        same(driver.counters(pid_of(model))["driver_calls"], 0)


@every_rung
def test_an_output_of_another_library(tmp_path: Path, rung: Rung) -> None:
    caller = Caller()
    with served(tmp_path, MAKES_ITS_OWN, dtype="TYPE_INT8", more=rung.more) as model:
        values = np.ones(6000, np.int8)
        answer, here, there = cost_of(model, lambda: model.infer({"IN": caller.given(model, values)})["OUT"])
        same((here, there), ANOTHER_LIBRARYS[rung.kind])
        seen = np.asarray(answer) if rung.name == "no_gpu" else answer.numpy()
        same((seen.size, int(np.abs(seen).max())), (24000, 0))


@every_crossing_rung
def test_memory_of_another_library_is_taken(tmp_path: Path, rung: Rung) -> None:
    caller, values = Caller(), ramp(3).view(np.int8)
    body = """
    view, out = self.gpu.view(tensor), pb_utils.empty(tensor.shape(), "int8", device="cuda:0")
    self.gpu.copy(self.gpu.view(out), view, tensor.shape()[0] // 4)
    return Response([Tensor.from_dlpack("OUT", out)])
    """
    with served(tmp_path, body, dtype="TYPE_INT8", more=rung.more) as model:
        for _ in range(3):
            buffer = caller.buffer(values)
            future = model.infer_async({"IN": buffer}, stream=caller.stream)
            buffer.fill(0xFF, stream=caller.stream)
            np.testing.assert_array_equal(future.result()["OUT"].numpy(), values)


# --------------------------------------------------------------------------------- that it is right


@every_crossing_rung
def test_edits_in_place_small_tensors_and_kept_ones(tmp_path: Path, rung: Rung) -> None:
    body = """
    view = self.gpu.view(tensor)
    before = tensor.as_numpy().copy()
    self.gpu.fill(view, 7, 5)
    assert (tensor.as_numpy() == before).all()  # the same copy every time
    self.kept.append((tensor, before))
    for old, value in self.kept:
        assert (old.as_numpy() == value).all()
    return Response([Tensor.from_dlpack("OUT", tensor)])
    """
    caller = Caller()
    with served(tmp_path, body, more=rung.more) as model:
        for number, count in enumerate((3000, 9, 1, 1500, 1024)):
            values = ramp(number, count)
            answer = model.infer({"IN": caller.given(model, values)})["OUT"].numpy()
            np.testing.assert_array_equal(answer[:5], 7)
            np.testing.assert_array_equal(answer[5:], values[5:])


@every_crossing_rung
def test_answers_are_their_receivers_and_all_memory_comes_home(tmp_path: Path, rung: Rung) -> None:
    caller = Caller()
    with served(tmp_path, ECHO, more=rung.more) as model:
        answers = [model.infer({"IN": caller.given(model, ramp(n))})["OUT"] for n in range(6)]
        for n, answer in enumerate(answers):
            np.testing.assert_array_equal(answer.numpy(), ramp(n))
        again = model.infer({"IN": answers[2]})["OUT"]
        np.testing.assert_array_equal(again.numpy(), ramp(2))
        del answers, answer, again
        await_home(model)


def await_home(model: Any) -> None:
    def is_home() -> bool:
        statistics = model.server.statistics()["m"]
        return not statistics["gpus"]["cuda:0"]["arena_bytes_in_use"] and not statistics["arena_bytes_in_use"]

    assert until(is_home), model.server.statistics()["m"]


@every_crossing_rung
def test_a_stub_that_dies_at_work_costs_its_request_alone(tmp_path: Path, rung: Rung) -> None:
    caller, sign = Caller(), tmp_path / "die"
    body = f"""
    if os.path.exists("{sign}"):
        os.remove("{sign}")
        self.gpu.fill(self.gpu.view(tensor), 1, 10)
        os.kill(os.getpid(), 9)
    """
    with served(tmp_path, body + ECHO.replace("\n", "\n    "), more=rung.more) as model:
        kept = model.infer({"IN": caller.given(model, ramp(8))})["OUT"]
        sign.touch()
        with pytest.raises(errors.StubDied, match="SIGKILL"):
            model.infer({"IN": caller.given(model, ramp())})
        await_ready(model)
        np.testing.assert_array_equal(model.infer({"IN": caller.given(model, ramp(1))})["OUT"].numpy(), ramp(1))
        np.testing.assert_array_equal(kept.numpy(), ramp(8))
        del kept
        await_home(model)


# ------------------------------------------------------------------------------- that it is told


@every_rung
def test_the_rung_is_told(tmp_path: Path, rung: Rung) -> None:
    caller = Caller()
    with served(tmp_path, "return Response([tensor])", gpu=False, outputs="IN", more=rung.more) as model:
        model.infer({"IN": caller.given(model, ramp())})
        gpu = model.server.statistics()["m"]["gpus"]["cuda:0"]
        same((gpu["transport"], gpu["stubs"], gpu["rung_changes"]), (rung.name, {}, 0))
        if rung.parameter:
            assert f"TENSORFERRY_GPU_TRANSPORT={rung.parameter}" in gpu["transport_reason"], gpu
        metrics = model.server.metrics()
        assert f'transport="{rung.name}"}} 1' in metrics, metrics
        assert "tensorferry_gpu_rung_changes_total" in metrics


# ------------------------------------------------------------------------- what one stub is found to need


@contextmanager
def stubs_with(**variables: str) -> Iterator[None]:
    """The stubs that start meanwhile have these in their environment; this process has its driver already."""
    Caller()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


IMPORT_FAILS = {"FAKECUDA_FAIL": "cuMemImportFromShareableHandle:1+:801"}
TROUBLES = {
    "wrong bytes": ({"FAKECUDA_FAIL": "cuMemcpyAsync:1:corrupt"}, "no_events", "the stub saw other bytes"),
    "wrong bytes back": ({"FAKECUDA_FAIL": "cuMemcpyAsync:2:corrupt"}, "no_events", "the server saw other bytes"),
    "wrong bytes for ever": ({"FAKECUDA_FAIL": "cuMemcpyAsync:every=1:corrupt"}, "pinned_staging", "no_events (vmm) failed"),
    "foreign events": ({"FAKECUDA_PROFILE": "foreign_events_fail"}, "no_events", "gpu_pidns_mismatch"),
    "events that never complete": ({"FAKECUDA_PROFILE": "foreign_events_stall"}, "no_events", "not done in time"),
    "no import": (IMPORT_FAILS, "pinned_staging", "cuMemImportFromShareableHandle"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_probe_that_fails_goes_down_and_tells_so(tmp_path: Path, trouble: str) -> None:
    needs_the_emulator("its faults")
    variables, rung, why = TROUBLES[trouble]
    caller = Caller()
    with stubs_with(**variables), served(tmp_path, ECHO) as model:
        for number in range(3):
            answer = model.infer({"IN": caller.given(model, ramp(number))})["OUT"].numpy()
            if trouble != "wrong bytes for ever":  # that is so of all that it copies
                np.testing.assert_array_equal(answer, ramp(number))
        gpu = model.server.statistics()["m"]["gpus"]["cuda:0"]
        same((gpu["transport"], gpu["rung_changes"], list(gpu["stubs"])), ("vmm", 1, ["m_0_0"]))
        same(gpu["stubs"]["m_0_0"]["transport"], rung)
        assert why in gpu["stubs"]["m_0_0"]["reason"], gpu
        metrics = model.server.metrics()
        assert f'instance="m_0_0",uuid="{gpu["uuid"]}",transport="{rung}"}} 1' in metrics, metrics
        del answer
        await_home(model)


@pytest.mark.parametrize("variables", [{}, {"TENSORFERRY_GPU_PROBE": "off"}], ids=["on", "off"])
def test_a_probe_costs_no_copy_and_may_be_left_out(tmp_path: Path, variables: dict[str, str]) -> None:
    caller = Caller()
    with stubs_with(**variables), served(tmp_path, ECHO) as model:
        before = costs(os.getpid())
        model.infer({"IN": caller.given(model, ramp())})
        probed = ({}, 0) if variables else ({"wait_probe": 3}, 2)
        same((spent(before, costs(os.getpid())), costs(pid_of(model)).get("wait_probe", 0)), probed)


def test_what_was_lent_before_the_probe_failed_is_reached_all_the_same(tmp_path: Path) -> None:
    """Inputs of the first request lie in a chunk that the stub can't map: read, passed through, kept and named twice."""
    body = """
    if tensor.shape()[0] == 2999:
        made = pb_utils.empty((1,), "float32", device="cuda:0")  # opens the device
        self.kept.append(tensor)
    else:
        assert (self.kept[0].as_numpy() == tensor.as_numpy()[:2999]).all()
        self.gpu.fill(self.gpu.view(self.kept[0]), 3, 2999)
    return Response([Tensor.from_dlpack("OUT", self.kept[0])])
    """
    caller = Caller()
    with stubs_with(**IMPORT_FAILS), served(tmp_path, body) as model:
        np.testing.assert_array_equal(model.infer({"IN": caller.given(model, ramp(0, 2999))})["OUT"].numpy(), ramp(0, 2999))
        answer = model.infer({"IN": caller.given(model, ramp())})["OUT"]
        np.testing.assert_array_equal(answer.numpy(), np.full(2999, 3, np.float32))


def test_a_stub_that_hangs_in_its_probe_can_be_killed_and_costs_its_request(tmp_path: Path) -> None:
    caller, driver = Caller(), Driver()
    with served(tmp_path, ECHO) as model:
        with stubs_with(FAKECUDA_FAIL="cuMemImportFromShareableHandle:1:hang"):
            kill_and_await_the_next(model)
        stub = pid_of(model)
        future = model.infer_async({"IN": caller.given(model, ramp())})
        until(lambda: driver.calls(stub, "cuMemImportFromShareableHandle") > 0, 30)
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(errors.StubDied, match="SIGKILL"):
            future.result()
        await_ready(model)
        np.testing.assert_array_equal(model.infer({"IN": caller.given(model, ramp(1))})["OUT"].numpy(), ramp(1))
        await_home(model)


def kill_and_await_the_next(model: Any) -> None:
    stub = pid_of(model)
    os.kill(stub, signal.SIGKILL)

    def is_next() -> bool:
        instance = model.server.statistics()["m"]["instances"][0]
        return instance["state"] == "ready" and instance["pid"] != stub

    assert until(is_next, 30), model.server.statistics()["m"]["instances"][0]


def test_stubs_of_one_model_may_be_on_different_rungs(tmp_path: Path) -> None:
    needs_the_emulator("its faults")
    caller = Caller()
    group = "instance_group [ { count: 2 } ]"
    with served(tmp_path, ECHO, more=group) as model:
        with stubs_with(**IMPORT_FAILS):
            kill_and_await_the_next(model)
        for _ in range(5):
            futures = [model.infer_async({"IN": caller.given(model, ramp(n))}) for n in range(12)]
            for n, future in enumerate(futures):
                np.testing.assert_array_equal(future.result()["OUT"].numpy(), ramp(n))
        gpu = model.server.statistics()["m"]["gpus"]["cuda:0"]
        same({name: stub["transport"] for name, stub in gpu["stubs"].items()}, {"m_0_0": "pinned_staging"})


def test_a_model_without_gpus_says_so_where_it_makes_memory(tmp_path: Path) -> None:
    body = """
    try:
        pb_utils.empty((3,), "float32", device="cuda:0")
    except RuntimeError as error:
        return Response([Tensor("OUT", np.frombuffer(str(error).encode(), np.int8))])
    """
    with served(tmp_path, body, dtype="TYPE_INT8", more=Rung("no_gpu", "off").more) as model:
        said = np.asarray(model.infer({"IN": np.zeros(1, np.int8)})["OUT"]).tobytes().decode()
        assert "the server shares no memory of cuda:0 with this model" in said, said


def test_a_transport_that_is_none_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        tensorferry.Error, match="TENSORFERRY_GPU_TRANSPORT is 'fast': it must be auto, vmm, ipc, staging or off"
    ):
        with served(tmp_path, ECHO, more=Rung("", "fast").more):
            pass


def test_the_parameter_wins_over_the_environment(tmp_path: Path) -> None:
    caller = Caller()
    for name, more in (("pinned_staging", ""), ("legacy_ipc", Rung("", "ipc").more)):
        folder = tmp_path / name
        with (
            stubs_with(TENSORFERRY_GPU_TRANSPORT="staging"),
            served(folder, "return Response([tensor])", outputs="IN", more=more) as model,
        ):
            model.infer({"IN": caller.given(model, ramp())})
            same(model.server.statistics()["m"]["gpus"]["cuda:0"]["transport"], name)
