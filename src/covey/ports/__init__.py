"""What covey asks of the world, as Protocols; adapters answer. Tiny and meant to stay still."""
