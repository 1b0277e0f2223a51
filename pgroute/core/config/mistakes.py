"""Suggestions for arguments that a router does not have."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from pgroute.core.config.dsn import DSN_ONLY, PSYCOPG_ARGUMENTS
from pgroute.core.config.libpq import is_secret, keywords
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.spelling import nearest
from pgroute.errors import ConfigError, presentable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SYNONYMS = {
    "conninfo": "dsn",
    "url": "dsn",
    "uri": "dsn",
    "timeout": "acquire_timeout",
    "policy": "balance",
    "hosts": "dsn",
}
"""Names in psycopg_pool and other libraries, and the corresponding parameters of a router."""


def refuse_unknown(unknown: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise ConfigError for the first unknown argument, and say where it belongs."""
    for name, value in unknown.items():
        number = isinstance(value, (bool, int, float))
        belongs = _belongs(name, value)
        # An unknown argument may be a misspelt password.
        secret = is_secret(name) or not (number and belongs)
        raise ConfigError(name, value, belongs or _nearest(name, known), secret=secret)


def _belongs(name: str, value: object) -> str:
    shown = repr(presentable(value)) if isinstance(value, (bool, int, float)) else "..."
    if name in _SYNONYMS:
        return f"the router has no such parameter, did you mean {_SYNONYMS[name]}?"
    if name in _names(PoolOptions):
        return f"each role has its own: expected writer=PoolOptions({name}={shown}), or reader="
    if name in _names(ProbeOptions):
        return f"expected probe=ProbeOptions({name}={shown})"
    if name in _names(HostOptions):
        return f"each host has its own: expected host_options={{'host': HostOptions({name}={shown})}}"
    if name in _names(RetryPolicy):
        return f"expected retry=RetryPolicy({name}=...)"
    if name in DSN_ONLY:
        return "expected in the DSN"
    if name in keywords():
        return f"expected in the DSN, or in kwargs={{{name!r}: ...}}"
    return f"expected kwargs={{{name!r}: {shown}}}" if name in PSYCOPG_ARGUMENTS else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return "the router has no such parameter" + (f", did you mean {near}?" if near else "")


def _names(cls: type[HostOptions | PoolOptions | ProbeOptions | RetryPolicy]) -> list[str]:
    return [field.name for field in fields(cls)]
