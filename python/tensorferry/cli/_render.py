"""What the commands share: consoles, sizes and times as people read them, exit codes."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

FAILED, ENVIRONMENT, INTERRUPTED = 1, 3, 130

console = Console()
errors = Console(stderr=True)


def size(count: float) -> str:
    """Bytes, in binary units."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as us, ms or s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
