"""The statement that begins a transaction."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import IsolationLevel


@lru_cache(maxsize=64)
def begin_statement(
    isolation: IsolationLevel | None, read_only: bool | None, deferrable: bool | None
) -> bytes:
    """Return BEGIN with these characteristics; None leaves one to the defaults of the session."""
    parts = ["BEGIN"]
    if isolation is not None:
        parts.append(f"ISOLATION LEVEL {isolation.name.replace('_', ' ')}")
    if read_only is not None:
        parts.append("READ ONLY" if read_only else "READ WRITE")
    if deferrable is not None:
        parts.append("DEFERRABLE" if deferrable else "NOT DEFERRABLE")
    return f"{' '.join(parts)};".encode()
