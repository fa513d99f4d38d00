"""PyPI's real PyTorch at both ends of the bare transport, on the emulated driver.

Kernels compute nothing there; copies and fills do. Runs where torch is installed: `./dev test --with torch`.
"""

from __future__ import annotations

from typing import Any

import pytest
from channel_worker import worker
from device_model import same

from tensorferry import _transport
from tensorferry.transport import Channel

torch = pytest.importorskip("torch", reason="torch is not installed: ./dev test --with torch")
pytestmark = pytest.mark.emulated(variables={"LD_BIND_NOW": "1"})


def answers_on_a_side_stream(end: Channel) -> None:
    """Sends back what came, a copy of it that torch made, and its own copies on the device so far."""
    stream = torch.cuda.Stream()
    while (tensors := end.recv(timeout=60)) is not None:
        with torch.cuda.stream(stream):
            x = torch.from_dlpack(tensors["x"])
            copy = torch.empty_like(x)
            copy.copy_(x)
            del x
            end.send({"x": tensors.pop("x"), "copy": copy, "d2d": torch.tensor(_transport.device_counts()["d2d"])})


def exchanged(end: Channel, number: int) -> dict[str, Any]:
    x = end.empty(6000, "float32", device="cuda:0")
    torch.from_dlpack(x).copy_(torch.arange(6000, dtype=torch.float32) + number)
    end.send({"x": x})
    message = end.recv(timeout=60)
    assert message is not None
    return message


def test_torch_fills_copies_and_reads_memory_of_an_end_on_streams_of_its_own() -> None:
    with worker(answers_on_a_side_stream) as (here, _):
        for number in range(4):
            before = _transport.device_counts()["d2d"]
            answer = exchanged(here, number)
            same(_transport.device_counts()["d2d"], before)
            same(int(answer["d2d"]), number)  # its own tensors by one copy each, of which this message's is still to come
            for name in ("x", "copy"):
                seen = torch.from_dlpack(answer[name])
                same(str(seen.device), "cuda:0")
                same(torch.equal(seen.cpu(), torch.arange(6000, dtype=torch.float32) + number), True)


def test_torchs_tensors_cross_whatever_their_type() -> None:
    with worker(answers_on_a_side_stream) as (here, _):
        for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn):
            sent = torch.zeros((4, 5), device="cuda", dtype=dtype)
            here.send({"x": sent})
            answer = here.recv(timeout=60)
            assert answer is not None
            seen = torch.from_dlpack(answer["x"])
            same((seen.dtype, tuple(seen.shape)), (dtype, (4, 5)))
            same(bool(seen.view(torch.uint8).cpu().any()), False)
