"""Test kit for programs built on covey and for other implementations of its ports. Needs no test framework."""

from covey.testing.instant import instant
from covey.testing.loop import DeadlockError
from covey.testing.network import Endpoint
from covey.testing.process import NotSimulatedError, SimulationError
from covey.testing.weather import Conditions
from covey.testing.world import SimWorld

__all__ = ["Conditions", "DeadlockError", "Endpoint", "NotSimulatedError", "SimWorld", "SimulationError", "instant"]
