"""`tensorferry doctor`: does this host have what tensorferry needs?"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import click
from rich.markup import escape
from rich.table import Table

from .. import _server
from ._render import ENVIRONMENT, console, emit_json, size, waiting

_SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
_ASK = "import json, sys; print(json.dumps([sys.implementation.name, sys.version.split()[0]]))"


def _kernel() -> tuple[bool, str]:
    release = f"Linux {platform.release()}"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return False, f"{release}: pidfd_open is refused ({error}); Linux 5.4 or later is needed"
    return True, f"{release}: deaths of stubs are told by pidfd"


def _memfd() -> tuple[bool, str]:
    try:
        fd = os.memfd_create("tensorferry-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, 4096)
        fcntl.fcntl(fd, 1033, _SEALS)  # F_ADD_SEALS
        os.close(fd)
    except OSError as error:
        return False, f"sealed memfds are refused: {error}"
    return True, "sealed and reserved memfds work; /dev/shm is not used"


def _limits() -> tuple[bool, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} descriptors (hard limit {hard}); a stub takes about eight"
    for name, number in (("processes", resource.RLIMIT_NPROC), ("address space", resource.RLIMIT_AS)):
        limit, _ = resource.getrlimit(number)
        if limit != resource.RLIM_INFINITY:
            text += f"; {name}: {size(limit) if number == resource.RLIMIT_AS else limit}"
    return soft >= 256, text


def _memory() -> tuple[bool, str]:
    lines = [
        f"{size(one['limit_bytes'])}, {size(one['used_bytes'])} in use ({one['source']})" for one in _server.memory_limits()
    ]
    lines.append(f"an arena takes at most {size(_server.default_arena_max_bytes())} unless arena_max_bytes says otherwise")
    return True, "\n".join(lines)


def _version(path: str) -> str:
    """ "CPython 3.12.1", or nothing where it doesn't start (a version manager's placeholder, for example)."""
    try:
        done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, timeout=20, check=True)
        kind, version = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return f"{'CPython' if kind == 'cpython' else kind} {version}"


def _interpreters() -> tuple[bool, str]:
    found = [path for minor in range(8, 30) if (path := shutil.which(f"python3.{minor}"))]
    with ThreadPoolExecutor(4) as pool:
        versions = dict(zip(found, pool.map(_version, found), strict=True))
    mine = f"models run in {sys.executable} ({_version(sys.executable)}) unless they name another"
    return True, "\n".join([mine, *(f"also here: {path} ({version})" for path, version in versions.items() if version)])


def _gpu() -> tuple[bool, str]:
    found = _server.gpus()
    if found["driver"] is None or not found["devices"]:
        return True, f"CPU tensors only: {found['why'] or 'the driver sees no device'}"
    lines = [f"CUDA {found['driver'] // 1000}.{found['driver'] % 1000 // 10}"]
    for one in found["devices"]:
        reason = f" ({one['reason']})" if one["reason"] else ""
        lines.append(f"cuda:{one['ordinal']} {one['uuid']}: shared with stubs by {one['transport']}{reason}")
    return True, "\n".join(lines)


def _inputs() -> tuple[bool, str]:
    return True, "come to the CPU unless a model sets the parameter FORCE_CPU_ONLY_INPUT_TENSORS to no"


_CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "kernel": _kernel,
    "shared memory": _memfd,
    "limits": _limits,
    "memory": _memory,
    "interpreters": _interpreters,
    "GPU": _gpu,
    "inputs": _inputs,
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def doctor(as_json: bool) -> None:
    """Look at this host: kernel, memory, limits, interpreters, GPU driver, and where a model's inputs come to."""
    with waiting("looking"):
        findings = {name: look() for name, look in _CHECKS.items()}
    good = all(ok for ok, _ in findings.values())
    if as_json:
        emit_json({name: {"ok": ok, "text": text} for name, (ok, text) in findings.items()})
    else:
        table = Table("", "what", "found")
        for name, (ok, text) in findings.items():
            table.add_row("[green]ok[/green]" if ok else "[red]no[/red]", name, escape(text))
        console.print(table)
    if not good:
        raise click.exceptions.Exit(ENVIRONMENT)
