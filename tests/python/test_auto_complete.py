"""A model without config.pbtxt says by auto_complete_config what it is; what it says wrong is told in Triton's words."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorferry
from tensorferry import errors

Load = Callable[..., tensorferry.Server]

MODEL = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        {body}

    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def execute(self, requests):
        size = np.full((1, 1), len(requests), np.int32)
        return [pb_utils.InferenceResponse([
            pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() + 1),
            pb_utils.Tensor("BATCH", size)]) for request in requests]
"""

WHOLE = """
config.set_max_batch_size(8)
config.set_dynamic_batching()
config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [4]})
config.add_input({"name": "MORE", "data_type": "TYPE_INT64", "dims": [-1], "optional": True})
config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [4]})
config.add_output({"name": "BATCH", "data_type": "TYPE_INT32", "dims": [1]})
return config
"""


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """A server on a model `m` whose auto_complete_config(config) has this body, and perhaps a config.pbtxt."""
    servers = []

    def begin(body: str, config: str | None = None, source: str = MODEL) -> tensorferry.Server:
        version = tmp_path / "m" / "1"
        version.mkdir(parents=True, exist_ok=True)
        body = textwrap.indent(textwrap.dedent(body).strip(), " " * 8).strip()
        (version / "model.py").write_text(source.replace("{body}", body))
        if config is not None:
            (tmp_path / "m" / "config.pbtxt").write_text(config)
        servers.append(tensorferry.Server(tmp_path))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def config_of(server: tensorferry.Server) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(server.model("m").config)
    return config


def ask(model: tensorferry.Model, value: float) -> tensorferry.Response:
    return model.infer({"IN": np.full((1, 4), value, np.float32)}, timeout=30)


def test_a_model_without_config_pbtxt_says_what_it_is(load: Load) -> None:
    server = load(WHOLE)
    config = config_of(server)
    assert config["name"] == "m"
    assert config["max_batch_size"] == 8
    assert "dynamic_batching" in config
    assert [(one["name"], one["data_type"]) for one in config["input"]] == [("IN", "TYPE_FP32"), ("MORE", "TYPE_INT64")]
    assert [one.get("optional", False) for one in config["input"]] == [False, True]
    assert [(one["name"], [int(dim) for dim in one["dims"]]) for one in config["output"]] == [("OUT", [4]), ("BATCH", [1])]


def test_what_it_said_is_held_against_requests(load: Load) -> None:
    model = load(WHOLE).model("m")
    assert np.asarray(ask(model, 2)["OUT"]).tolist() == [[3, 3, 3, 3]]
    with pytest.raises(errors.InvalidRequest, match="expects float32"):
        model.infer({"IN": np.zeros((1, 4), np.int32)})
    with pytest.raises(errors.InvalidRequest):
        model.infer({"IN": np.zeros((1, 5), np.float32)})
    with pytest.raises(errors.InvalidRequest, match="8"):
        model.infer({"IN": np.zeros((9, 4), np.float32)})
    with pytest.raises(errors.InvalidRequest, match="MORE"):
        model.infer({"IN": np.zeros((1, 4), np.float32), "MORE": np.zeros((1, 1), np.float32)})


def test_the_dynamic_batching_that_it_asked_for_makes_batches(load: Load) -> None:
    body = WHOLE.replace("return config", "config.as_dict()['dynamic_batching']['max_queue_delay_microseconds'] = 200000\n")
    model = load(body + "return config").model("m")
    with ThreadPoolExecutor(8) as pool:
        sizes = [int(np.asarray(out["BATCH"])[0, 0]) for out in pool.map(lambda i: ask(model, i), range(32))]
    assert max(sizes) > 1
    assert max(sizes) <= 8


def test_initialize_reads_the_completed_config(load: Load) -> None:
    read = 'self.config = json.loads(args["model_config"])'
    source = MODEL.replace(read, read + "\n        assert self.config['max_batch_size'] == 8")
    assert load(WHOLE, source=source).ready("m")


def test_it_may_fill_in_what_config_pbtxt_leaves_out(load: Load) -> None:
    server = load(
        WHOLE, 'backend: "python"\nmax_batch_size: 4\ninput [ { name: "IN", data_type: TYPE_FP32, dims: [ 4 ] } ]\n'
    )
    config = config_of(server)
    assert config["max_batch_size"] == 8
    assert [one["name"] for one in config["input"]] == ["IN", "MORE"]


def test_a_model_without_the_function_keeps_its_config(load: Load) -> None:
    config = """
        backend: "python"
        input [ { name: "IN", data_type: TYPE_FP32, dims: [ 4 ] } ]
        output [ { name: "OUT", data_type: TYPE_FP32, dims: [ 4 ] },
                 { name: "BATCH", data_type: TYPE_INT32, dims: [ 1, 1 ] } ]
    """
    server = load("pass", config, MODEL.replace("auto_complete_config", "something_else"))
    assert config_of(server)["max_batch_size"] == 0
    out = server.model("m").infer({"IN": np.zeros(4, np.float32)})
    assert np.asarray(out["OUT"]).tolist() == [1, 1, 1, 1]


IN = 'backend: "python"\ninput [ { name: "IN", data_type: TYPE_FP32, dims: [ 4 ], optional: true } ]\n'
OUT = 'backend: "python"\noutput [ { name: "OUT", data_type: TYPE_FP32, dims: [ 4 ] } ]\n'
BATCH = 'backend: "python"\nmax_batch_size: 16\n'
HERE = "in auto-complete-config function for model 'm'"


@pytest.mark.parametrize(
    ("body", "config", "text"),
    [
        pytest.param("return None", None, "function in model 'm' must return a valid pb.ModelConfig object.", id="None"),
        pytest.param("return {}", None, "function in model 'm' must return a valid pb.ModelConfig object.", id="a dict"),
        pytest.param(
            "config.set_max_batch_size(4)",
            BATCH,
            "configuration specified max_batch_size 16, but "
            "in auto-complete-config function for model 'm' specified max_batch_size 4",
            id="a smaller batch",
        ),
        pytest.param(
            "config.add_input({'name': 'A', 'data_type': 'TYPE_FP32', 'dims': [1], 'is_shape': True})",
            None,
            f"input 'A' {HERE} contains property other than 'name', 'data_type', 'dims' and 'optional'.",
            id="an input with more",
        ),
        pytest.param(
            "config.add_input({'data_type': 'TYPE_FP32', 'dims': [1]})",
            None,
            f"input {HERE} is missing 'name' property.",
            id="an input without a name",
        ),
        pytest.param(
            "config.add_input({'name': 'A', 'dims': [1]})",
            None,
            f"input 'A' {HERE} is missing 'data_type' property.",
            id="an input without a type",
        ),
        pytest.param(
            "config.add_input({'name': 'A', 'data_type': 'TYPE_FP32'})",
            None,
            f"input 'A' {HERE} is missing 'dims' property.",
            id="an input without dims",
        ),
        pytest.param(
            "config.add_input({'name': 'IN', 'data_type': 'TYPE_INT32', 'dims': [4]})",
            IN,
            "unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'IN', model provides TYPE_INT32",
            id="an input of another type",
        ),
        pytest.param(
            "config.add_input({'name': 'IN', 'data_type': 'TYPE_FP32', 'dims': [16]})",
            IN,
            "model 'm', tensor 'IN': the model expects dims [16] but the model configuration specifies dims [4]",
            id="an input of other dims",
        ),
        pytest.param(
            "config.add_input({'name': 'IN', 'data_type': 'TYPE_FP32', 'dims': [4], 'optional': False})",
            IN,
            "model 'm', tensor 'IN': the model expects optional False but the model configuration specifies optional True",
            id="an input that is optional",
        ),
        pytest.param(
            "config.add_output({'name': 'A', 'data_type': 'TYPE_FP32', 'dims': [1], 'optional': True})",
            None,
            f"output 'A' {HERE} contains property other than 'name', 'data_type' and 'dims'.",
            id="an output with more",
        ),
        pytest.param(
            "config.add_output({'data_type': 'TYPE_FP32', 'dims': [1]})",
            None,
            f"output {HERE} is missing 'name' property.",
            id="an output without a name",
        ),
        pytest.param(
            "config.add_output({'name': 'OUT', 'data_type': 'TYPE_FP16', 'dims': [4]})",
            OUT,
            "unable to load model 'm', configuration expects datatype TYPE_FP32 for output 'OUT', model provides TYPE_FP16",
            id="an output of another type",
        ),
        pytest.param(
            "config.add_output({'name': 'OUT', 'data_type': 'TYPE_FP32', 'dims': [2, 2]})",
            OUT,
            "model 'm', tensor 'OUT': the model expects dims [2, 2] but the model configuration specifies dims [4]",
            id="an output of other dims",
        ),
        pytest.param(
            "config.set_model_transaction_policy({'decoupled': False, 'other': 1})",
            None,
            f"model transaction property {HERE} contains property other than 'decoupled'.",
            id="a policy with more",
        ),
        pytest.param(
            "for decoupled in (True, False):\n    config.set_model_transaction_policy({'decoupled': decoupled})",
            None,
            "trying to change decoupled property in auto-complete-config for model 'm', which is already set to 'True'.",
            id="a policy of two minds",
        ),
        pytest.param(
            "pb_utils.ModelConfig(json.dumps({'name': 'm', 'sequence_batching': {}})).set_dynamic_batching()",
            None,
            "Configuration specified scheduling_choice as 'sequence_batching', but auto-complete-config function for "
            "model 'm' tries to set scheduling_choice as 'dynamic_batching'",
            id="two schedulers",
        ),
        pytest.param("raise OSError('no such file: weights')", None, "OSError: no such file: weights", id="raises"),
        pytest.param(
            "config.as_dict()['max_batch_size'] = 'many'\nreturn config", None, "max_batch_size", id="nonsense for a number"
        ),
        pytest.param(
            "config.add_input({'name': 'A', 'data_type': 'TYPE_FP33', 'dims': [1]})\nreturn config",
            None,
            "TYPE_FP33",
            id="no such type",
        ),
    ],
)
def test_what_is_wrong_is_a_load_error_in_tritons_words(load: Load, body: str, config: str | None, text: str) -> None:
    with pytest.raises(tensorferry.Error) as caught:
        load(body, config)
    assert text in str(caught.value)
    assert caught.value.model == "m"
    assert str(caught.value).startswith("failed to load 'm': ")
