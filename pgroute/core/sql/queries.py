"""Checks of what the user gives to execute: a query and the values of its placeholders, as psycopg takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import sql

from pgroute.errors import ConfigError

_VALUES = "a sequence or a mapping"
_QUERIES = (str, bytes, bytearray, sql.Composable)
_PLAIN = (tuple, list, dict)
"""The usual types of values, for which the slower checks are skipped."""


def check_query(query: object, params: object) -> None:
    """Raise ConfigError unless these are a query and the values of its placeholders. The error shows no value."""
    # Template is that of Python 3.14.
    if not isinstance(query, _QUERIES) and type(query).__name__ != "Template":
        accepted = "expected a statement: a str, bytes, or composed by psycopg.sql"
        raise ConfigError("query", type(query).__name__, accepted)
    if not _are_values(params):
        raise ConfigError("params", type(params).__name__, f"expected {_VALUES} of values, or None")


def read_values(params_seq: Iterable[Any]) -> list[Any]:
    """Return sets of values as a list; ConfigError if they are something else.

    Args:
        params_seq: as given by the user, read to its end. Its own errors are not touched.
    """
    accepted = f"expected an iterable, each item {_VALUES}"
    try:
        items = iter(params_seq)
    except TypeError:
        raise ConfigError("params_seq", type(params_seq).__name__, accepted) from None
    values = list(items)
    for number, each in enumerate(values, 1):
        if not _are_values(each):
            raise ConfigError("params_seq", f"{type(each).__name__} as item {number}", accepted)
    return values


def _are_values(params: object) -> bool:
    if params is None or type(params) in _PLAIN:
        return True
    return isinstance(params, (Sequence, Mapping)) and not isinstance(params, (str, bytes))
