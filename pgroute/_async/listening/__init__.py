"""The connection on which a router listens, and the thread or task that keeps it."""
