"""The same payload under every CPython of the machine, with NumPy and without; how a model's interpreter is chosen."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreters import TRIED, Interpreter, packages_for, supported, too_old
from site_of_models import CONFIG

import tensorferry
from tensorferry import _server, errors

each_interpreter = pytest.mark.parametrize("interpreter", supported(), ids=str)

WITHOUT_NUMPY = """
import sys
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        pb_utils.Logger.log_info("hello from %s" % sys.version.split()[0])
        self.name = args["model_name"]

    def execute(self, requests):
        assert "numpy" not in sys.modules
        responses = []
        for request in requests:
            x = request.inputs()[0]
            if json_of(request).get("fail"):
                error = pb_utils.TritonError("%s: no" % self.name, pb_utils.TritonError.UNAVAILABLE)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUT", x)]))
        return responses

def json_of(request):
    import json
    return json.loads(request.parameters())
"""

WITH_NUMPY = """
import os, sys
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            said = np.array([sys.version.split()[0].encode(), np.__version__.encode(), text[0]], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse(
                [pb_utils.Tensor("OUT", x * 2), pb_utils.Tensor("SAME", x), pb_utils.Tensor("SAID", said)]))
            del x
        return responses
"""

WITH_NUMPY_CONFIG = """
backend: "python"
input [ { name: "IN", data_type: TYPE_FP32, dims: [ -1 ] }, { name: "TEXT", data_type: TYPE_STRING, dims: [ 1 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ -1 ] }, { name: "SAME", data_type: TYPE_FP32, dims: [ -1 ] },
         { name: "SAID", data_type: TYPE_STRING, dims: [ 3 ] } ]
"""


def write_model(repository: Path, name: str, source: str, config: str = CONFIG, parameters: str = "") -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(source)
    (folder / "config.pbtxt").write_text(config + parameters)
    return folder


def parameter(key: str, value: object) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


@each_interpreter
def test_a_model_that_needs_no_numpy_runs_without_it(
    interpreter: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    write_model(tmp_path, "plain", WITHOUT_NUMPY)
    with tensorferry.Server(tmp_path, python=interpreter.path) as server:
        model = server.model("plain")
        x = model.empty(1 << 16, np.float32)
        x[:] = 7
        before = _server.copy_counts()["host_calls"]
        out = np.asarray(model.infer({"IN": x})["OUT"])
        assert np.all(out == 7)
        assert np.asarray(model.infer({"IN": np.full(3, 8, np.float32)})["OUT"]).tolist() == [8, 8, 8]
        assert _server.copy_counts()["host_calls"] == before
        assert server.statistics()["plain"]["stub_copied_bytes"] == 0
        with pytest.raises(tensorferry.Error, match="plain: no") as caught:
            model.infer({"IN": np.zeros(3, np.float32)}, parameters={"fail": True})
        assert caught.value.code == "UNAVAILABLE"


@each_interpreter
def test_a_round_trip_copies_nothing_under(
    interpreter: Interpreter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(packages_for(interpreter.minor, "numpy")))
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    write_model(tmp_path, "m", WITH_NUMPY, WITH_NUMPY_CONFIG)
    with tensorferry.Server(tmp_path, python=interpreter.path) as server:
        model = server.model("m")
        x = model.empty(1 << 18, np.float32)
        x[:] = 3
        address = x.__array_interface__["data"][0]
        before = _server.copy_counts()["host_calls"]
        out = model.infer({"IN": x, "TEXT": ["straße".encode()]})
        assert _server.copy_counts()["host_calls"] == before
        assert server.statistics()["m"]["stub_copied_bytes"] == 0
        assert np.all(np.asarray(out["OUT"]) == 6)
        same = np.asarray(out["SAME"])
        assert same.__array_interface__["data"][0] == address
        python, numpy, text = out["SAID"].numpy()
        assert (python.decode(), text.decode()) == (str(interpreter), "straße")
    said = f"{interpreter} with NumPy {numpy.decode()}"
    request.config.stash.setdefault(TRIED, []).append(said)


@pytest.mark.parametrize("wanted", ["3.9 or 3.10", "3.12", "3.13"])
def test_these_versions_were_among_them(wanted: str) -> None:
    here = {f"{one.minor[0]}.{one.minor[1]}" for one in supported()}
    if not here & set(wanted.split(" or ")):
        pytest.skip(f"no CPython {wanted} on this machine (tried: {', '.join(sorted(here))})")


# ---------------------------------------------------------------------------- choosing an interpreter

WHO = """
import os, sys
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        pb_utils.Logger.log_info("ok")
        here = os.path.join(args["model_repository"], "who.json")
        import json
        with open(here, "w") as file:
            json.dump({"prefix": sys.prefix, "executable": sys.executable, "argv": sys.argv, "path": sys.path,
                       "cwd": os.getcwd(), "environment": dict(os.environ), "version": sys.version_info[:2]}, file)

    def execute(self, requests):
        return [pb_utils.InferenceResponse(request.inputs()) for request in requests]
"""


def who(repository: Path, parameters: str = "", **options: Any) -> dict[str, Any]:
    """What a model sees of its interpreter, started with these parameters in its config."""
    if not (repository / "who").exists():
        write_model(repository, "who", WHO, CONFIG)
    (repository / "who" / "config.pbtxt").write_text(CONFIG + parameters)
    with tensorferry.Server(repository, **options):
        told: dict[str, Any] = json.loads((repository / "who" / "who.json").read_text())
    return told


def make_venv(folder: Path, interpreter: str = sys.executable) -> Path:
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    return folder


def fake_interpreter(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_by_default_it_is_the_servers_own(tmp_path: Path) -> None:
    assert who(tmp_path)["executable"] == sys.executable


def test_the_servers_default_can_be_named(tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv")
    assert who(tmp_path / "models", python=venv / "bin" / "python")["prefix"] == str(venv)


def test_a_model_can_name_the_path_of_an_interpreter(tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv")
    told = who(tmp_path / "models", parameter("TENSORFERRY_PYTHON", venv / "bin" / "python"))
    assert told["prefix"] == str(venv)


@pytest.mark.parametrize("key", ["TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"])
def test_a_model_can_name_the_folder_of_a_venv(key: str, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv")
    told = who(tmp_path / "models", parameter(key, venv))
    assert told["prefix"] == str(venv)
    assert told["environment"]["VIRTUAL_ENV"] == str(venv)
    assert told["environment"]["PATH"].startswith(f"{venv}/bin:")


@pytest.mark.parametrize("key", ["TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"])
def test_a_folder_beside_the_model_travels_with_it(key: str, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "models" / "who" / "env")
    (tmp_path / "models" / "who" / "1").mkdir()
    (tmp_path / "models" / "who" / "1" / "model.py").write_text(WHO)
    assert who(tmp_path / "models", parameter(key, "$$TRITON_MODEL_DIRECTORY/env"))["prefix"] == str(venv)


def test_tensorferry_python_wins_over_the_packed_environment(tmp_path: Path) -> None:
    mine, theirs = make_venv(tmp_path / "mine"), make_venv(tmp_path / "theirs")
    parameters = parameter("EXECUTION_ENV_PATH", theirs) + parameter("TENSORFERRY_PYTHON", mine)
    assert who(tmp_path / "models", parameters)["prefix"] == str(mine)


def test_a_model_sees_an_interpreter_as_under_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_IN_THE_SERVER", "straße")
    monkeypatch.chdir(tmp_path)
    told = who(tmp_path / "models")
    assert told["argv"] == [""]
    assert told["path"][0] == ""
    assert told["path"][-2:] == [str(tmp_path / "models/who/1"), str(tmp_path / "models/who")]
    assert told["cwd"] == str(tmp_path)
    assert told["environment"]["SET_IN_THE_SERVER"] == "straße"
    assert told["environment"].items() >= dict(os.environ).items()


def refusal(repository: Path, key: str, value: object) -> str:
    """What loading a model with that parameter says; nothing of it may be left running."""
    with pytest.raises(errors.Error) as caught:
        who(repository, parameter(key, value))
    assert caught.value.model == "who"
    assert "'who'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"])
def test_an_interpreter_that_is_not_there_is_told_with_the_way_out(key: str, tmp_path: Path) -> None:
    text = refusal(tmp_path / "models", key, "/no/such/environment")
    assert key in text
    assert "/no/such/environment" in text
    assert "create" in text or "name" in text


@pytest.mark.parametrize("key", ["TENSORFERRY_PYTHON", "EXECUTION_ENV_PATH"])
def test_a_folder_without_an_interpreter_is_told(key: str, tmp_path: Path) -> None:
    text = refusal(tmp_path / "models", key, tmp_path)
    assert key in text
    assert str(tmp_path) in text
    assert "bin/python" in text


def test_a_packed_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "env.tar.gz"
    archive.write_bytes(b"")
    text = refusal(tmp_path / "models", "EXECUTION_ENV_PATH", archive)
    assert "unpack" in text
    assert str(archive) in text


def test_a_default_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"/no/such/python.*TENSORFERRY_PYTHON"):
        who(tmp_path, python="/no/such/python")


@pytest.mark.parametrize("interpreter", too_old() or [None], ids=str)
def test_an_interpreter_that_is_too_old_is_told(interpreter: Interpreter | None, tmp_path: Path) -> None:
    if interpreter is None:
        pytest.skip("every CPython on this machine is 3.8 or later")
    text = refusal(tmp_path, "TENSORFERRY_PYTHON", interpreter.path)
    assert f"this is Python {interpreter}" in text
    assert "CPython 3.8 or later" in text
    assert interpreter.path in text
    assert "TENSORFERRY_PYTHON" in text


def pretends(tmp_path: Path, lies: str) -> Path:
    """An interpreter whose `sys` was changed before launch.py runs."""
    code = f"import sys, runpy; {lies}; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return fake_interpreter(tmp_path / "bin" / "python", f'exec {sys.executable} -c "{code}" "$@"\n')


def test_a_python_3_7_is_told_even_where_none_is_installed(tmp_path: Path) -> None:
    path = pretends(tmp_path, "sys.version_info = (3, 7, 9); sys.version = '3.7.9 (fake)'")
    text = refusal(tmp_path / "models", "TENSORFERRY_PYTHON", path)
    assert "this is Python 3.7.9" in text
    assert str(path) in text
    assert "TENSORFERRY_PYTHON" in text


def test_what_is_not_cpython_is_told(tmp_path: Path) -> None:
    path = pretends(tmp_path, "sys.implementation.name = 'pypy'")
    text = refusal(tmp_path / "models", "TENSORFERRY_PYTHON", path)
    assert "this is pypy" in text
    assert "CPython" in text
    assert str(path) in text


def test_a_file_that_is_no_interpreter_at_all_is_told(tmp_path: Path) -> None:
    path = fake_interpreter(tmp_path / "bin" / "python", "echo I am no snake >&2; exit 3\n")
    text = refusal(tmp_path / "models", "TENSORFERRY_PYTHON", path)
    assert "exited with code 3" in text
    assert "I am no snake" in text
    assert str(path) in text


def test_a_file_that_may_not_be_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("")
    text = refusal(tmp_path / "models", "TENSORFERRY_PYTHON", path)
    assert str(path) in text
    assert "run" in text
