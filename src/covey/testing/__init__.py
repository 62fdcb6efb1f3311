"""The test kit, shipped: given clocks, seeded randomness, and the suites that adapters must pass."""
