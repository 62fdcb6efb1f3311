"""Which simulated process code runs in. It travels by context, so tasks and callbacks belong to whoever made them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from covey.errors import CoveyError, LocalProtocolError


class SimulationError(CoveyError):
    """The simulation cannot go on: nothing would ever happen again, or time does not move, or moved too far."""


class NotSimulatedError(SimulationError, NotImplementedError):
    """Code under simulation reached for the real world: a socket, a thread, a child process."""


class Process:
    """One run of a host, from its start to its crash. What is left of it after that never runs again.

    Args:
        host: the machine's name in the simulated network.
        number: tells the runs of one host apart; 1 is the first.
    """

    __slots__ = ("_at_crash", "_turns_left", "host", "is_alive", "number")

    def __init__(self, host: str, number: int) -> None:
        self.host = host
        self.number = number
        self.is_alive = True
        self._turns_left = -1
        self._at_crash: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"{self.host}/{self.number}"

    def crash_after(self, turns: int, crash: Callable[[], None]) -> None:
        """Call ``crash`` instead of the turn that follows so many more of this process."""
        self._turns_left = turns
        self._at_crash = crash

    def may_run(self) -> bool:
        """Whether its next turn is run; counts it."""
        if self._at_crash is not None and self.is_alive:
            if self._turns_left == 0:
                self._at_crash()
            self._turns_left -= 1
        return self.is_alive


# Where the code runs that is the simulation's own: `SimWorld.run` and what it starts without naming a host.
OUTSIDE: Final = "outside"
_outside: Final = Process(OUTSIDE, 0)
CURRENT: Final[ContextVar[Process]] = ContextVar("covey.testing.process", default=_outside)


def current_process() -> Process:
    """Return the process that the running code belongs to.

    Raises:
        LocalProtocolError: the process crashed, and this is what a simulation's end runs of it to clean up.
    """
    process = CURRENT.get()
    if not process.is_alive:
        raise LocalProtocolError(f"the process {process} crashed")
    return process
