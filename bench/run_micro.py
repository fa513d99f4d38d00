"""What do the ring, the arena, the codec and the copy cost alone?

    python bench/run_micro.py [--quick] [--json FILE]

Runs the Google Benchmark programs of bench/micro/, whose repetitions are interleaved.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import host
import program
from client import built
from peers import Unavailable
from report import markdown

PROGRAMS = ("ring_bench", "arena_bench", "codec_bench", "copy_bench")


def measure(name: str, repetitions: int, seconds: float) -> list[dict[str, Any]]:
    """Nanoseconds per iteration: the best and the median repetition."""
    command = [
        str(built(name)),
        "--benchmark_format=json",
        f"--benchmark_repetitions={repetitions}",
        f"--benchmark_min_time={seconds}",
        "--benchmark_enable_random_interleaving=true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}\n{done.stderr}")
    times: dict[str, list[float]] = {}
    for entry in json.loads(done.stdout)["benchmarks"]:
        if entry.get("error_occurred"):
            raise SystemExit(f"{name}, {entry['name']}: {entry['error_message']}")
        if entry["run_type"] == "iteration":
            times.setdefault(entry["name"], []).append(entry["real_time"])
    return [
        {"program": name, "name": what, "best_ns": min(all_times), "p50_ns": sorted(all_times)[len(all_times) // 2]}
        for what, all_times in times.items()
    ]


def micro_table(result: Mapping[str, Any]) -> str:
    return markdown(
        ("program", "what", "best", "median"),
        ((row["program"], row["name"], f"{row['best_ns']:.0f} ns", f"{row['p50_ns']:.0f} ns") for row in result["rows"]),
        left=2,
    )


def main() -> int:
    arguments = program.options(__doc__).parse_args()
    repetitions = arguments.rounds or (3 if arguments.quick else 7)
    host.progress("ring, arena, codec, copy")
    result: dict[str, Any]
    try:
        rows = [row for name in PROGRAMS for row in measure(name, repetitions, 0.05 if arguments.quick else 0.2)]
        result = {"host": host.describe(), "rows": rows}
    except Unavailable as why:
        result = {"skipped": str(why)}
    return program.finish(result, micro_table, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
