"""Checks of what a user gave, which raise ConfigError."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pgroute.core.routing.demand import LEAST_MAX_LAG
from pgroute.errors import ConfigError, holds_password, presentable

_MOST = 1e9
"""The longest timeout in seconds that every operating system can wait for."""

MOST_WHOLE = 2**31 - 1
"""The highest count: an integer of the server, and of every other system that it is told to."""


def check_number(
    name: str, value: object, *, low: float = 0.0, above: bool = False, none: bool = False
) -> None:
    """Raise ConfigError unless *value* is a number of at least *low* (if *above*: more than *low*) and no huge one."""
    if value is None and none:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not -math.inf < value <= _MOST
        or value < low
        or (above and value <= low)
    ):
        bound = f"a number {'above' if above else 'of at least'} {low:g}, at most {_MOST:g}"
        raise ConfigError(name, value, f"expected {bound}{' or None' if none else ''}")


def check_max_lag(value: object, parameter: str = "max_lag") -> float | None:
    """Return a max_lag in seconds, or None; ConfigError for one that is smaller than can be proved."""
    if value is None:
        return None
    accepted = f"expected a number of seconds from {LEAST_MAX_LAG:g} to {_MOST:g}, or None"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not LEAST_MAX_LAG <= value <= _MOST:
        raise ConfigError(parameter, value, accepted)
    return float(value)


def check_integer(name: str, value: object, *, low: int, high: int = MOST_WHOLE) -> None:
    """Raise ConfigError unless *value* is an int from *low* to *high*."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"expected a whole number of at least {low}, at most {high}")


def check_callable(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is None or callable."""
    if value is not None and not callable(value):
        raise ConfigError(name, value, "expected a callable or None")


def check_bool(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is True or False: any text would count as True, "false" too."""
    if not isinstance(value, bool):
        raise ConfigError(name, value, "expected True or False")


def check_mapping(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is None or a mapping with str keys. The error does not show its values."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(name, type(value).__name__, "expected a mapping or None")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(name, key, "expected a mapping with str keys")


MOST_NAME_BYTES = 512
"""The longest name, in bytes of UTF-8, that is stored in a database: it has to fit into an index."""


def check_name(parameter: str, value: object, also: str = "") -> None:
    """Raise ConfigError unless *value* can be stored as a name; *also* says what else is accepted."""
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            size = 0
        if 1 <= size <= MOST_NAME_BYTES and "\0" not in value:
            return
    accepted = f"expected 1 to {MOST_NAME_BYTES} bytes (UTF-8, without NUL){also}"
    if not isinstance(value, str):
        from uuid import UUID

        # What others show of themselves as a text may be a secret.
        named = type(value) in (int, UUID) and presentable(value) is value
        hint = f"such as {parameter}={str(value)!r}" if named else f"not {type(value).__name__}"
        raise ConfigError(parameter, value, f"{accepted}; a string, {hint}")
    shown = value if size <= MOST_NAME_BYTES else f"{value[:40]}... ({size} bytes)"
    raise ConfigError(parameter, shown, accepted, secret=holds_password(value))


DISCARD = "discard"
"""The value of ``reset=`` that clears everything a session has set."""


def check_reset(value: object) -> None:
    """Raise ConfigError unless *value* is None, callable or "discard"."""
    if not (value is None or callable(value) or (isinstance(value, str) and value == DISCARD)):
        raise ConfigError("reset", value, f"expected a callable, {DISCARD!r} or None")
