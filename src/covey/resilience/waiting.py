"""How a call waits: for its turn, in a task or in a thread, and for what its function waits for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

from covey.resilience.flight import Flight
from covey.resilience.watch import LoopTicket, ThreadTicket, ThreadWatch, is_in_loop, now_here_s

R = TypeVar("R")


async def wait_for_turn(flight: Flight) -> None:
    """Wait until the call may go out, in its task; see ``Flight.turn``."""
    turn = flight.turn()
    try:
        for step in turn:
            if isinstance(step, LoopTicket):
                await step.granted(flight.deadline_s - now_here_s())
            elif isinstance(step, float):
                await asyncio.sleep(step)
    finally:
        # Where the wait was cancelled, this gives back what the call held.
        turn.close()


def wait_in_thread(flight: Flight, watch: ThreadWatch) -> None:
    """Wait until the call may go out, in its thread.

    Raises:
        UnavailableError: the thread is that of an event loop, which waiting would block.
    """
    turn = flight.turn()
    try:
        for step in turn:
            if is_in_loop():
                # Those it would wait for may need this very loop to go on.
                raise flight.blocked()
            if isinstance(step, ThreadTicket):
                step.granted(flight.deadline_s - watch.now_s())
            elif isinstance(step, float):
                watch.sleep(step)
    finally:
        turn.close()


@types.coroutine
def rest_of(coroutine: Coroutine[Any, Any, R], awaited: object) -> Generator[object, None, R]:
    """Await a coroutine that has run until it first waited, for ``awaited``.

    An event loop sends nothing but None, so that after the first time the interpreter can delegate by itself.
    """
    while True:
        try:
            yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is the coroutine's
            try:
                awaited = coroutine.throw(error)
            except StopIteration as stop:
                return cast("R", stop.value)
            # It was caught there, and something else is waited for.
        else:
            return (yield from cast("Generator[object, None, R]", coroutine))
