"""`resilience/faults.py`: repeatable, and each effect does what its name says."""

from __future__ import annotations

import pytest

from covey.resilience.faults import FaultPlan, Faults, FaultyBytes, FaultyLine


def line(faults: Faults) -> FaultyLine[int]:
    return FaultyLine(FaultPlan(faults), "frame")


def arrivals(faulty: FaultyLine[int], count: int) -> list[int]:
    return [delivery.frame for number in range(count) for delivery in faulty.pass_on(number)]


@pytest.mark.requirement("resilience.faults.seed")
def test_the_same_seed_gives_the_same_faults_on_every_python() -> None:
    def drawn(seed: int) -> list[int]:
        plan = FaultPlan(Faults(seed).at("send", p=0.1, drop=True))
        return [number for number in range(100) if plan.draw("send") is not None]

    assert drawn(7) == drawn(7) == [1, 26, 31, 36, 43, 44, 52, 71, 84, 91, 96]
    assert drawn(7) != drawn(8)


@pytest.mark.requirement("resilience.faults.seed")
def test_the_generator_is_splitmix64() -> None:
    """Its first numbers for the seed 1234567, as published with the reference implementation."""
    plan = FaultPlan(Faults(1234567))
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [plan._uniform() for _ in published] == [(number >> 11) / 2**53 for number in published]


@pytest.mark.requirement("resilience.faults.seed")
def test_faults_are_as_frequent_as_they_are_said_to_be() -> None:
    plan = FaultPlan(Faults(3).at("send", p=0.2, drop=True))
    hits = sum(plan.draw("send") is not None for _ in range(10_000))
    assert 1900 < hits < 2100
    assert plan.draw("receive") is None


@pytest.mark.requirement("resilience.faults.effects")
def test_frames_are_dropped_doubled_delayed_and_reordered() -> None:
    assert arrivals(line(Faults(1).at("frame", drop=True, times=2)), 5) == [2, 3, 4]
    assert arrivals(line(Faults(1).at("frame", duplicate=True, times=1)), 3) == [0, 0, 1, 2]
    assert arrivals(line(Faults(1).at("frame", reorder=True, times=1)), 3) == [1, 0, 2]
    [late] = line(Faults(1).at("frame", delay_s=2.5)).pass_on(1)
    assert late.delay_s == 2.5
    assert arrivals(line(Faults(1).at("frame", stall=True)), 5) == []
    assert arrivals(line(Faults(1)), 3) == [0, 1, 2]


@pytest.mark.requirement("resilience.faults.effects")
def test_an_error_is_raised_where_it_is_said_to_be() -> None:
    with pytest.raises(ConnectionResetError):
        line(Faults(1).at("frame", error=ConnectionResetError)).pass_on(1)
    given = OSError("this one")
    with pytest.raises(OSError, match="this one") as caught:
        line(Faults(1).at("frame", error=given)).pass_on(1)
    assert caught.value is given


@pytest.mark.requirement("resilience.faults.effects")
def test_a_connection_is_cut_after_so_many_bytes() -> None:
    connection = FaultyBytes(FaultPlan(Faults(1).at("bytes", cut_after_bytes=5)), "bytes")
    assert connection.pass_on(b"abc") == (b"abc", False)
    assert connection.pass_on(b"defg") == (b"de", True)
    assert connection.pass_on(b"h") == (b"", True)
    assert FaultyBytes(FaultPlan(Faults(1)), "bytes").pass_on(b"abc") == (b"abc", False)
