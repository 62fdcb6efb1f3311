"""What to do about failure, as pure decisions: time and chance come in as arguments, and nothing here waits."""
