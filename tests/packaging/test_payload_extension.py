"""The floors of what we ship into other people's environments: the payload's one extension."""

from __future__ import annotations

import importlib.util
import io
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

GLIBC_FLOOR = (2, 35)  # Ubuntu 22.04, where Triton's containers are; held by what is built on Debian 12
SYSTEM_LIBRARIES = re.compile(r"libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux.*")


def payload() -> Path:
    spec = importlib.util.find_spec("tensorferry")
    assert spec is not None, "tensorferry is not installed: ./dev test does that"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "payload"


@pytest.fixture(scope="module")
def extension() -> Path:
    found = [f for f in payload().glob("_ferry_stub*.so") if f.name.endswith(".abi3.so")]
    assert len(found) == 1, f"{payload()} has {[f.name for f in payload().iterdir()]}"
    return found[0]


def read_elf(file: Path) -> ELFFile:
    return ELFFile(io.BytesIO(file.read_bytes()))


@pytest.fixture(scope="module")
def elf(extension: Path) -> ELFFile:
    return read_elf(extension)


def section(elf: ELFFile, kind: type, name: str):  # type: ignore[no-untyped-def]
    found = elf.get_section_by_name(name)
    assert isinstance(found, kind), name
    return found


def glibc_wanted(elf: ELFFile) -> tuple[int, int]:
    wanted = [
        (int(m[1]), int(m[2]))
        for _, versions in section(elf, GNUVerNeedSection, ".gnu.version_r").iter_versions()
        for version in versions
        if (m := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", version.name))
    ]
    assert wanted
    return max(wanted)


def built_on_debian_12() -> bool:
    release = platform.freedesktop_os_release()
    return release.get("ID") == "debian" and release.get("VERSION_ID") == "12"


def test_it_uses_nothing_beyond_the_stable_abi_of_3_8(extension: Path) -> None:
    command = [sys.executable, "-m", "abi3audit", "--strict", "--summary", "--assume-minimum-abi3", "3.8"]
    answer = subprocess.run([*command, str(extension)], capture_output=True, text=True, timeout=100)
    words = " ".join((answer.stdout + answer.stderr).split())
    assert answer.returncode == 0, words
    assert "1 extensions scanned; 0 ABI version mismatches and 0 ABI violations found" in words


def test_it_exports_its_init_function_and_nothing_else(elf: ELFFile) -> None:
    exported = {
        symbol.name
        for symbol in section(elf, SymbolTableSection, ".dynsym").iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name
    }
    assert exported == {"PyInit__ferry_stub"}


def test_it_needs_no_library_but_libc(elf: ELFFile) -> None:
    needed = [tag.needed for tag in section(elf, DynamicSection, ".dynamic").iter_tags("DT_NEEDED")]
    assert needed
    assert not [name for name in needed if not SYSTEM_LIBRARIES.fullmatch(name)]


def test_what_it_leaves_undefined_is_libc_and_python(elf: ELFFile) -> None:
    versions = elf.get_section_by_name(".gnu.version")
    strangers = []
    for index, symbol in enumerate(section(elf, SymbolTableSection, ".dynsym").iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or symbol["st_info"]["bind"] == "STB_WEAK" or not symbol.name:
            continue
        versioned = versions.get_symbol(index)["ndx"] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        if not versioned and not symbol.name.startswith(("Py", "_Py")):
            strangers.append(symbol.name)
    assert not strangers


def test_it_loads_with_glibc_2_35(elf: ELFFile) -> None:
    wanted = glibc_wanted(elf)
    if wanted > GLIBC_FLOOR and not built_on_debian_12():
        pytest.skip(f"built here it asks for glibc {wanted[0]}.{wanted[1]}; what we ship is built on Debian 12")
    assert wanted <= GLIBC_FLOOR


def test_the_check_for_the_floor_reads_what_a_library_asks_for() -> None:
    with Path("/proc/self/maps").open() as maps:
        libm = next(line.split()[-1] for line in maps if re.search(r"/libm[.-]", line))
    assert glibc_wanted(read_elf(Path(libm))) >= (2, 0)
