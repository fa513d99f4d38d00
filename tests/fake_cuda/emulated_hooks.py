"""Tests marked `emulated` run in a process on the emulated driver, once for each of the marker's schedulers; the closest
marker's other settings are that process's, so that a parameter may bring its own. Under TENSORFERRY_TEST_GPU=1
(`./dev gpu-test`) they run once, on the machine's own driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated import LIBRARIES, Emulated, on_the_machines_driver

__all__ = [
    "emulated_processes",
    "on_the_emulator",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
    "pytest_pyfunc_call",
]

Key = tuple[Path, str, str]  # module, scheduler, other settings
SCHEDULERS = ("eager", "lazy", "random:1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if marker := metafunc.definition.get_closest_marker("emulated"):
        metafunc.fixturenames.append("scheduler")
        schedulers = marker.kwargs.get("schedulers", SCHEDULERS)
        metafunc.parametrize("scheduler", ("real",) if on_the_machines_driver() else schedulers, scope="module")


@pytest.fixture(scope="module")
def emulated_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Key, Emulated]]:
    """The processes of a module; each must end well."""
    processes: dict[Key, Emulated] = {}
    yield processes
    codes = {key[1:]: process.close() for key, process in processes.items()}
    assert not any(codes.values()), f"exit codes by scheduler: {codes}"
    reports = {key[1:]: found for key, process in processes.items() if (found := process.reports())}
    assert not reports, f"reports by scheduler: {reports}"


@pytest.fixture
def on_the_emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    if not on_the_machines_driver() and not (LIBRARIES / "libcuda.so.1").exists():
        pytest.skip("the emulated driver isn't built: cmake --preset dev && cmake --build --preset dev")
    processes: dict[Key, Emulated] = request.getfixturevalue("emulated_processes")
    marker = request.node.get_closest_marker("emulated")
    assert marker
    if on_the_machines_driver() and (profile := marker.kwargs.get("profile", "full")) != "full":
        pytest.skip(f"needs the emulated driver, with profile {profile}")
    scheduler = request.node.callspec.params["scheduler"]
    settings = {name: value for name, value in marker.kwargs.items() if name != "schedulers"}
    key = (request.path, scheduler, repr(settings))
    if key not in processes or processes[key].process.poll() is not None:
        folder = tmp_path_factory.mktemp("emulated")
        processes[key] = Emulated(request.path, folder, sched=scheduler, **settings)
    return processes[key]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("emulated") and "on_the_emulator" not in item.fixturenames:  # type: ignore[attr-defined]
            item.fixturenames.append("on_the_emulator")  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not pyfuncitem.get_closest_marker("emulated"):
        return None
    given: dict[str, Any] = pyfuncitem.funcargs
    names = pyfuncitem.function.__code__.co_varnames[: pyfuncitem.function.__code__.co_argcount]
    process: Emulated = given["on_the_emulator"]
    process.call(pyfuncitem.originalname, {name: given[name] for name in names})
    return True
