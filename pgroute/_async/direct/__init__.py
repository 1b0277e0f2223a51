"""Queries without a session of their own: one statement, one transaction, one round trip."""
