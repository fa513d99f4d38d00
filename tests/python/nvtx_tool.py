"""An NVTX tool for tests (nvtx_recorder.c): how it is made, and what it saw."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tensorferry import _server


def nvtx_folders() -> list[str]:
    """Where a header of the build may have come from."""
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [f"{root}/include" for root in [*roots, "/usr/local/cuda"] if root]
    with suppress(ImportError):
        import nvidia  # type: ignore[import-not-found]

        folders += [str(path) for root in nvidia.__path__ for path in Path(root).glob("*/include")]
    return [folder for folder in folders if (Path(folder) / "nvtx3/nvToolsExt.h").exists()]


def build_recorder(folder: Path) -> Path:
    """The library for NVTX_INJECTION64_PATH; it writes to the file in NVTX_RECORD. Skips where it can't be made."""
    if not _server.knows_nvtx:
        pytest.skip("built without NVTX: no nvtx3/nvToolsExt.h was found then")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        pytest.skip("no C compiler to make an NVTX tool with")
    folders = nvtx_folders()
    if not folders:
        pytest.skip("no nvtx3/nvToolsExt.h to make an NVTX tool with: pip install nvidia-nvtx")
    library = folder / "recorder.so"
    source = Path(__file__).with_name("nvtx_recorder.c")
    flags = ["-shared", "-fPIC", "-O1", f"-I{folders[0]}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library), "-ldl"], check=True, timeout=60)
    return library


class Event(NamedTuple):
    name: str
    category: str
    number: int
    inside: tuple[str, ...] = ()  # the ranges that it lies in, outermost first


Events = dict[int, list[Event]]  # by process


def recorded(log: Path) -> tuple[Events, Events]:
    """The ranges in the order of their ends, and the marks. Every range has ended."""
    opened: dict[tuple[str, ...], list[Event]] = defaultdict(list)
    ranges: Events = defaultdict(list)
    marks: Events = defaultdict(list)
    for line in log.read_text().splitlines():
        process, thread, what, domain, name, payload, category, number = line.split()
        assert domain == "tensorferry"
        stack = opened[(process, "range", number) if what in ("start", "end") else (process, thread)]
        if what in ("pop", "end"):
            ranges[int(process)].append(stack.pop())
            continue
        event = Event(name, category, int(payload), tuple(one.name for one in stack))
        if what == "mark":
            marks[int(process)].append(event)
        else:
            stack.append(event)
    assert not any(opened.values()), opened
    return ranges, marks
