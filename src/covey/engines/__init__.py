"""Storage behind ``ports.engine``: in memory, in an SQLite file, later in a NATS cluster."""
