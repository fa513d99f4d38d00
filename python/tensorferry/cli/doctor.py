"""`tensorferry doctor`: does this host have what tensorferry needs?"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable

import click
from rich.table import Table

from ._render import ENVIRONMENT, console, emit_json, size

_SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


def _kernel() -> tuple[bool, str]:
    release = platform.release()
    major, minor = (int(part) for part in release.split("-")[0].split(".")[:2])
    return (major, minor) >= (5, 4), f"Linux {release} (5.4 or later is needed)"


def _memfd() -> tuple[bool, str]:
    try:
        fd = os.memfd_create("tensorferry-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, 4096)
        fcntl.fcntl(fd, 1033, _SEALS)  # F_ADD_SEALS
        os.close(fd)
    except OSError as error:
        return False, f"sealed memfds are refused: {error}"
    return True, "sealed and reserved memfds work; /dev/shm is not used"


def _descriptors() -> tuple[bool, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft >= 256, f"{soft} descriptors (hard limit {hard}); a stub takes about eight"


def _memory() -> tuple[bool, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return True, f"{size(total)} on this host; an arena takes at most a quarter of it, or of a smaller cgroup limit"


def _interpreters() -> tuple[bool, str]:
    found = [path for minor in range(8, 16) if (path := shutil.which(f"python3.{minor}"))]
    return True, f"models run in {sys.executable} by default; also here: {', '.join(found) or 'none'}"


def _gpu() -> tuple[bool, str]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True, "no CUDA driver: CPU tensors only"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return True, f"CUDA driver {version.value // 1000}.{version.value % 1000 // 10}; GPU tensors are not there yet"


def _inputs() -> tuple[bool, str]:
    return True, "inputs come to the CPU unless a model sets FORCE_CPU_ONLY_INPUT_TENSORS to no"


_CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "kernel": _kernel,
    "shared memory": _memfd,
    "descriptors": _descriptors,
    "memory": _memory,
    "interpreters": _interpreters,
    "GPU": _gpu,
    "inputs": _inputs,
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def doctor(as_json: bool) -> None:
    """Look at this host: kernel, memory, limits, interpreters, GPU driver."""
    findings = {name: look() for name, look in _CHECKS.items()}
    good = all(ok for ok, _ in findings.values())
    if as_json:
        emit_json({name: {"ok": ok, "text": text} for name, (ok, text) in findings.items()})
    else:
        table = Table("", "what", "found")
        for name, (ok, text) in findings.items():
            table.add_row("[green]ok[/green]" if ok else "[red]no[/red]", name, text)
        console.print(table)
    if not good:
        raise click.exceptions.Exit(ENVIRONMENT)
