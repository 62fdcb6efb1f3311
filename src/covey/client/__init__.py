"""The client's side of the protocol: finding a hub, calling it, and reading its streams through failures."""
