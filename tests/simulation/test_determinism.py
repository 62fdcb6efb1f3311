"""One seed, one run: the traces of the other simulations, made again, here and in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation import test_hub_over_cuts, test_sse_over_cuts, test_streams_over_crashes

ROOT = Path(__file__).parents[2]
SEEDS = range(6)
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.simulation.test_determinism import traces
print(traces())
"""


def traces() -> str:
    """Return the digests of traces; all kinds of runs, with and without shuffling."""
    simulations = (test_streams_over_crashes, test_sse_over_cuts, test_hub_over_cuts)
    return " ".join(simulation.simulate(seed).trace for seed in SEEDS for simulation in simulations)


@pytest.mark.requirement("testing.world.same-seed-same-trace")
def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    here = traces()
    assert len(set(here.split())) == 3 * len(SEEDS)
    assert traces() == here
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here
