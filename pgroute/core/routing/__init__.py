"""Which host a session goes to, and which caller gets a connection of its pool."""
