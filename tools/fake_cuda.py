"""Runs a command on the emulated CUDA driver: what `./dev fake-cuda` does once it is built, and what tests set for a child.

    ./dev fake-cuda [--profile P] [--sched S] [--devices N] [--leaks] -- COMMAND...

tests/fake_cuda/README.md says what each of these means.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

DRIVER = "tensorferry_fake_cuda"
TARGETS = (DRIVER, "tensorferry_fake_nvml", "tensorferry_fake_cudart_12", "tensorferry_fake_cudart_13")
RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
SHOWN_REPORTS = 20


def joined(*values: str | None) -> str:
    return ":".join(value for value in values if value)


def environment(
    libraries: Path,
    *,
    profile: str | None = None,
    sched: str | None = None,
    devices: int | None = None,
    state: Path | None = None,
    leaks: bool = False,
    runtimes: bool = True,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What a process needs in its environment to run on the emulator whose build folder is `libraries`.

    The runtimes are preloaded, since wheels find their own by an rpath, which comes before LD_LIBRARY_PATH; what uses the
    driver alone does without.
    `state` is a folder in which each process leaves its counters and reports.
    """
    inherited = os.environ if base is None else base
    preloaded = [str(libraries / name) for name in RUNTIMES if runtimes and (libraries / name).exists()]
    chosen = {
        "FAKECUDA": "1",
        "FAKECUDA_PROFILE": profile,
        "FAKECUDA_SCHED": sched,
        "FAKECUDA_DEVICES": None if devices is None else str(devices),
        "FAKECUDA_STATE": None if state is None else str(state),
        "FAKECUDA_LEAKS": "1" if leaks else None,
        "LD_LIBRARY_PATH": joined(str(libraries), inherited.get("LD_LIBRARY_PATH")),
        "LD_PRELOAD": joined(*preloaded, inherited.get("LD_PRELOAD")),
    }
    return {name: value for name, value in chosen.items() if value}


class Summary:
    """What the processes of a run left in their folder: the sum of their counters, and their reports."""

    def __init__(self, driver: Path, state: Path) -> None:
        library = ctypes.CDLL(str(driver))
        library.fakecuda_counter_names.restype = ctypes.c_char_p
        library.fakecuda_read_reports.restype = ctypes.c_size_t
        self.library = library
        self.names = library.fakecuda_counter_names().decode().split(",")
        self.counters = dict.fromkeys(self.names, 0)
        self.reports: list[str] = []
        self.processes = 0
        for file in sorted(state.glob("*.fakecuda")):
            self.add(file)

    def add(self, file: Path) -> None:
        values = (ctypes.c_uint64 * len(self.names))()
        if self.library.fakecuda_read_counters(os.fsencode(file), ctypes.byref(values)):
            return
        self.processes += bool(values[0])
        for name, value in zip(self.names, values):
            self.counters[name] += value
        size = self.library.fakecuda_read_reports(os.fsencode(file), None, 0)
        text = ctypes.create_string_buffer(size + 1)
        self.library.fakecuda_read_reports(os.fsencode(file), text, size + 1)
        self.reports += text.value.decode(errors="replace").splitlines()

    def lines(self) -> list[str]:
        used = [f"{name} {value}" for name, value in self.counters.items() if value]
        reports = self.reports[:SHOWN_REPORTS]
        if left_out := len(self.reports) - len(reports):
            reports.append(f"... and {left_out} more")
        title = f"# emulated CUDA: {self.processes} process{'' if self.processes == 1 else 'es'} used it"
        return [title, "# " + ", ".join(used), *reports] if used else [title]


def run(libraries: Path, arguments: Sequence[str]) -> int:
    """Runs `[OPTIONS] -- COMMAND...` on the emulator; a closing summary goes to stderr. Returns the command's exit code."""
    parser = argparse.ArgumentParser(prog="./dev fake-cuda", usage="./dev fake-cuda [OPTIONS] -- COMMAND...")
    parser.add_argument("--profile", help="what the devices can and can't do")
    parser.add_argument("--sched", help="eager, random:SEED or lazy")
    parser.add_argument("--devices", type=int, help="how many")
    parser.add_argument("--leaks", action="store_true", help="report what is left at exit")
    cut = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    command = list(arguments[cut + 1 :])
    if not command:
        parser.error("there is no command")
    with tempfile.TemporaryDirectory(prefix="fakecuda-") as folder:
        state = Path(folder)
        settings = environment(
            libraries,
            profile=options.profile,
            sched=options.sched,
            devices=options.devices,
            state=state,
            leaks=options.leaks,
        )
        shown = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if name != "FAKECUDA_STATE"]
        print("+ " + " ".join([*shown, shlex.join(command)]), flush=True)
        try:
            code = subprocess.run(command, env={**os.environ, **settings}, check=False).returncode
        except OSError as error:
            print(f"./dev fake-cuda: {error}", file=sys.stderr)
            return 127
        print("\n".join(Summary(libraries / "libcuda.so.1", state).lines()), file=sys.stderr, flush=True)
    return code if code >= 0 else 128 - code
