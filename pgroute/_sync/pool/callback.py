# Generated from pgroute/_async/pool/callback.py by .ci/unasync.py: edit that file, not this one.
"""Calls a function of the user with a connection, and sees to it that its work is done when it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.core.callables import is_unfinished
from pgroute.core.config.callbacks import misused

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from pgroute.errors import ConfigError

_ASYNCHRONOUS = False


def call_back(
    name: str, fn: Callable[[Any], Any], conn: psycopg.Connection[Any]
) -> ConfigError | None:
    """Call configure, reset or setup; return the error if it is for the other face, or has left its work for later."""
    result = fn(conn)
    if is_unfinished(result):
        return misused(name, fn, result, asynchronous=_ASYNCHRONOUS)
    return None
