"""The other end of a channel, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from device_model import same

from tensorferry.transport import Channel

Worker = Callable[[Channel], None]


@contextmanager
def worker(target: Worker, method: str = "spawn", ends_well: bool = True, **variables: str) -> Iterator[tuple[Channel, Any]]:
    """A process that runs `target` on the other end until that is closed."""
    here, there = Channel.pair()
    process = multiprocessing.get_context(method).Process(target=target, args=(there,), daemon=True)
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    there.close()
    try:
        yield here, process
        here.close()
        if ends_well:
            process.join(60)
            same(process.exitcode, 0)
    finally:
        here.close()
        process.kill()
        process.join()
