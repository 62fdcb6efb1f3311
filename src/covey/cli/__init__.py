"""The `covey` command: one file a subcommand, and each imports what it needs only when it runs."""
