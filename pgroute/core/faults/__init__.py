"""The meaning of an error for a host, a session and a transaction."""
