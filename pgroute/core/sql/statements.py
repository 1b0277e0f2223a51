"""What the router's own statements have in common, whatever the user has set: how they begin, and how they are read."""

from __future__ import annotations

import re

OWN_TERMS = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0;"
"""Goes ahead of a SELECT in the same simple query, which is one transaction; neither setting outlives it.

Probes always say it: under serializable, read only, deferrable defaults a SELECT waits for others. Checks of pooled
connections say it only where the SELECT alone met `RESTRAINED`: a proxy may reserve a server connection for whoever
sets anything."""

RESTRAINED = frozenset({"0A000", "57014"})
"""SQLSTATEs of what a session's own defaults can do to a SELECT: a hot standby refuses every one under
default_transaction_isolation=serializable, and statement_timeout may end it."""

LACKING = frozenset({"42501", "42883", "0A000", "42P01", "42703", "42704"})
"""SQLSTATEs of a right, a function or a feature that is missing: less can be asked for."""

WRONG_STATE = "55000"
"""Also what a server says of a function that does not go with its role ("recovery is in progress")."""


_OPERATOR = re.compile("`([^`]+)`")


def qualify(statement: str) -> bytes:
    """Return a statement in which the operators between backquotes are PostgreSQL's own, whatever the search_path."""
    return _OPERATOR.sub(r"OPERATOR(pg_catalog.\1)", statement).encode()
