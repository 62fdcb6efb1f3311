"""`resilience/detector.py`: found soon, never without cause, and fenced when it comes back."""

from __future__ import annotations

import itertools
import random

import pytest

from covey.resilience.detector import TRANSITIONS, Detector, DetectorState, Life, Sign, lag_of


def heard_regularly(*, until_s: float, every_s: float = 1.0) -> tuple[DetectorState, float]:
    detector, now_s = DetectorState(Detector(), now_s=0.0), 0.0
    while now_s < until_s:
        now_s += every_s
        detector.heard(now_s)
    return detector, now_s


def silent_until(detector: DetectorState, now_s: float, life: Life, *, lag: float = 1.0) -> float:
    """Let it be silent and return when it is believed to be ``life``."""
    for _ in range(100_000):
        if detector.life is life:
            return now_s
        now_s += 0.1
        detector.advance(now_s, lag=lag)
    raise AssertionError(f"it never became {life}")


@pytest.mark.requirement("resilience.detector.table")
def test_every_move_is_in_the_table() -> None:
    for life, sign in itertools.product(Life, Sign):
        detector = DetectorState(Detector(), now_s=0.0)
        detector.life = life
        if (life, sign) in TRANSITIONS:
            assert detector._move(sign) is TRANSITIONS[life, sign]
        else:
            with pytest.raises(KeyError):
                detector._move(sign)


@pytest.mark.requirement("resilience.detector.finds")
def test_a_silent_peer_is_a_suspect_within_seconds_and_dead_within_ten_when_others_agree() -> None:
    detector, heard_s = heard_regularly(until_s=60.0)
    suspect_s = silent_until(detector, heard_s, Life.SUSPECT)
    assert 3.0 < suspect_s - heard_s < 6.0
    detector.confirmed("b")
    detector.confirmed("c")
    assert silent_until(detector, suspect_s, Life.DEAD) - heard_s < 11.0


@pytest.mark.requirement("resilience.detector.finds")
def test_alone_one_waits_longer_and_each_confirmation_shortens_it() -> None:
    waits = []
    for others in range(3):
        detector, heard_s = heard_regularly(until_s=60.0)
        suspect_s = silent_until(detector, heard_s, Life.SUSPECT)
        for other in range(others):
            detector.confirmed(f"n{other}")
        waits.append(silent_until(detector, suspect_s, Life.DEAD) - suspect_s)
    assert waits == pytest.approx([30.0, 14.2, 5.0], abs=0.2)


@pytest.mark.requirement("resilience.detector.no-false-deaths")
def test_an_hour_of_loss_and_stalls_kills_nobody() -> None:
    chance = random.Random(5)
    detector, now_s, stall_until_s, suspicions = DetectorState(Detector(), now_s=0.0), 0.0, 0.0, 0
    for tick in range(36_000):
        now_s += 0.1
        if tick % 3000 == 2999:
            stall_until_s = now_s + 5.0
        if tick % 10 == 0 and now_s >= stall_until_s and chance.random() > 0.2:
            detector.heard(now_s)
        suspicions += detector.advance(now_s) is Life.SUSPECT
        assert detector.life is not Life.DEAD
    assert suspicions <= 12


@pytest.mark.requirement("resilience.detector.own-lag")
def test_whoever_is_slow_itself_is_slower_to_suspect() -> None:
    detector, heard_s = heard_regularly(until_s=60.0)
    quick = silent_until(detector, heard_s, Life.SUSPECT) - heard_s
    detector, heard_s = heard_regularly(until_s=60.0)
    slow = silent_until(detector, heard_s, Life.SUSPECT, lag=4.0) - heard_s
    assert slow == pytest.approx(4 * quick, rel=0.1)
    assert (lag_of(0.1, 0.4), lag_of(0.1, 0.05), lag_of(0.0, 1.0)) == (4.0, 1.0, 1.0)


@pytest.mark.requirement("resilience.detector.epoch")
def test_who_comes_back_from_the_dead_has_a_new_epoch_and_the_old_one_is_dropped() -> None:
    detector, heard_s = heard_regularly(until_s=10.0)
    assert detector.heard(heard_s + 1, epoch=1)
    dead_s = silent_until(detector, heard_s, Life.DEAD)
    assert not detector.heard(dead_s + 1, epoch=1)
    assert detector.life is Life.DEAD
    assert detector.heard(dead_s + 2)
    assert (detector.life, detector.epoch) == (Life.ALIVE, 2)
    assert not detector.heard(dead_s + 3, epoch=1)
    assert detector.heard(dead_s + 3, epoch=2)


@pytest.mark.requirement("resilience.detector.no-false-deaths")
def test_a_suspect_that_is_heard_is_alive_and_keeps_its_epoch() -> None:
    detector, heard_s = heard_regularly(until_s=10.0)
    suspect_s = silent_until(detector, heard_s, Life.SUSPECT)
    detector.confirmed("b")
    assert detector.heard(suspect_s + 1, epoch=1)
    assert (detector.life, detector.epoch) == (Life.ALIVE, 1)
    assert detector.phi(suspect_s + 1) < 1
