"""The live readers of a hub, whatever their transport: how many there are, and how all of them are told to go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from covey.ports.randomness import Randomness

READERS_MAX: Final = 50_000
# After a drain clients come back spread over these seconds, not all in one.
_RETURN_S: Final = (0.5, 3.0)


class Readers:
    """Counts live readers, and says when the hub goes away."""

    def __init__(self, randomness: Randomness, *, readers_max: int = READERS_MAX) -> None:
        self.count = 0
        self.readers_max = readers_max
        self.is_draining = False
        self._randomness = randomness
        self._wakers: dict[object, Callable[[], None]] = {}

    @property
    def is_full(self) -> bool:
        """One more live reader would be over the limit."""
        return self.count >= self.readers_max

    def on_drain(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Call ``waker`` when the hub drains; return what takes that back."""
        token = object()
        self._wakers[token] = waker

        def forget() -> None:
            self._wakers.pop(token, None)

        return forget

    def drain(self) -> None:
        """Tell every reader that the hub goes away, and take no new ones."""
        self.is_draining = True
        for waker in list(self._wakers.values()):
            waker()

    def return_ms(self) -> int:
        """Return when a reader that is sent away should come back."""
        return round(self._randomness.uniform(*_RETURN_S) * 1000)
