"""How long does a device tensor take to a process that copies it on the device, and back, and what does it cost on the way?

    python bench/gpu.py [--quick] [--rounds N] [--json FILE] [--markdown FILE]

All mechanisms take turns in the same rounds, and each answer's last byte is compared with what was sent. On the emulated
driver (tests/fake_cuda) only small tensors go, once around, and only counts are shown: times would mean nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import host
import program
from gpu_peers import COUNTED, EventPeer, Ferry, Gpu, HandlePeer, Mechanism, TorchPeer
from measure import Candidate, Plan, interleave, one_round
from peers import Unavailable
from report import markdown, size_text, time_text

SIZES = [4, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30]
QUICK_SIZES = [4, 1 << 20, 64 << 20]
EMULATED_SIZES = [4, 4 << 10, 1 << 20]
COUNTED_CALLS = 5  # of which counts are taken, after the rounds

MECHANISMS: Sequence[Callable[[], Mechanism]] = (
    Ferry,
    TorchPeer,
    HandlePeer,
    lambda: EventPeer(blocking=False),
    lambda: EventPeer(blocking=True),
)


def driver_is_emulated() -> bool:
    try:
        return hasattr(ctypes.CDLL("libcuda.so.1"), "fakecuda_version")
    except OSError:
        return False


def device_name() -> str:
    """Of the first device, with the driver's version."""
    gpu = Gpu()
    version = int(gpu("cuDriverGetVersion"))
    name = gpu("cuDeviceGetName", 128, 0)
    return f"{name.split(bytes(1))[0].decode()}, CUDA driver {version // 1000}.{version % 1000 // 10}"


def counts_per_call(mechanism: Mechanism) -> dict[str, float | None]:
    before = mechanism.counts()
    one_round(Candidate(mechanism.name, mechanism.call), Plan(1, 0, fewest=COUNTED_CALLS))
    after = mechanism.counts()
    if before is None or after is None:
        return dict.fromkeys(COUNTED)
    return {kind: (after[kind] - before[kind]) / COUNTED_CALLS for kind in COUNTED}


def check(mechanism: Mechanism, size: int, *, compared: bool) -> None:
    mechanism.prepare(size)
    sent: Any = mechanism
    for _ in range(2):
        mechanism.call()
        if mechanism.last_byte() != sent.value and compared:
            raise RuntimeError(f"{mechanism.name} brought other bytes at {size_text(size)} than were sent")


def measure(mechanisms: Sequence[Mechanism], size: int, plan: Plan, *, timed: bool) -> list[dict[str, Any]]:
    for mechanism in mechanisms:
        check(mechanism, size, compared=timed or not isinstance(mechanism, TorchPeer))  # its fill is a kernel
    candidates = [Candidate(mechanism.name, mechanism.call) for mechanism in mechanisms]
    timings = interleave(candidates, plan)
    rows = []
    for mechanism in mechanisms:
        row: dict[str, Any] = {"mechanism": mechanism.name, "size": size, **counts_per_call(mechanism)}
        timing = timings[mechanism.name]
        rows.append({**row, "best": timing.best, "p50": timing.p50, "p99": timing.p99} if timed else row)
    return rows


def started(stack: ExitStack) -> tuple[list[Mechanism], dict[str, str]]:
    """Those that can run here, and for each other why not."""
    there: list[Mechanism] = []
    missing: dict[str, str] = {}
    for make in MECHANISMS:
        try:
            mechanism = make()
        except Unavailable as error:
            if make is Ferry:
                raise
            missing[getattr(make, "name", "a peer")] = str(error)
        else:
            stack.callback(mechanism.close)
            there.append(mechanism)
    return there, missing


def run(sizes: Sequence[int], plan: Plan, *, emulated: bool) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        mechanisms, missing = started(stack)
        for size in sizes:
            host.progress(f"{size_text(size)} ...")
            rows += measure(mechanisms, size, plan, timed=not emulated)
        device = device_name()
    return {"device": device, "emulated": emulated, "host": host.describe(), "missing": missing, "rows": rows}


def count_text(count: float | None) -> str:
    return "not counted" if count is None else f"{count:g}"


def table(result: Mapping[str, Any]) -> str:
    """Times first, where there are any, and how many times tensorferry's best each best is."""
    rows = result["rows"]
    ours = {row["size"]: row.get("best") for row in rows if row["mechanism"] == Ferry.name}
    timed = not result["emulated"]
    times = ("best", "p50", "p99", "best ÷ tensorferry's") if timed else ()

    def cells(row: Mapping[str, Any]) -> list[str]:
        words = [size_text(row["size"]), row["mechanism"]]
        if timed:
            words += [time_text(row[key]) for key in ("best", "p50", "p99")]
            words.append(f"{row['best'] / ours[row['size']]:.2f}")
        return words + [count_text(row[kind]) for kind in COUNTED]

    header = ("size", "mechanism", *times, "waits on the host", "copies", "handles opened")
    return markdown(header, map(cells, rows), left=2)


def section(result: Mapping[str, Any]) -> str:
    """What to paste into docs/performance.md."""
    where = f"{result['device']}; {host.line(result['host'])}"
    title = "Counted on the emulated driver, where times mean nothing" if result["emulated"] else "Measured"
    missing = "".join(f"\n\nNot there: {name} ({why})." for name, why in result["missing"].items())
    return f"""## Device tensors

{title}: `python bench/gpu.py` on {where}.
The caller fills the tensor on the device, another process copies it there, and the call ends when the copy can be used.
Waits, copies and opened handles are those of both processes per call, beside that copy.

{table(result)}{missing}
"""


def main() -> int:
    parser = program.options(__doc__)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    emulated = driver_is_emulated()
    sizes = EMULATED_SIZES if emulated else QUICK_SIZES if options.quick else SIZES
    rounds = 1 if emulated else options.rounds or (3 if options.quick else 7)
    plan = Plan(rounds, seconds=0 if emulated else 0.3)
    try:
        result = run(sizes, plan, emulated=emulated)
    except Unavailable as error:
        return program.finish({"skipped": str(error)}, section, options.json)
    if options.markdown:
        options.markdown.write_text(section(result))
    print("Paste into docs/performance.md:\n")
    return program.finish(result, section, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
