"""Waiting for answers in an event loop: one descriptor per loop, and no thread."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from . import _server

_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Arrivals] = WeakKeyDictionary()


class _Arrivals:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.bell = _server.Doorbell()
        self.waiting: dict[asyncio.Future[None], Any] = {}
        loop.add_reader(self.bell.fileno(), self._look)

    def _look(self) -> None:
        self.bell.silence()
        for waiter, call in self.waiting.items():
            if call.done() and not waiter.done():
                waiter.set_result(None)


async def arrival(call: Any) -> None:
    """Returns when the call is answered. Its own cancellation is the caller's to pass on."""
    loop = asyncio.get_running_loop()
    arrivals = _of_loop.get(loop)
    if arrivals is None:
        arrivals = _of_loop[loop] = _Arrivals(loop)
    if not call.announce_at(arrivals.bell):
        return
    waiter = loop.create_future()
    arrivals.waiting[waiter] = call
    try:
        await waiter
    finally:
        del arrivals.waiting[waiter]
