"""What the benchmarks have in common as programs: options, the table on stdout, the result as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def options(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, help="so many, instead of what is usual")
    parser.add_argument("--json", type=Path)
    return parser


def finish(result: Mapping[str, Any], table: Callable[[Mapping[str, Any]], str], file: Path | None) -> int:
    """Prints the table, or why there is none, and writes the result; the exit code."""
    print(f"skipped: {result['skipped']}" if "skipped" in result else table(result))
    if file:
        file.write_text(json.dumps(result, indent=1))
    return 0
