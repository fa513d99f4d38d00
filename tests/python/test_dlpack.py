"""DLPack at the caller: answers go to other libraries as they lie, other libraries' tensors come as inputs."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaded_model import BIG, Load, write_model

from tensorferry import _server, errors

EDITED = "x = tensors[0].as_numpy()\nx += 1\nreturn [Response([Tensor('OUT', x)])]"
PASSED = "t = tensors[0]\ndel tensors\nreturn [Response([Tensor.from_dlpack('OUT', t)])]"


def copied_here() -> int:
    return int(_server.copy_counts()["host_bytes"])


class Bits:
    """Somebody else's tensor: the bits of an array under another dtype, in the unversioned form or the versioned one."""

    def __init__(self, tensor: Any, versioned: bool = True) -> None:
        self.tensor, self.versioned = tensor, versioned

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned and options:
            raise TypeError("unexpected keyword arguments")
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.parametrize("versioned", [True, False])
def test_a_tensor_of_either_form_is_read_and_ended(load: Load, versioned: bool) -> None:
    loaded = load(EDITED)
    array = np.arange(BIG, dtype=np.float32)
    references = sys.getrefcount(array)
    before = copied_here()
    out = np.asarray(loaded.model.infer({"IN": Bits(array, versioned)})["OUT"])
    assert copied_here() - before == array.nbytes
    np.testing.assert_array_equal(out, array + 1)
    strided = np.asarray(loaded.model.infer({"IN": Bits(array[::-2], versioned)})["OUT"])
    np.testing.assert_array_equal(strided, array[::-2] + 1)
    gc.collect()
    assert sys.getrefcount(array) == references


def test_a_read_only_tensor_is_read(load: Load) -> None:
    loaded = load(EDITED)
    array = np.arange(BIG, dtype=np.float32)
    array.flags.writeable = False
    np.testing.assert_array_equal(np.asarray(loaded.model.infer({"IN": Bits(array)})["OUT"]), array + 1)


@pytest.mark.parametrize(
    ("capsule", "text"), [(None, "no capsule"), ("text", "no capsule"), (np.zeros(3).__dlpack__, "no capsule")]
)
def test_what_is_no_capsule_is_an_error(load: Load, capsule: Any, text: str) -> None:
    loaded = load(EDITED)

    class Wrong:
        def __dlpack__(self, **_: Any) -> Any:
            return capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(BufferError, match=text):
        loaded.model.infer({"IN": Wrong()})


def test_what_the_producer_raises_is_what_the_caller_gets(load: Load) -> None:
    loaded = load(EDITED)

    class Wrong:
        def __dlpack__(self, **_: Any) -> Any:
            raise ZeroDivisionError("its own reason")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(ZeroDivisionError, match="its own reason"):
        loaded.model.infer({"IN": Wrong()})
    with pytest.raises(errors.InvalidRequest, match=r"has dtype\(code 5, 64 bits, 1 lanes\), which does not cross"):
        loaded.model.infer({"IN": Bits(np.zeros(4, np.complex64))})


def test_an_answer_has_numpys_dlpack(load: Load) -> None:
    loaded = load(EDITED)
    out = loaded.model.infer({"IN": loaded.given(1)})["OUT"]
    view = np.from_dlpack(out)
    assert view.ctypes.data == np.asarray(out).ctypes.data
    assert "versioned" in repr(out.__dlpack__(max_version=(1, 0)))
    assert "versioned" not in repr(out.__dlpack__())
    assert out.__dlpack_device__() == (1, 0)


# ------------------------------------------------------------------------- bfloat16, without ml_dtypes


def test_a_bfloat16_answer_needs_no_numpy_dtype(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16 array to begin with")
    loaded = load(PASSED, dtype="TYPE_BF16")
    source = np.arange(BIG).astype(np.float32).astype(ml_dtypes.bfloat16)
    out = loaded.model.infer({"IN": source})["OUT"]
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    before = copied_here()
    assert (out.dtype, out.shape) == ("bfloat16", (BIG,))
    with pytest.raises(TypeError, match="install ml_dtypes, or use from_dlpack"):
        out.numpy()
    again = loaded.model.infer({"IN": Bits(out)})["OUT"]  # any consumer of DLPack
    assert copied_here() - before == BIG * 2
    for version in (None, (0, 8), (1, 0)):
        assert ("versioned" in repr(out.__dlpack__(max_version=version))) == (version == (1, 0))
    with pytest.raises(BufferError, match="another device"):
        out.__dlpack__(dl_device=(2, 0))
    monkeypatch.undo()
    np.testing.assert_array_equal(again.numpy(), source)
    before = copied_here()
    array = out.numpy()
    assert copied_here() == before
    array[0] = 7
    assert out.numpy()[0] == 7
    assert again.numpy()[0] == 0
    assert source[0] == 0


def test_bfloat16_is_born_in_shared_memory_too(load: Load) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    loaded = load(PASSED, dtype="TYPE_BF16")
    array = loaded.model.empty((BIG,), ml_dtypes.bfloat16)
    array[:] = 3
    before = copied_here()
    out = loaded.model.infer({"IN": array})["OUT"]
    assert (copied_here(), loaded.copied()) == (before, 0)
    assert not array.flags.writeable
    assert np.all(out.numpy() == 3)
    with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
        loaded.model.infer({"IN": array})


# ------------------------------------------------------------------------------------ other libraries


JAX = """
import gc, sys
import jax
import numpy as np
import tensorferry

with tensorferry.Server(sys.argv[1]) as server:
    model = server.model("m")
    source = jax.numpy.arange(1 << 16, dtype=sys.argv[2]) % 100
    out = model.infer({"IN": source})["OUT"]
    answer = jax.dlpack.from_dlpack(out)
    assert answer.dtype == source.dtype
    assert bool((answer == source).all())
    again = model.infer({"IN": answer})["OUT"]
    kept = jax.numpy.array(answer)
    if sys.argv[2] == "float32":
        assert answer.unsafe_buffer_pointer() == np.asarray(out).ctypes.data
    del out
    gc.collect()
    for value in range(5):
        model.infer({"IN": np.full(1 << 16, value, source.dtype)})
    assert bool((answer == kept).all())
    assert bool((jax.dlpack.from_dlpack(again) == source).all())
print("fine")
"""


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "TYPE_FP32"), ("bfloat16", "TYPE_BF16")])
def test_jax_both_ways(tmp_path: Path, dtype: str, kind: str) -> None:
    """In a process of its own: JAX has threads, and says so at every fork of a process that imported it."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    write_model(tmp_path, PASSED, kind)
    command = [sys.executable, "-c", JAX, str(tmp_path), dtype]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), JAX_PLATFORMS="cpu")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_tvm_ffi_both_ways(load: Load) -> None:
    tvm_ffi = pytest.importorskip("tvm_ffi", reason="apache-tvm-ffi is not installed")
    loaded = load(EDITED)
    source = tvm_ffi.from_dlpack(np.arange(BIG, dtype=np.float32))
    out = loaded.model.infer({"IN": source})["OUT"]
    answer = tvm_ffi.from_dlpack(out)
    assert answer.shape == (BIG,)
    np.testing.assert_array_equal(np.from_dlpack(answer), np.arange(BIG, dtype=np.float32) + 1)
    del out
    gc.collect()
    assert np.from_dlpack(answer)[1] == 2
