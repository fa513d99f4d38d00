"""What `./dev nsys` does: a command under NVIDIA's Nsight Systems, and the ranges of both processes joined.

    ./dev nsys [OPTIONS OF nsys profile] -- COMMAND...

An nsys on the PATH is taken. Without one it comes from the distribution's own archive, from the section beside the free one
(Debian's non-free, Ubuntu's multiverse), is unpacked below build/, and neither installed nor shipped: the system's packages
and their configuration stay as they are. Results: build/nsys/report.{nsys-rep,sqlite}.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The importer wants libssh, and nothing else that isn't everywhere.
PACKAGES = ("nsight-systems", "nsight-systems-target", "libssh-4")
SECTIONS = {"Debian": "non-free", "Ubuntu": "multiverse"}
TARGETS_FORMAT = "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)"
# What is of use without a GPU and without rights: no sampling, no context switches. With their other names, since nsys takes
# each option once.
PROFILE_OPTIONS = {"--trace=nvtx": "-t", "--sample=none": "-s", "--cpuctxsw=none": "", "--force-overwrite=true": "-f"}


class Unavailable(Exception):
    """Why nsys can't be had, or made no report."""


def call(*command: object) -> str:
    """Prints and runs a command that must succeed; returns what it said."""
    words = [str(word) for word in command]
    print("+ " + shlex.join(words), flush=True)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable(f"{words[0]} ended with {done.returncode}: {' '.join(last)}")
    return done.stdout


class Apt:
    """apt-get with lists and caches of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        for name in ("lists/partial", "cache/archives/partial", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.sources = folder / "sources.list"
        own = {"Dir::State::Lists": folder / "lists", "Dir::State": folder / "state", "Dir::Cache": folder / "cache"}
        self.options = [f"-o{name}={path}" for name, path in own.items()] + ["-oAPT::Sandbox::User=root"]
        self.our_sources = [f"-oDir::Etc::SourceList={self.sources}", "-oDir::Etc::SourceParts=/dev/null"]

    def repositories(self) -> list[tuple[str, str, str]]:
        """Of the distribution's free section, as the system is configured: its origin, address and release."""
        targets = ["indextargets", "--format", TARGETS_FORMAT, "Created-By: Packages"]
        said = call("apt-get", *targets)
        if not said.strip():  # apt-get update was never run here
            call("apt-get", *self.options, "-q", "update")
            said = call("apt-get", *self.options, *targets)
        lines = [line.split("|") for line in said.splitlines()]
        main = {(origin, uri, release) for origin, part, uri, release in lines if part == "main"}
        return sorted(one for one in main if one[0] in SECTIONS)

    def download(self, packages: Sequence[str], folder: Path) -> None:
        found = self.repositories()
        if not found:
            raise Unavailable("apt-get has no source of Debian's or Ubuntu's own")
        lines = [f"deb {uri} {release} main {SECTIONS[origin]}\n" for origin, uri, release in found]
        self.sources.write_text("".join(lines))
        options = [*self.options, *self.our_sources]
        call("apt-get", *options, "-q", "update")
        folder.mkdir(exist_ok=True)
        call("env", "-C", folder, "apt-get", *options, "-q", "download", *packages)


def fetch(folder: Path) -> Path:
    """nsys, unpacked in `folder` unless it is already. Raises Unavailable."""
    root = folder / "root"
    nsys = root / "usr/bin/nsys"
    if (folder / "complete").exists():
        return nsys
    for command in ("apt-get", "dpkg-deb"):
        if not shutil.which(command):
            raise Unavailable(f"there is no {command} to fetch it with: put nsys on the PATH")
    Apt(folder / "apt").download(PACKAGES, folder / "packages")
    shutil.rmtree(root, ignore_errors=True)
    for package in sorted((folder / "packages").glob("*.deb")):
        call("dpkg-deb", "-x", package, root)
    # The half that profiles looks for the half that imports beside itself.
    for target in root.glob("usr/lib/*/nsight-systems/target-linux-*"):
        here = target.parent / target.name.replace("target", "host")
        there = root / "usr/lib/nsight-systems" / here.name
        if not here.exists() and there.exists():
            here.symlink_to(os.path.relpath(there, here.parent))
    call(nsys, "--version")
    shutil.rmtree(folder / "packages")
    (folder / "complete").touch()
    return nsys


def find(folder: Path) -> Path:
    """The machine's nsys, or one in `folder`, fetched when it is not there yet. Raises Unavailable."""
    there = shutil.which("nsys")
    return Path(there) if there else fetch(folder)


def profile(nsys: Path, report: Path, options: Sequence[str], command: Sequence[str]) -> int:
    """Runs the command; its ranges are in `report`.nsys-rep then. Returns its exit code. Raises Unavailable."""
    given = {option.partition("=")[0] for option in options}
    ours = [one for one, short in PROFILE_OPTIONS.items() if not given & {one.partition("=")[0], short}]
    recorded = report.with_suffix(".nsys-rep")
    recorded.unlink(missing_ok=True)
    words = [str(nsys), "profile", *ours, f"--output={report}", *options, *command]
    print("+ " + shlex.join(words), flush=True)
    code = subprocess.run(words, check=False).returncode
    if not recorded.exists():
        raise Unavailable(f"nsys ended with {code} and recorded nothing")
    return code


def export(nsys: Path, report: Path) -> Path:
    """`report`.nsys-rep as an SQLite file. Raises Unavailable."""
    recorded, exported = report.with_suffix(".nsys-rep"), report.with_suffix(".sqlite")
    call(nsys, "export", "--type=sqlite", "--force-overwrite=true", f"--output={exported}", recorded)
    return exported


def run(folder: Path, arguments: Sequence[str], *, tensorferry: Path) -> int:
    """Runs `[OPTIONS] -- COMMAND...` under nsys and shows what is joined. Returns the command's exit code; 3: no nsys."""
    cut = list(arguments).index("--") if "--" in arguments else len(arguments)
    options, command = arguments[:cut], arguments[cut + 1 :]
    if not command:
        print("./dev nsys: there is no command: ./dev nsys [OPTIONS OF nsys profile] -- COMMAND...", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report"
    try:
        nsys = find(folder)
        code = profile(nsys, report, options, command)
        exported = export(nsys, report)
    except Unavailable as error:
        print(f"./dev nsys: {error}", file=sys.stderr)
        return 3
    print(f"+ {tensorferry} join-ranges {exported}", flush=True)
    subprocess.run([tensorferry, "join-ranges", exported], check=False)
    return code
