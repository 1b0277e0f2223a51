"""Tells which statements may have committed a part of their work when they fail."""

from __future__ import annotations

import re

from pgroute.core.late_pattern import LatePattern

_WORD = LatePattern(r"[A-Za-z]+")
_COMMENT_MARK = LatePattern(r"/\*|\*/")
_CONCURRENTLY = LatePattern(r"\bconcurrently\b", re.IGNORECASE)


def may_commit_parts(query: str) -> bool:
    """Return whether a statement that is run outside of a transaction block may commit within.

    Procedures and DO blocks may COMMIT (PostgreSQL docs, 43.8). What is done CONCURRENTLY leaves an invalid index, or a
    partition that is half detached.

    Args:
        query: one statement.
    """
    start = _skip(query)
    found = _WORD.match(query, start)
    word = "" if found is None else found.group().upper()
    if word in ("CREATE", "DROP", "ALTER", "REINDEX"):
        return _CONCURRENTLY.search(query, start) is not None
    return word in ("CALL", "DO")


def _skip(query: str) -> int:
    """Return where white space, comments (those with /* may be nested) and empty statements end."""
    at, size = 0, len(query)
    while at < size:
        if query[at].isspace() or query[at] == ";":
            at += 1
        elif query.startswith("--", at):
            end = query.find("\n", at)
            at = size if end < 0 else end
        elif query.startswith("/*", at):
            depth = 0
            for mark in _COMMENT_MARK.finditer(query, at):
                depth += 1 if mark.group() == "/*" else -1
                at = mark.end()
                if not depth:
                    break
            else:
                return size
        else:
            break
    return at
