"""How often a tensor's bytes are copied, by the counters and by witnesses that know nothing of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaded_model import BIG, CONFIG, MODEL, ONE, Load

import tensorferry
from tensorferry import errors


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        pytest.param("return [Response([Tensor('OUT', tensors[0].as_numpy())])]", 0, id="passed through"),
        pytest.param("t = tensors[0]\nreturn [Response([t])]", 0, id="the input's own tensor"),
        pytest.param(ONE + "x += 1\nreturn [Response([Tensor('OUT', x)])]", 0, id="edited in place"),
        pytest.param(ONE + "return [Response([Tensor('OUT', x + 1)])]", 0, id="a new array"),
        pytest.param(ONE + "return [Response([Tensor('OUT', x.reshape(2, -1))])]", 0, id="a view of an input"),
        pytest.param(ONE + "a = x + 1\nreturn [Response([Tensor('OUT', a[: a.size - 8])])]", 0, id="a slice of a new array"),
        pytest.param(ONE + "return [Response([Tensor('OUT', x[8:])])]", 0, id="a slice of an input"),
        pytest.param(
            ONE + "return [Response([Tensor('OUT', x[:32768]), Tensor('OUT2', x[32768:])])]", 0, id="two halves of an input"
        ),
        pytest.param(
            ONE + "a = x + 1\nreturn [Response([Tensor('OUT', a[:32768]), Tensor('OUT2', a[32768:])])]", 0, id="two halves"
        ),
        pytest.param(
            ONE + "return [Response([Tensor('OUT', x[:49152]), Tensor('OUT2', x[32768:])])]", 0.5, id="overlapping slices"
        ),
        pytest.param(ONE + "return [Response([Tensor('OUT', np.broadcast_to(x[:1], x.shape))])]", 1, id="broadcast"),
        pytest.param(
            ONE + "return [Response([Tensor('OUT', np.asfortranarray(x.reshape(256, -1)))])]", 1, id="Fortran order"
        ),
        pytest.param(ONE + "return [Response([Tensor('OUT', x[::-1])])]", 1, id="reversed view"),
        pytest.param(
            ONE + "a = np.zeros(x.size, 'i1,<f4')['f1']\nreturn [Response([Tensor('OUT', a)])]", 1, id="a field, unaligned"
        ),
        pytest.param(ONE + "return [Response([Tensor('OUT', np.matrix(x))])]", 0, id="a matrix that NumPy copied"),
        pytest.param(ONE + "return [Response([Tensor('OUT', (x + 1).view(np.matrix))])]", 0, id="a subclass"),
        pytest.param(ONE + "return [Response([Tensor('OUT', x.reshape(256, -1).T)])]", 1, id="transposed"),
        pytest.param(ONE + "a = x + 1\nreturn [Response([Tensor('OUT', a), Tensor('OUT2', a)])]", 1, id="in two outputs"),
        pytest.param(
            f"if not hasattr(self, 'old'):\n    self.old = np.ones({BIG}, np.float32)\n"
            "return [Response([Tensor('OUT', self.old)])]",
            1,
            id="an array that is kept",
        ),
        pytest.param(
            f"if not hasattr(self, 'old'):\n    self.old = pb_utils.give(pb_utils.empty({BIG}, np.float32))\n"
            "return [Response([Tensor('OUT', self.old)])]",
            0,
            id="given though it is kept",
        ),
        pytest.param(ONE + "return [Response([Tensor.from_dlpack('OUT', x + 1)])]", 0, id="by DLPack"),
        pytest.param(
            ONE + f"import array\nreturn [Response([Tensor('OUT', np.frombuffer(array.array('f', [1]) * {BIG}, 'f4'))])]",
            1,
            id="memory of others",
        ),
    ],
)
def test_copies_in_the_stub(load: Load, body: str, copies: float) -> None:
    loaded = load(body)
    out = loaded.model.infer({"IN": loaded.given(1)})
    assert loaded.copied() == copies * BIG * 4
    assert all(np.asarray(tensor).flags.writeable for tensor in out.values())


def test_a_given_array_moves_once(load: Load) -> None:
    body = f"""
    if not hasattr(self, 'old'):
        self.old = pb_utils.empty({BIG}, np.float32)
        self.old[:] = 5
        pb_utils.give(self.old)
    return [Response([Tensor('OUT', self.old)])]
    """
    loaded = load(body)
    first = np.asarray(loaded.model.infer({"IN": loaded.given(1)})["OUT"])
    second = np.asarray(loaded.model.infer({"IN": loaded.given(1)})["OUT"])
    assert loaded.copied() == BIG * 4
    assert not np.shares_memory(first, second)
    first[:] = -1
    assert np.all(second == 5)


def test_strings_are_copied_once_each_way(load: Load) -> None:
    loaded = load("return [Response([Tensor('OUT', tensors[0].as_numpy())])]", dtype="TYPE_STRING")
    before = tensorferry._server.copy_counts()["host_bytes"]
    out = loaded.model.infer({"IN": [b"x" * 100] * 1000})
    assert tensorferry._server.copy_counts()["host_bytes"] - before == 104 * 1000
    assert loaded.copied() == 104 * 1000
    assert list(out["OUT"].numpy()) == [b"x" * 100] * 1000


def test_strings_that_nobody_read_pass_through(load: Load) -> None:
    loaded = load("t = tensors[0]\nreturn [Response([t])]", dtype="TYPE_STRING")
    out = loaded.model.infer({"IN": [b"y" * 100] * 1000})
    assert loaded.copied() == 0
    assert list(out["IN" if "IN" in out else "OUT"].numpy()) == [b"y" * 100] * 1000


def added(before: dict[str, int]) -> dict[str, int]:
    """What this process has copied since: nothing of what isn't named."""
    now = tensorferry._server.copy_counts()
    return {key: value - before[key] for key, value in now.items() if value != before[key]}


def test_a_scalar_travels_inside_its_message(load: Load) -> None:
    loaded = load("return [Response([Tensor('OUT', np.float32(tensors[0].as_numpy().sum()).reshape(1))])]")
    given = loaded.given(1)
    before = tensorferry._server.copy_counts()
    assert np.asarray(loaded.model.infer({"IN": given})["OUT"])[0] == BIG
    out_of_the_message = {"inline_calls": 1, "inline_bytes": 4}
    assert added(before) == out_of_the_message
    before = tensorferry._server.copy_counts()
    assert np.asarray(loaded.model.infer({"IN": np.float32([7])})["OUT"])[0] == 7
    there_and_back = {"inline_calls": 3, "inline_bytes": 12}  # request, message, answer
    assert added(before) == there_and_back
    assert loaded.copied() == 0


def test_an_answer_passed_on_is_copied_and_stays_its_receivers(load: Load) -> None:
    loaded = load("t = tensors[0].as_numpy()\nt += 1\ndel tensors\nreturn [Response([Tensor('OUT', t)])]")
    first = loaded.model.infer({"IN": loaded.given(1)})["OUT"]
    second = loaded.model.infer({"IN": first})["OUT"]
    assert np.all(np.asarray(first) == 2)
    assert np.all(np.asarray(second) == 3)
    np.asarray(first)[:] = 9
    assert np.all(np.asarray(second) == 3)


def test_an_answer_given_moves_on_and_is_read_only(load: Load) -> None:
    loaded = load("t = tensors[0].as_numpy()\nt += 1\ndel tensors\nreturn [Response([Tensor('OUT', t)])]")
    first = loaded.model.infer({"IN": loaded.given(1)})["OUT"]
    before = tensorferry._server.copy_counts()["host_bytes"]
    second = loaded.model.infer({"IN": tensorferry.give(first)})["OUT"]
    assert tensorferry._server.copy_counts()["host_bytes"] == before
    assert np.all(np.asarray(second) == 3)
    assert not np.asarray(first).flags.writeable
    with pytest.raises(errors.InvalidRequest, match="given to an earlier request"):
        loaded.model.infer({"IN": first})
    with pytest.raises(TypeError, match="tensor of a response"):
        tensorferry.give(np.zeros(3))


PLACE = """
def place(array):
    # inode and file offset of the memory, from the kernel
    at = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        lines = list(maps)
    for line in lines:
        span, _, offset, _, inode = line.split()[:5]
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= at < high:
            return int(inode), int(offset, 16) + at - low
"""


def test_the_kernel_says_that_the_memory_is_the_same(load: Load, tmp_path: Path) -> None:
    """Witness: inode and offset of the memory are the caller's, the model's and the receiver's."""
    scope: dict[str, Any] = {}
    exec(PLACE, scope)
    seen = tmp_path / "seen.json"
    body = (
        PLACE + f"x = tensors[0].as_numpy()\ndel tensors\ny = x * 2\n"
        f"import json\nopen({str(seen)!r}, 'w').write(json.dumps([place(x), place(y)]))\n"
        "return [Response([Tensor('OUT', x), Tensor('OUT2', y)])]"
    )
    loaded = load(body)
    given = loaded.given(3)
    mine = scope["place"](given)
    out = loaded.model.infer({"IN": given})
    model_input, model_output = (tuple(one) for one in json.loads(seen.read_text()))
    assert mine == model_input == scope["place"](np.asarray(out["OUT"]))
    assert model_output == scope["place"](np.asarray(out["OUT2"]))


WITNESS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static unsigned long copied;  /* bytes, in copies of 64 KiB or more */
unsigned long witnessed(void) { return copied; }

#define WATCH(name)                                             \
  void* name(void* to, const void* from, size_t bytes) {        \
    static void* (*real)(void*, const void*, size_t);           \
    if (!real) real = dlsym(RTLD_NEXT, #name);                  \
    if (bytes >= 65536) __atomic_add_fetch(&copied, bytes, 5);  \
    return real(to, from, bytes);                               \
  }
WATCH(memcpy)
WATCH(memmove)
"""

SUBJECT = """
import ctypes, json, sys
import numpy as np
import tensorferry

witnessed = ctypes.CDLL(None).witnessed
witnessed.restype = ctypes.c_ulong
with tensorferry.Server(sys.argv[1]) as server:
    model = server.model("m")
    def run(array):
        before = witnessed()
        out = np.asarray(model.infer({"IN": array})["OUT"])
        return [witnessed() - before, int(out[-1]) - int(out[0])]
    x = model.empty(65536, np.float32)
    x[:] = 1
    run(np.ones(65536, np.float32))
    print(json.dumps([run(x), run(np.ones(65536, np.float32))]))
"""


@pytest.mark.parametrize(("output", "stub_copies"), [("x", 0), ("x * 2", 0), ("self.kept", 1)])
def test_a_preloaded_counter_sees_the_same_copies(tmp_path: Path, output: str, stub_copies: int) -> None:
    """Witness: memcpy and memmove as the dynamic linker resolves them, in the server's process and in the stub's."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the preloaded witness")
    (tmp_path / "witness.c").write_text(WITNESS)
    library = tmp_path / "witness.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-fno-builtin", tmp_path / "witness.c", "-o", library, "-ldl"], check=True
    )
    models = tmp_path / "models"
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "config.pbtxt").write_text(CONFIG % (0, "TYPE_FP32", "TYPE_FP32", "TYPE_FP32", ""))
    # The answer's elements differ by what was copied in the stub while the last request was answered.
    body = f"""
    import ctypes
    seen = ctypes.CDLL(None).witnessed
    seen.restype = ctypes.c_ulong
    x = tensors[0].as_numpy()
    del tensors
    if not hasattr(self, "kept"):
        self.kept, self.before = np.zeros(65536, np.float32), seen()
    now, self.before = seen() - self.before, seen()
    y = {output}
    y[0], y[-1] = 0, now
    return [Response([Tensor("OUT", y)])]
    """
    method = "    def answers(self, tensors):\n" + textwrap.indent(textwrap.dedent(body), " " * 8)
    (models / "m" / "1" / "model.py").write_text(MODEL + method)
    environment = dict(os.environ, LD_PRELOAD=str(library), PYTHONPATH=os.pathsep.join(sys.path))
    answer = subprocess.run(
        [sys.executable, "-c", SUBJECT, models], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    (from_empty, in_stub), (ordinary, in_stub_again) = json.loads(answer.stdout)
    assert (from_empty, ordinary) == (0, 65536 * 4)
    assert in_stub == in_stub_again == stub_copies * 65536 * 4
