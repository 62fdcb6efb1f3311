"""Test kit for programs built on covey and for other implementations of its ports. Needs no test framework."""
