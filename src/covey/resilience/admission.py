"""What a receiver takes on: a queue that is bounded in time, and no work that cannot finish before its deadline.

The strongest single measure against a brown-out lies at the receiver: a queue of a fixed length is an age of waiting
that grows as the service slows, until everything served is already given up by its caller. Measured in
``bench/brownout.py``. Pure: the caller brings the time that things took.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final, Literal

import msgspec

from covey.errors import InvalidInputError

SAMPLES_MAX: Final = 64
# However fast the service: what waits takes memory too.
QUEUE_MAX: Final = 100_000
# The median is looked up anew after so many samples: it moves slowly, and sorting is not free.
SAMPLES_PER_LOOK: Final = 8


class Refusal(msgspec.Struct, frozen=True):
    """Why something is not taken: the queue is full (come back after ``retry_after_s``), or time would run out."""

    reason: Literal["full", "hopeless"]
    retry_after_s: float


class Admission:
    """Decides for one receiver; ``workers`` serve its queue side by side.

    Args:
        queue_s: how much waiting work there may be, as time.
        queue_min: so many may always wait, however slow the service is.
        margin_s: what must remain to a caller in any case for its work to be begun.
        workers: how many are served at once.

    Raises:
        InvalidInputError: a number is not positive.
    """

    def __init__(self, *, queue_s: float = 0.25, queue_min: int = 16, margin_s: float = 0.02, workers: int = 1) -> None:
        for name, value in (
            ("queue_s", queue_s),
            ("queue_min", queue_min),
            ("margin_s", margin_s),
            ("workers", workers),
        ):
            if not 0 < value < float("inf"):
                message = f"Admission: {name} must be positive and finite, not {value!r}"
                raise InvalidInputError(message)
        self.queue_s = queue_s
        self.queue_min = queue_min
        self.margin_s = margin_s
        self.workers = workers
        self._samples: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._unseen = 0
        self._service_s = 0.0

    @property
    def service_s(self) -> float:
        """What serving takes, the median of late; 0 before anything was served."""
        return self._service_s

    @property
    def queue_max(self) -> int:
        """How many may wait now."""
        if self._service_s <= 0.0:
            return self.queue_min
        return max(self.queue_min, int(min(self.queue_s * self.workers / self._service_s, QUEUE_MAX)))

    def served(self, duration_s: float) -> None:
        """Note how long serving one took, from its beginning and without the wait before it."""
        self._samples.append(duration_s)
        self._unseen += 1
        if self._unseen >= SAMPLES_PER_LOOK or len(self._samples) <= SAMPLES_PER_LOOK:
            self._unseen = 0
            self._service_s = median(self._samples)

    def refuses(self, *, queued: int, remaining_s: float | None = None) -> Refusal | None:
        """Return why one more is not taken, or None when it is.

        What is full is refused with ``retry_after_s``; what is hopeless has expired, and says nothing about the
        receiver: answered as a refusal it would make its caller hold back, and send the next one even later.

        Args:
            queued: how many wait already.
            remaining_s: until its deadline; None when it has none.
        """
        wait_s = queued * self._service_s / self.workers
        if queued >= self.queue_max:
            return Refusal("full", max(wait_s, self.margin_s))
        if remaining_s is not None and wait_s + self._needed_beside(queued) > remaining_s:
            return Refusal("hopeless", max(wait_s, self.margin_s))
        return None

    def is_hopeless(self, *, remaining_s: float | None, queued: int = 1) -> bool:
        """Return whether what has waited its turn can no longer finish in time, so that beginning it helps nobody.

        Args:
            remaining_s: until its deadline; None when it has none.
            queued: how many others wait.
        """
        return remaining_s is not None and remaining_s < self._needed_beside(queued)

    @property
    def needed_s(self) -> float:
        """What must remain for work to be worth beginning."""
        return max(self.margin_s, self._service_s)

    def _needed_beside(self, queued: int) -> float:
        """Return the same where so many others wait.

        Where nobody does, trying keeps nobody waiting, and it is the only way to learn that serving takes less than it
        did: a receiver that was slow for a while would otherwise refuse everything for good.
        """
        return self.needed_s if queued else self.margin_s
