"""Child processes, for sessions and teammates alike: starting, talking with, listening to and ending them."""
