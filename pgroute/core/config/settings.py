"""Server settings, which are sent to the server as libpq's options."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pgroute.core.late_pattern import LatePattern
from pgroute.errors import ConfigError, presentable

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET_NAME = LatePattern(r"(?i)passw(or)?d|passphrase|pwd|secret|token|key")
"""Matches the name of a setting that may hold a secret."""
_SETTING = LatePattern(r"_*[A-Za-z][A-Za-z0-9_$]*(\._*[A-Za-z][A-Za-z0-9_$]*)*")
# The server splits the options at white space as in C's isspace(); a backslash escapes the next character
# (pg_split_opts).
_SPLITTING = LatePattern(r"[ \t\n\v\f\r\\]")
_MOST_OPTION_BYTES = 8000
"""A startup packet has at most 10,000 bytes (MAX_STARTUP_PACKET_LENGTH)."""


def is_secret_setting(name: str) -> bool:
    """Return True if the value of a server setting may be a secret, by its name."""
    return _SECRET_NAME.search(name) is not None


def startup_options(settings: Mapping[str, Any]) -> str:
    """Return server settings in the form of libpq's ``options``.

    Raises:
        ConfigError: a name or a value cannot be transmitted unchanged.
    """
    text = " ".join(f"-c {name}={_setting(name, value)}" for name, value in settings.items())
    if len(text.encode()) > _MOST_OPTION_BYTES:
        accepted = f"expected at most {_MOST_OPTION_BYTES} bytes of settings in all; use configure= for more"
        raise ConfigError("settings", f"{len(text.encode())} bytes", accepted)
    return text


def join_options(given: str | None, settings: str) -> str:
    """Return the ``options`` of a DSN followed by settings, which override them."""
    if not given:
        return settings
    if (len(given) - len(given.rstrip("\\"))) % 2:
        given = given[:-1]  # a backslash at the end would escape the blank that follows
    return f"{given} {settings}"


def _setting(name: str, value: object) -> str:
    if not _SETTING.fullmatch(name):
        raise ConfigError("settings", name, "expected names of server settings, as in SHOW")
    match value:
        case bool():
            text = "on" if value else "off"
        case int() if presentable(value) is value:
            text = int.__repr__(value)
        case float() if math.isfinite(value):
            text = float.__repr__(value)
        case str() if "\0" not in value and value == value.encode(errors="ignore").decode():
            text = str.__str__(value)
        case _:
            accepted = "expected a str without NUL and lone surrogates, a bool or a finite number"
            raise ConfigError(f"settings[{name!r}]", value, accepted, secret=is_secret_setting(name))
    return _SPLITTING.sub(r"\\\g<0>", text)
