"""Keyed calls run once: a repeat is answered from the journal, joins the running call, or is told what is not known.

``started`` is committed before user code runs and ``done`` before the answer leaves. What a crash between an effect and
its record leaves behind cannot be hidden: a repeat then learns that the call may have been executed. Source: protocol
3, "Journal"; design, rule 4.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from covey.errors import CoveyError, KeyReusedError, RefusedError, TeammateLostError

if TYPE_CHECKING:
    from covey.ports.engine import Engine, JournalEntry

# How long an outcome can be asked for again, from the end of its call.
KEEP_S: Final = 7200.0
RUNNING_MAX: Final = 10_000
# How many finished calls are remembered, to tell a late cancel that it was late.
FINISHED_MAX: Final = 10_000

Cancellation = Literal["finished", "cancelled", "not started"]


class Failed(Exception):  # noqa: N818 -- what it carries is the error
    """The call ended in an error; ``outcome`` is the error as bytes, the same for every repeat."""

    def __init__(self, outcome: bytes) -> None:
        super().__init__()
        self.outcome = outcome


class Outcome(msgspec.Struct, frozen=True):
    """How a call ended, as it is kept: its result or its failure, in the caller's own encoding."""

    is_result: bool
    body: bytes


class _Running:
    """A call on its way. Whoever asks waits for ``ended``, so that one who leaves takes nobody along."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.has_begun = False
        self.is_over = False  # what it did is done; only its record is on the way
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


Work = Callable[[], Awaitable[bytes]]


class Journal:
    """The keyed calls of one process.

    Args:
        engine: keeps how calls stand; open before the first call.
        incarnation: names this run of the process; never used before.
        keep_s: for how long an outcome is kept; it must be longer than any call takes.
    """

    def __init__(self, engine: Engine, *, incarnation: str, keep_s: float = KEEP_S) -> None:
        self._engine = engine
        self._incarnation = incarnation
        self._keep_s = keep_s
        self._running: dict[str, _Running] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running)

    async def run(self, call: str, digest: bytes, work: Work, *, is_idempotent: bool = False) -> Outcome:
        """Run ``work`` under the call's id unless it was run before, and return how it ended.

        The caller may go away: the call goes on, and a repeat joins it.

        Args:
            call: the call's id, the same in every repeat.
            digest: tells its arguments from any others.
            work: returns the result as bytes, or raises ``Failed``, also when it is cancelled. A ``RefusedError`` says
                that it never ran.
            is_idempotent: running it twice does no harm, so a call whose process died is run again.

        Raises:
            KeyReusedError: the id came before with other arguments.
            TeammateLostError: a run that died had begun it.
            RefusedError: it never ran: too many calls are running, it was cancelled first, or ``work`` says so.
            EngineError: it could not be journalled and never ran, or its outcome could not be kept.
        """
        running = self._running.get(call)
        if running is None:
            if len(self._running) >= RUNNING_MAX:
                raise RefusedError(f"{RUNNING_MAX} keyed calls are running already", retry_after_s=1.0)
            running = self._running[call] = _Running(digest)
            drive = self._drive(call, running, work, is_idempotent=is_idempotent)
            running.task = asyncio.get_running_loop().create_task(drive)
            running.task.add_done_callback(partial(self._on_driven, call, running))
        elif running.digest != digest:
            raise _reused(call)
        return await asyncio.shield(running.ended)

    def cancel(self, call: str) -> Cancellation | None:
        """Cancel a call, and say which it was; None when nothing is known of it in this process."""
        running = self._running.get(call)
        if running is None or running.task is None:
            return "finished" if call in self._finished else None
        if running.is_over:
            return "finished"
        running.task.cancel()
        return "cancelled" if running.has_begun else "not started"

    async def close(self) -> None:
        """Cancel what is still running, and return when nothing is."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, call: str, running: _Running, work: Work, *, is_idempotent: bool) -> None:
        try:
            outcome = await self._once(call, running, work, is_idempotent=is_idempotent)
        except asyncio.CancelledError:
            # Before it began: once it has, `work` makes an outcome of being cancelled.
            await asyncio.shield(self._engine.journal_forget(call, self._incarnation))
            running.ended.set_exception(RefusedError("the call was cancelled before it began"))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is for those who wait
            running.ended.set_exception(error)
        else:
            running.ended.set_result(outcome)
            self._finished[call] = None
            if len(self._finished) > FINISHED_MAX:
                self._finished.popitem(last=False)

    def _on_driven(self, call: str, running: _Running, task: asyncio.Task[None]) -> None:
        """Let go of the call, also where its task was cancelled before its first step or a second time."""
        del self._running[call]
        if not running.ended.done():
            error = None if task.cancelled() else task.exception()
            running.ended.set_exception(error or RefusedError("the call was cancelled before it began"))
        running.ended.exception()  # nobody may be waiting any more; that is no news for the loop's log

    async def _once(self, call: str, running: _Running, work: Work, *, is_idempotent: bool) -> Outcome:
        entry = await self._begin(call, running.digest)
        if entry is not None and entry.outcome is None and is_idempotent:
            await self._engine.journal_forget(call, entry.incarnation)
            entry = await self._begin(call, running.digest)
        if entry is not None:
            return _known(call, entry)
        running.has_begun = True
        try:
            outcome = Outcome(is_result=True, body=await work())
        except Failed as failed:
            outcome = Outcome(is_result=False, body=failed.outcome)
        except RefusedError:
            await self._engine.journal_forget(call, self._incarnation)
            raise
        running.is_over = True
        await _to_its_end(self._engine.journal_done(call, msgspec.msgpack.encode(outcome)))
        return outcome

    async def _begin(self, call: str, digest: bytes) -> JournalEntry | None:
        entry = await self._engine.journal_start(call, digest, self._incarnation, keep_s=self._keep_s)
        if entry is not None and entry.digest != digest:
            raise _reused(call)
        return entry


async def _to_its_end(recording: Coroutine[object, object, None]) -> None:
    """Wait for the record of a call that is over. A cancel comes too late: it must not undo what says that it ran."""
    task = asyncio.ensure_future(recording)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


def _known(call: str, entry: JournalEntry) -> Outcome:
    if entry.outcome is None:
        raise TeammateLostError(
            f"the call {call} was begun by a run that ended before it did",
            maybe_executed=True,
            hint="look whether it took effect; under another key it runs anew",
        )
    return msgspec.msgpack.decode(entry.outcome, type=Outcome)


def _reused(call: str) -> CoveyError:
    return KeyReusedError(
        f"the key of the call {call} was used with other arguments",
        hint="make a new key for each call that is no repeat",
    )
