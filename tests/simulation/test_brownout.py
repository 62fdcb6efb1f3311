"""A few seeds of `bench/brownout.py`: covey's defaults bring a fleet and its service back, naive repeats do not."""

from __future__ import annotations

import pytest
from bench.brownout import DEAD, DEFAULT, HALF, NAIVE, NEARLY_DEAD, Outage, figures, simulate

SEED = 1


@pytest.mark.requirement("brownout.control")
def test_naive_repeats_keep_the_service_down_after_its_capacity_is_back() -> None:
    found = figures(simulate(NAIVE, HALF, SEED), HALF)
    assert found.recovery_s is None
    assert found.late_success < 0.05
    assert found.amplification_late > 2


@pytest.mark.requirement("brownout.half")
@pytest.mark.parametrize("seed", [SEED, 2])
def test_the_defaults_use_what_is_left_of_half_and_are_back_at_once(seed: int) -> None:
    found = figures(simulate(DEFAULT, HALF, seed), HALF)
    assert found.use > 0.9
    assert found.amplification < 1.15
    assert found.peak < 1.6
    assert found.recovery_s is not None
    assert found.recovery_s <= 1
    assert found.late_success > 0.999


@pytest.mark.requirement("brownout.dead")
@pytest.mark.parametrize("outage", [NEARLY_DEAD, DEAD], ids=lambda outage: outage.name)
def test_the_defaults_leave_a_dead_service_alone_and_find_it_again(outage: Outage) -> None:
    found = figures(simulate(DEFAULT, outage, SEED), outage)
    assert found.amplification < 0.5
    assert found.peak < 1.5
    assert found.told_s < 0.5
    assert found.recovery_s is not None
    # 3 s, and as much again for a probe that met one of the failures that happen at any time.
    assert found.recovery_s <= 6
    assert found.late_success > 0.999


@pytest.mark.requirement("brownout.repeatable")
def test_a_seed_gives_the_same_run() -> None:
    first, second = (simulate(DEFAULT, DEAD, SEED) for _ in range(2))
    assert len(first.calls) > 10_000
    assert first == second
