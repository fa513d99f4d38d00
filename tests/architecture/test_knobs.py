"""Every name of ours that the shipped code reads is in the list of knobs, which docs/knobs.md is written from."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("transport", "cuda", "stub", "server", "python")
NAME = re.compile(r"""["'](TENSORFERRY_[A-Z0-9_]*[A-Z0-9])["']""")


def names_in(text: str) -> set[str]:
    """Those in quotes: a macro has none."""
    return set(NAME.findall(text))


def listed() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/knobs.md").read_text(), re.MULTILINE))


def test_what_the_code_reads_is_listed_and_what_is_listed_is_read() -> None:
    files = [f for folder in SHIPPED for pattern in ("*.cc", "*.h", "*.py") for f in (ROOT / folder).rglob(pattern)]
    read: dict[str, list[str]] = {}
    for file in files:
        if file.name != "knobs.cc":
            for name in names_in(file.read_text()):
                read.setdefault(name, []).append(str(file.relative_to(ROOT)))
    ours = {name for name in listed() if name.startswith("TENSORFERRY_")}
    assert read.keys() - ours == set(), f"not in server/knobs.cc: {read}"
    assert ours - read.keys() == set(), "nothing reads them"


def test_names_are_found_however_they_are_quoted() -> None:
    assert names_in('getenv("TENSORFERRY_A") os.environ[\'TENSORFERRY_B_2\'] TENSORFERRY_MACRO "TENSORFERRY_"') == {
        "TENSORFERRY_A",
        "TENSORFERRY_B_2",
    }
