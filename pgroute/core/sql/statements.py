"""Common parts of the router's own statements, which must work whatever the user has set."""

from __future__ import annotations

import re

OWN_TERMS = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0;"
"""Precedes a SELECT in the same simple query, which is one transaction; neither setting outlives it.

Probes always send it: with serializable, read only, deferrable defaults a SELECT waits for other transactions. Checks
of pooled connections send it only if the SELECT alone failed with `RESTRAINED`: a proxy may reserve a server connection
for a client that sets anything."""

RESTRAINED = frozenset({"0A000", "57014"})
"""SQLSTATEs with which the defaults of a session can make a SELECT fail: with
default_transaction_isolation=serializable a hot standby refuses each one, and statement_timeout may end it."""

LACKING = frozenset({"42501", "42883", "0A000", "42P01", "42703", "42704"})
"""SQLSTATEs of a missing privilege, function or feature: a smaller question may succeed."""

WRONG_STATE = "55000"
"""SQLSTATE of, among others, a function that is not available in the role of the server ("recovery is in progress")."""

CONTROL_FILE_TIMELINE = """
       greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))"""
"""An expression for the timeline of a standby, a lower bound: the control file tells of a new timeline minutes late."""

STANDBY_TIMELINE = f"""
       greatest({CONTROL_FILE_TIMELINE},
                (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver))"""  # noqa: S608  (built from constants)
"""The same, and what the receiver tells at once to roles with the rights of pg_read_all_stats: it streams a timeline
only if what was replayed is part of that. Others read NULL there."""


_OPERATOR = re.compile("`([^`]+)`")


def qualify(statement: str) -> bytes:
    """Return a statement in which operators in backquotes are PostgreSQL's own, whatever the search_path."""
    return _OPERATOR.sub(r"OPERATOR(pg_catalog.\1)", statement).encode()
