"""What the commands share: consoles, sizes and times as people read them, exit codes."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.status import Status

from .. import Error

FAILED, ENVIRONMENT, INTERRUPTED, TERMINATED = 1, 3, 130, 143

# Of commands that nobody else depends on: an interrupted one is not kept for long by a model that hangs. Seconds.
IMPATIENT: dict[str, Any] = {"drain_timeout": 2, "finalize_timeout": 3}

# Results go to the one, all else to the other. rich honours NO_COLOR, and writes plain text where it is no terminal.
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


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


def count(number: int, noun: str) -> str:
    """ "1 model", "2 models"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def waiting(for_what: str) -> Status:
    """A spinner on a terminal, nothing elsewhere."""
    return errors.status(for_what)


def show_error(error: Error) -> None:
    """On stderr, as it stands: a message may have brackets and paths that are no markup."""
    errors.print(f"[red]error[/red] {error.code}:", end=" ", soft_wrap=True)
    errors.print(str(error), markup=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def plain_list(array: NDArray[Any]) -> Any:
    """An array for JSON; dtypes that aren't NumPy's own (bfloat16) as numbers all the same."""
    return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()
