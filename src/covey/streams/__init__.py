"""Streams: append-only numbered logs of events, read by cursor. Everything else in covey is made of them."""
