"""Each example runs with real inputs, and its answers are right. (`./dev test` builds the C++ ones as a user does.)"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from interpreters import packages_for
from numpy.typing import NDArray

import tensorferry
import tensorferry.transport
from tensorferry import _server, errors

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODELS = EXAMPLES / "triton_models"
DEMO = Path(tensorferry.__file__).parent / "demo_models"


@pytest.fixture(scope="module")
def demo() -> Iterator[tensorferry.Server]:
    with tensorferry.Server(DEMO) as server:
        yield server


@pytest.fixture(scope="module")
def models() -> Iterator[tensorferry.Server]:
    """Those that need no environment of their own."""
    with tensorferry.Server(MODELS, models=["preprocess", "divide"]) as server:
        yield server


def test_add_sub_adds_and_subtracts(demo: tensorferry.Server) -> None:
    a, b = np.arange(5, dtype=np.float32), np.full(5, 2, np.float32)
    out = demo.model("add_sub").infer({"INPUT0": a, "INPUT1": b})
    assert np.asarray(out["OUTPUT0"]).tolist() == (a + b).tolist()
    assert np.asarray(out["OUTPUT1"]).tolist() == (a - b).tolist()


def test_tokenize_splits_texts_of_any_language(demo: tensorferry.Server) -> None:
    out = demo.model("tokenize").infer({"TEXT": ["Straße, und Meer!".encode(), b"", "Νους-ὁρᾷ".encode()]})
    assert out["LENGTHS"].numpy().tolist() == [3, 0, 2]
    assert [word.decode() for word in out["TOKENS"].numpy()] == ["straße", "und", "meer", "νους", "ὁρᾷ"]


def test_classify_gives_each_caller_of_a_batch_his_own_scores(demo: tensorferry.Server) -> None:
    model = demo.model("classify")
    weights = np.random.default_rng(0).standard_normal((64, 10), dtype=np.float32)
    features = [np.random.default_rng(i).standard_normal((1 + i % 3, 64), dtype=np.float32) for i in range(24)]
    executions = demo.statistics()["classify"]["executions"]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda x: np.asarray(model.infer({"FEATURES": x})["SCORES"]), features))
    for x, scores in zip(features, answers, strict=True):
        np.testing.assert_allclose(scores, x @ weights, rtol=1e-4, atol=1e-4)
    assert demo.statistics()["classify"]["executions"] - executions < len(features)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A slope from left to right in red, from top to bottom in green; blue is flat."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 128
    return image


def assert_slopes(pixels: NDArray[np.float32]) -> None:
    assert pixels.shape == (3, 224, 224)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    colours = (pixels.transpose(1, 2, 0) * deviation + mean) * 255
    np.testing.assert_allclose(colours[0, :, 0], np.linspace(0, 255, 224), atol=2.5)
    np.testing.assert_allclose(colours[:, 0, 1], np.linspace(0, 255, 224), atol=2.5)
    np.testing.assert_allclose(colours[..., 2], 128, atol=0.01)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 500), (100, 60), (1, 1)])
def test_preprocess_resizes_and_normalises(models: tensorferry.Server, height: int, width: int) -> None:
    image = picture(height, width)
    pixels = np.asarray(models.model("preprocess").infer({"IMAGE": image})["PIXELS"])
    if min(height, width) > 1:
        assert_slopes(pixels)
    else:
        assert np.ptp(pixels, axis=(1, 2)).max() == 0


def test_preprocess_copies_nothing(models: tensorferry.Server) -> None:
    model = models.model("preprocess")
    image = model.empty((480, 640, 3), np.uint8)
    image[:] = picture(480, 640)
    here, there = _server.copy_counts()["host_calls"], models.statistics()["preprocess"]["stub_copied_bytes"]
    assert_slopes(np.asarray(model.infer({"IMAGE": image})["PIXELS"]))
    assert _server.copy_counts()["host_calls"] == here
    assert models.statistics()["preprocess"]["stub_copied_bytes"] == there


def test_preprocess_with_pillow_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(packages_for(sys.version_info[:2], "pillow")))
    with tensorferry.Server(MODELS, models=["preprocess"]) as server:
        assert_slopes(np.asarray(server.model("preprocess").infer({"IMAGE": picture(180, 224)})["PIXELS"]))


def divide(server: tensorferry.Server, dividend: list[int], divisor: list[int]) -> list[int]:
    inputs = {"DIVIDEND": np.array(dividend, np.int32), "DIVISOR": np.array(divisor, np.int32)}
    quotient: list[int] = np.asarray(server.model("divide").infer(inputs, request_id="sum-1")["QUOTIENT"]).tolist()
    return quotient


def test_divide_tells_its_error_and_serves_on(models: tensorferry.Server, capfd: pytest.CaptureFixture[str]) -> None:
    assert divide(models, [6, 9], [2, 3]) == [3, 3]
    with pytest.raises(errors.InvalidRequest, match="DIVISOR has a zero in it") as told:
        divide(models, [1], [0])
    assert told.value.code == "INVALID_ARG"
    with pytest.raises(errors.ModelError, match=r"ValueError: DIVIDEND has shape \(1,\) and DIVISOR \(2,\)") as raised:
        divide(models, [1], [1, 2])
    assert "model.py" in str(raised.value)
    assert (raised.value.model, raised.value.request_id) == ("divide", "sum-1")
    logged = capfd.readouterr().err
    assert "DIVISOR has a zero in it" in logged
    assert "DIVIDEND has shape" in logged
    assert divide(models, [8], [2]) == [4]
    assert models.statistics()["divide"]["instances"][0]["restarts"] == 0


def png(image: NDArray[np.uint8]) -> bytes:
    """The smallest encoder: no filter, one chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.peers
def test_decode_image_runs_in_its_own_venv(tmp_path: Path) -> None:
    """As the README says it, on a copy."""
    shutil.copytree(MODELS / "decode_image", tmp_path / "decode_image", ignore=shutil.ignore_patterns("venv"))
    venv = tmp_path / "decode_image" / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=100)
    install = [venv / "bin" / "pip", "install", "-q", "-r", tmp_path / "decode_image" / "requirements.txt"]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("pip took longer than 90 s to install Pillow")
    if done.returncode:
        pytest.skip(f"pip can't install Pillow: {done.stderr.strip().splitlines()[-1]}")
    image = picture(40, 30)
    with tensorferry.Server(tmp_path) as server:
        out = server.model("decode_image").infer({"FILE": [png(image)]})
        assert np.array_equal(np.asarray(out["IMAGE"]), image)
        with pytest.raises(errors.ModelError, match="UnidentifiedImageError"):
            server.model("decode_image").infer({"FILE": [b"no picture"]})


def test_decode_image_says_what_is_missing_before_its_venv_is_made(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "decode_image", tmp_path / "decode_image", ignore=shutil.ignore_patterns("venv"))
    with pytest.raises(errors.NotFound, match=r"TENSORFERRY_PYTHON.*decode_image/venv.*create"):
        tensorferry.Server(tmp_path)


def run(script: Path, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(tensorferry.__file__).parents[1])}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embedded_python_prints_what_it_claims() -> None:
    said = run(EXAMPLES / "embedded_python" / "main.py")
    assert "sum: [4. 4. 4.]  difference: [2. 2. 2.]" in said
    assert "four at once: [1.0, 2.0, 3.0, 4.0]" in said
    assert "INVALID_ARG: " in said
    assert "INPUT1" in said
    assert "bytes copied in the model's process: 0" in said


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_two_processes_exchange_what_they_claim(method: str) -> None:
    said = run(EXAMPLES / "bare_transport" / "two_processes.py", method)
    assert f"{method}: moved there and back: [42. 42. 42.]" in said
    assert f"{method}: copied there, moved back: [8186 8188 8190] 1.0" in said


ROOT = EXAMPLES.parent


def shown_in(page: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def shown_in_docstring(module: ModuleType) -> str:
    indented = [line for line in (module.__doc__ or "").splitlines() if not line or line.startswith("    ")]
    return textwrap.dedent("\n".join(indented))


@pytest.mark.parametrize(
    "code",
    [shown_in("README.md"), shown_in("docs/transport.md"), shown_in_docstring(tensorferry.transport)],
    ids=["README", "docs/transport", "tensorferry.transport"],
)
def test_what_a_page_shows_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script = tmp_path / "main.py"
    script.write_text(code)
    run(script)


def test_every_example_is_named_where_a_reader_looks() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for folder in EXAMPLES.iterdir():
        if folder.is_dir():
            assert f"`{folder.name}/`" in listed
    table = (MODELS / "README.md").read_text()
    for model in MODELS.iterdir():
        if model.is_dir():
            assert f"`{model.name}`" in table
