"""``covey.timeout``: so many seconds for whatever is called in a block, wherever it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from covey.context import Scope, until
from covey.errors import TimedOutError
from covey.resilience.fields import check_seconds
from covey.resilience.watch import now_here_s, task_and_watch


class Timeout:
    """What ``timeout`` returns."""

    __slots__ = ("_scope", "_until", "_watch", "seconds")

    def __init__(self, seconds: float) -> None:
        check_seconds("timeout", seconds)
        self.seconds = seconds

    def __enter__(self) -> Self:
        self._until = until(now_here_s() + self.seconds)
        self._until.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._until.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        task, self._watch = task_and_watch()
        # Its own limit and not the smaller one around it, which is cut by whoever set that.
        self._scope = Scope(self._watch.now_s() + self.seconds)
        self._until = until(self._scope.deadline_s)
        self._until.__enter__()
        self._watch.write_down(self._scope, task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._until.__exit__(kind, error, traceback)
        if self._watch.forget(self._scope, error):
            message = f"the block took longer than {self.seconds:.3g} s"
            raise TimedOutError(message, maybe_executed=True) from error


def timeout(seconds: float) -> Timeout:
    """Give what is called in the block so many seconds in all; inside another one, the smaller counts.

    ``with`` sets the deadline that every covey call in the block keeps to, here and on other machines. ``async with``
    also cuts anything else that the block awaits, and raises ``TimedOutError``.

    Raises:
        InvalidInputError: it is not a finite number above 0.
    """
    return Timeout(seconds)
