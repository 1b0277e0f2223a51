"""Which host a session goes to, and who is served by a pool."""
