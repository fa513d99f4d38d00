"""The CPythons of this machine, and a NumPy for each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

# What was tried, for the line at the end of the run (conftest.py).
TRIED = pytest.StashKey[list[str]]()

_ASK = """
import json, sys, sysconfig
print(json.dumps([list(sys.version_info[:3]), sys.implementation.name, sys.base_prefix,
                  bool(sysconfig.get_config_var("Py_GIL_DISABLED"))]))
"""


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: tuple[int, int, int]
    prefix: str

    @property
    def minor(self) -> tuple[int, int]:
        return self.version[:2]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


def _candidates() -> list[Path]:
    home = Path.home()
    folders = [Path("/usr/bin"), Path("/usr/local/bin"), *map(Path, os.environ.get("PATH", "").split(":"))]
    for root in (
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")),
    ):
        folders += [version / "bin" for version in sorted(root.glob("*"))]
    names = ["python3", *(f"python3.{minor}" for minor in range(30))]
    # pyenv's shims start what its versions/ folder has.
    found = [folder / name for folder in folders if folder.name != "shims" for name in names]
    return [Path(sys.executable), *(path for path in found if os.access(path, os.X_OK))]


def _ask(path: Path) -> Interpreter | None:
    """An interpreter of GIL-bound CPython, or None for anything else."""
    try:
        done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, timeout=30, check=True)
        version, kind, prefix, free_threaded = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if kind != "cpython" or free_threaded:
        return None
    return Interpreter(str(path), (version[0], version[1], version[2]), os.path.realpath(prefix))


@cache
def all_interpreters() -> tuple[Interpreter, ...]:
    """By version, each installation once, those that are too old included."""
    found: dict[tuple[str, tuple[int, int, int]], Interpreter] = {}
    seen = set()
    for path in _candidates():
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        # Not resolved where it is a venv's: that is found by where the link lies. The base is as good here.
        if one := _ask(Path(real)):
            found.setdefault((one.prefix, one.version), one)
    return tuple(sorted(found.values(), key=lambda one: (one.version, one.path)))


def supported() -> list[Interpreter]:
    return [one for one in all_interpreters() if one.minor >= (3, 8)]


def too_old() -> list[Interpreter]:
    return [one for one in all_interpreters() if one.minor < (3, 8)]


def packages_for(minor: tuple[int, int], *requirements: str) -> Path:
    """A folder for PYTHONPATH with wheels for that version of CPython; kept from run to run. Skips where pip can't."""
    version = f"{minor[0]}.{minor[1]}"
    folder = Path(tempfile.gettempdir()) / f"tensorferry-wheels-{os.getuid()}" / f"{'-'.join(requirements)}-{version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(fresh)]
    command += ["--python-version", version, "--only-binary=:all:", *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        reason = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = "pip took longer than 100 s"
    if reason:
        shutil.rmtree(fresh)
        pytest.skip(f"no {' '.join(requirements)} for Python {version}: {reason}")
    try:
        fresh.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(fresh)
    return folder
