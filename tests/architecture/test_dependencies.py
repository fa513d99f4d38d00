"""Dependencies go one way: transport <- cuda <- stub and server <- python. Includes, links and imports are read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_USE: dict[str, set[str]] = {
    "transport": set(),
    "cuda": {"transport"},
    "stub": {"transport", "cuda"},
    "server": {"transport", "cuda"},
    "python": {"transport", "cuda", "server"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(<([^>]+)>|"([^"]+)")', re.MULTILINE)


def wrong_includes(folder: str, file: Path, text: str) -> list[str]:
    """What `file` of the library `folder` includes and must not."""
    wrong = []
    for _, public, private in INCLUDE.findall(text):
        name = public or private
        parts = name.split("/")
        if parts[0] == "tensorferry":
            if parts[1] != folder and parts[1] not in MAY_USE[folder]:
                wrong.append(f"{name}: {folder} must not know {parts[1]}")
        elif public and parts[0] in MAY_USE:
            wrong.append(f"{name}: our headers are <tensorferry/...>")
        elif private and (parts[0] == ".." or not (file.parent / name).exists()):
            wrong.append(f"{name}: a private header lies beside its source")
    return wrong


def cpp_files(folder: str) -> list[Path]:
    return sorted(f for pattern in ("*.cc", "*.h") for f in (ROOT / folder).rglob(pattern))


@pytest.mark.parametrize("folder", MAY_USE)
def test_includes_follow_the_arrows(folder: str) -> None:
    files = cpp_files(folder)
    assert files, f"{folder}/ has no C++ files: was it renamed?"
    wrong = [f"{f.relative_to(ROOT)}: {w}" for f in files for w in wrong_includes(folder, f, f.read_text())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", MAY_USE)
def test_public_headers_include_no_private_ones(folder: str) -> None:
    for header in (ROOT / folder / "include").rglob("*.h"):
        private = [name for _, _, name in INCLUDE.findall(header.read_text()) if name]
        assert not private, f"{header.relative_to(ROOT)} includes {private}"


# What supervises a stub and what runs a batch on it, with all that they include of ours: inside Triton the core takes the
# scheduler's place, so it knows requests and responses, and none of these.
BELOW_THE_SEAM = [
    "execution.h",
    "model_instance.cc",
    "stub_session.cc",
    "stub_process.cc",
    "stub_link.cc",
    "stub_link_answers.cc",
    "stub_link_placement.cc",
    "stub_link_reads.cc",
    "stub_link_requests.cc",
]
ABOVE_THE_SEAM = {
    "scheduler",
    "call_state",
    "model_state",
    "model_slot",
    "model_repository",
    "model_config",
    "config_rules",
    "server",
    "model",
}


def headers_behind(file: Path) -> set[str]:
    """Names of the server's headers that `file` includes, and those include, and so on."""
    found: set[str] = set()
    pending = [file]
    while pending:
        for _, public, private in INCLUDE.findall(pending.pop().read_text()):
            folder = "server/include" if public else "server"
            header = ROOT / folder / (public or private)
            if header.exists() and header.stem not in found:
                found.add(header.stem)
                pending.append(header)
    return found


@pytest.mark.parametrize("name", BELOW_THE_SEAM)
def test_below_the_seam_nothing_knows_repository_or_scheduler(name: str) -> None:
    behind = headers_behind(ROOT / "server" / name)
    assert behind
    assert not behind & ABOVE_THE_SEAM


def test_an_include_that_points_back_is_found() -> None:
    here = ROOT / "transport" / "x.cc"
    assert wrong_includes("transport", here, "#include <tensorferry/server/server.h>\n")
    assert wrong_includes("stub", here, "#include <tensorferry/server/server.h>\n")
    assert wrong_includes("server", here, '#include "../stub/x.h"\n')
    assert not wrong_includes("server", here, "#include <tensorferry/transport/arena.h>\n#include <map>\n")


@pytest.mark.parametrize("folder", ["transport", "cuda", "stub", "server"])
def test_links_follow_the_arrows(folder: str) -> None:
    text = (ROOT / folder / "CMakeLists.txt").read_text()
    linked = set(re.findall(r"tensorferry::(\w+)", text))
    assert linked <= MAY_USE[folder]


def test_cuda_is_never_linked() -> None:
    for file in [ROOT / "CMakeLists.txt", *ROOT.glob("*/CMakeLists.txt"), *ROOT.glob("cmake/*.cmake")]:
        assert not re.search(r"find_package\(CUDA|CUDA::|-lcuda\b", file.read_text()), file


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def test_the_payload_imports_nothing_of_the_package() -> None:
    files = sorted((ROOT / "python/tensorferry/payload").rglob("*.py"))
    assert files
    for file in files:
        wrong = {n for n in imports(file) if n.split(".")[0] == "tensorferry" or n.startswith("..")}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}: it must run where tensorferry is not installed"


def test_the_payload_is_python_3_8() -> None:
    for file in sorted((ROOT / "python/tensorferry/payload").rglob("*.py")):
        ast.parse(file.read_text(), feature_version=(3, 8))


def test_the_package_does_not_import_the_payload_or_the_cli() -> None:
    package = ROOT / "python/tensorferry"
    for file in package.glob("*.py"):
        wrong = {n for n in imports(file) if re.match(r"(tensorferry)?\.(payload|cli)\b", n)}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
