"""Waiting as an argument: asyncio's in programs, a given one in tests, which then take no time."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Waiting(Protocol):
    """The two ways in which a client waits: for nothing but time, and for something but not for ever."""

    async def sleep(self, delay_s: float) -> None:
        """Return after ``delay_s``."""
        ...

    def limit(self, limit_s: float | None) -> AbstractAsyncContextManager[object]:
        """Return a block that raises ``TimeoutError`` when it takes longer; None is for ever."""
        ...


class AsyncioWaiting:
    """As time passes."""

    async def sleep(self, delay_s: float) -> None:
        """See ``Waiting``."""
        await asyncio.sleep(delay_s)

    def limit(self, limit_s: float | None) -> AbstractAsyncContextManager[object]:
        """See ``Waiting``."""
        return asyncio.timeout(limit_s)
