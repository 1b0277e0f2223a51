"""What kind of transaction `run()` and `attempts()` are asked for, validated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.core.config.options import check_number
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from psycopg import IsolationLevel

LAZY = (GeneratorType, AsyncGeneratorType, map, filter, zip)
"""What a body returns that has not done its work yet."""

COROUTINE_FUNCTION = "coroutine function: use AsyncRouter"
"""What the body of a synchronous `run()` must not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What kind of transaction is asked for.

    Attributes:
        attrs: which hosts will do.
        role: whose pools.
        isolation, read_only, deferrable: for BEGIN; None: as the connection has it.
        decidable: the body can find out by itself whether an earlier attempt was committed.
        independent: and so can the body of another call, so that it may be run within one.
    """

    attrs: SessionAttrs
    role: Role
    isolation: IsolationLevel | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    decidable: bool = False
    independent: bool = False

    @property
    def read_write(self) -> bool:
        """Whether a refusal to write says that the host is not what it was taken for."""
        return self.attrs is SessionAttrs.READ_WRITE and not self.read_only


def make_request(
    role: object,
    *,
    reader_attrs: SessionAttrs,
    reader_read_only: bool,
    isolation: object = None,
    read_only: object = None,
    deferrable: object = None,
    decidable: bool = False,
    independent: bool = False,
) -> Request:
    """Validate what `run()` and `attempts()` were given.

    Raises:
        ConfigError: a value is not usable.
    """
    parsed = Role.parse(role)
    for name, value in (("read_only", read_only), ("deferrable", deferrable)):
        if not (value is None or isinstance(value, bool)):
            raise ConfigError(name, value, "expected True, False or None")
    if parsed is Role.READER and read_only is False and reader_read_only:
        raise ConfigError(
            "read_only",
            read_only,
            "reader sessions are read-only: use role='writer', or reader=PoolOptions(...)",
        )
    return Request(
        attrs=SessionAttrs.READ_WRITE if parsed is Role.WRITER else reader_attrs,
        role=parsed,
        isolation=parse_isolation(isolation),
        read_only=read_only,  # type: ignore[arg-type]  # checked in the loop above
        deferrable=deferrable,  # type: ignore[arg-type]
        decidable=decidable,
        independent=independent,
    )


_known_request = lru_cache(maxsize=256, typed=True)(make_request)


def get_request(role: object, *, timeout: object = None, **given: Any) -> Request:
    """Do as `make_request`, without validating the same once more."""
    if timeout is not None:
        check_number("timeout", timeout)
    try:
        return _known_request(role, **given)
    except TypeError:  # something among it has no hash
        return make_request(role, **given)


def parse_isolation(value: Any) -> IsolationLevel | None:
    """Return the isolation level of that name (PostgreSQL docs, 13.2), any case, or psycopg's own constant."""
    if value is None or isinstance(value, psycopg.IsolationLevel):
        return value
    levels = {level.name.replace("_", " ").lower(): level for level in psycopg.IsolationLevel}
    name = " ".join(value.replace("_", " ").lower().split()) if isinstance(value, str) else None
    if name not in levels:
        names = ", ".join(map(repr, sorted(levels)))
        raise ConfigError("isolation", value, f"expected {names}, a psycopg.IsolationLevel or None")
    return levels[name]
