"""Calls a function of the user with a connection, and sees to it that its work is done when it returns."""

from __future__ import annotations

import inspect  # async-only
from typing import TYPE_CHECKING, Any

from pgroute.core.callables import is_unfinished
from pgroute.core.config.callbacks import misused

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from pgroute.errors import ConfigError

_ASYNCHRONOUS = True  # async-only
# sync-only: _ASYNCHRONOUS = False


async def call_back(
    name: str, fn: Callable[[Any], Any], conn: psycopg.AsyncConnection[Any]
) -> ConfigError | None:
    """Call configure, reset or setup; return the error if it is for the other face, or has left its work for later."""
    result = fn(conn)
    # async-only: begin
    if not inspect.isawaitable(result):
        return misused(name, fn, result, asynchronous=_ASYNCHRONOUS)
    result = await result
    # async-only: end
    if is_unfinished(result):
        return misused(name, fn, result, asynchronous=_ASYNCHRONOUS)
    return None
