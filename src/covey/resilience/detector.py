"""Whether a peer is there, judged by when it was last heard: alive, suspect, dead, with an epoch that fences it.

A fixed timeout is either slow or wrong. Phi accrual learns how regularly a peer is heard and says how surprising its
silence is: phi 8 means a chance of one in 10⁸ that it is only late. Any traffic is a heartbeat. A process that was
itself held up sees everyone silent, so its own lag stretches the judgement. A peer that was declared dead may still be
running: it comes back under a new epoch, and what carries the old one is dropped.

Source: Hayashibara et al., "The φ accrual failure detector" (2004); Akka's defaults; Lifeguard (2017) for the lag and
for confirmations that shorten the wait.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from covey.resilience.fields import check_between, check_count, check_order, check_seconds

_INTERVALS_MAX: Final = 200
# Silence can't be more surprising than what a double can say.
_PHI_MAX: Final = 300.0


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """The rule.

    Args:
        heartbeat_s: how often a peer is heard when all is well; also what is assumed before it was heard often.
        phi: how surprising silence must be before the peer is a suspect.
        pause_s: so much more silence is taken for granted: collections, deploys, a laptop's lid.
        deviation_s_min: a peer that is regular to the microsecond is still allowed this.
        dead_s: after so long as a suspect it is dead.
        dead_s_min: the same, when enough others can't reach it either.
        confirmations: how many others it takes for that.
        lag_max: how much own lag may stretch all of it.

    Raises:
        InvalidInputError: a field makes no sense.
    """

    heartbeat_s: float = 1.0
    phi: float = 8.0
    pause_s: float = 3.0
    deviation_s_min: float = 0.1
    dead_s: float = 30.0
    dead_s_min: float = 5.0
    confirmations: int = 2
    lag_max: float = 8.0

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "pause_s", "deviation_s_min", "dead_s", "dead_s_min"):
            check_seconds(f"Detector.{name}", getattr(self, name))
        check_between("Detector.phi", self.phi, 1.0, 100.0)
        check_between("Detector.lag_max", self.lag_max, 1.0, 100.0)
        check_count("Detector.confirmations", self.confirmations, least=1)
        check_order("Detector.dead_s_min", self.dead_s_min, "Detector.dead_s", self.dead_s)


class Life(Enum):
    """What is believed about a peer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class Sign(Enum):
    """What changes it."""

    HEARD = "heard"
    SILENT = "silent for surprisingly long"
    GONE = "a suspect for too long"


TRANSITIONS: Final[Mapping[tuple[Life, Sign], Life]] = {
    (Life.ALIVE, Sign.HEARD): Life.ALIVE,
    (Life.ALIVE, Sign.SILENT): Life.SUSPECT,
    (Life.SUSPECT, Sign.HEARD): Life.ALIVE,
    (Life.SUSPECT, Sign.GONE): Life.DEAD,
    (Life.DEAD, Sign.HEARD): Life.ALIVE,
}


class DetectorState:
    """What is known about one peer. ``epoch`` grows when it comes back from the dead."""

    __slots__ = ("_confirmed_by", "_heard_at_s", "_intervals_s", "_rule", "_suspect_at_s", "epoch", "life")

    def __init__(self, rule: Detector, *, now_s: float) -> None:
        self._rule = rule
        self._heard_at_s = now_s
        self._suspect_at_s = now_s
        # Two made-up intervals around the expected one, so that the first real ones don't decide alone.
        self._intervals_s = deque((rule.heartbeat_s * 0.75, rule.heartbeat_s * 1.25), maxlen=_INTERVALS_MAX)
        self._confirmed_by: set[str] = set()
        self.life = Life.ALIVE
        self.epoch = 1

    def heard(self, now_s: float, *, epoch: int | None = None) -> bool:
        """Take note of traffic from the peer; False when it is of an epoch that is over, and must be dropped.

        Args:
            now_s: monotonic time.
            epoch: which one the traffic carries; None where it carries none, as a first contact does.
        """
        if epoch is not None and epoch != self.epoch:
            return False
        if self.life is Life.DEAD:
            if epoch is not None:
                return False
            self.epoch += 1
            self._intervals_s.clear()
            self._intervals_s.extend((self._rule.heartbeat_s * 0.75, self._rule.heartbeat_s * 1.25))
        elif self.life is Life.ALIVE and now_s > self._heard_at_s:
            # Silence that made it a suspect is no sample: it would teach that such silence is usual.
            self._intervals_s.append(now_s - self._heard_at_s)
        self._heard_at_s = max(self._heard_at_s, now_s)
        self._confirmed_by.clear()
        self.life = TRANSITIONS[self.life, Sign.HEARD]
        return True

    def confirmed(self, by: str) -> None:
        """Take note that someone else can't reach the suspect either."""
        if self.life is Life.SUSPECT:
            self._confirmed_by.add(by)

    def phi(self, now_s: float, *, lag: float = 1.0) -> float:
        """Return how surprising the silence is: -log10 of the chance that the peer is only late.

        Args:
            now_s: monotonic time.
            lag: how much slower than planned this process itself runs, 1 when it does not.
        """
        silence_s = (now_s - self._heard_at_s) / self._stretch(lag)
        mean_s = sum(self._intervals_s) / len(self._intervals_s)
        variance = sum((interval_s - mean_s) ** 2 for interval_s in self._intervals_s) / len(self._intervals_s)
        deviation_s = max(math.sqrt(variance), self._rule.deviation_s_min)
        late = 0.5 * math.erfc((silence_s - mean_s - self._rule.pause_s) / deviation_s / math.sqrt(2))
        return -math.log10(late) if late > 10**-_PHI_MAX else _PHI_MAX

    def advance(self, now_s: float, *, lag: float = 1.0) -> Life | None:
        """Judge the silence; return the state it moved to, or None."""
        if self.life is Life.ALIVE and self.phi(now_s, lag=lag) >= self._rule.phi:
            self._suspect_at_s = now_s
            return self._move(Sign.SILENT)
        if self.life is Life.SUSPECT and now_s - self._suspect_at_s >= self._dead_after_s() * self._stretch(lag):
            return self._move(Sign.GONE)
        return None

    def _dead_after_s(self) -> float:
        """Return how long it may be a suspect; each confirmation counts less than the one before it."""
        share = math.log(1 + len(self._confirmed_by)) / math.log(1 + self._rule.confirmations)
        return max(self._rule.dead_s_min, self._rule.dead_s - (self._rule.dead_s - self._rule.dead_s_min) * share)

    def _stretch(self, lag: float) -> float:
        return min(max(lag, 1.0), self._rule.lag_max)

    def _move(self, sign: Sign) -> Life:
        self.life = TRANSITIONS[self.life, sign]
        return self.life


def lag_of(planned_s: float, took_s: float) -> float:
    """Return how much slower than planned a timer of this process fired, at least 1: the ``lag`` of a detector."""
    return max(1.0, took_s / planned_s) if planned_s > 0 else 1.0
