"""Sans-IO: bytes and time in, events and bytes out. No socket, task, clock or randomness inside."""
