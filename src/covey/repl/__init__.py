"""Live REPL sessions: a process that runs cells, and a stream that holds all it said."""
