"""The validated arguments of `run()` and `attempts()`: what kind of transaction is wanted."""

from __future__ import annotations

from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.core.config.checks import check_number
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from psycopg import IsolationLevel

COROUTINE_FUNCTION = "coroutine function: use AsyncRouter"
"""What the body of a synchronous `run()` must not be, for the error text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The kind of transaction that is wanted.

    Attributes:
        attrs: the attributes that a host must have.
        role: the role whose pools serve it.
        isolation, read_only, deferrable: for BEGIN; None for the setting of the connection.
        decidable: the body itself finds out whether an earlier attempt was committed.
        independent: so does the body of another call, so this transaction may run inside that one.
        read_write: an error about writing means that the host is not the primary any more.
        plain: BEGIN is that of the connection.
    """

    attrs: SessionAttrs
    role: Role
    isolation: IsolationLevel | None = None
    read_only: bool | None = None
    deferrable: bool | None = None
    decidable: bool = False
    independent: bool = False
    read_write: bool = field(init=False)
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "read_write", self.attrs is SessionAttrs.READ_WRITE and not self.read_only)
        given = (self.isolation, self.read_only, self.deferrable)
        object.__setattr__(self, "plain", given == (None, None, None))


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
    """Validate the arguments of `run()` and `attempts()`.

    Raises:
        ConfigError: a value is invalid.
    """
    parsed = Role.parse(role)
    for name, value in (("read_only", read_only), ("deferrable", deferrable)):
        if not (value is None or isinstance(value, bool)):
            raise ConfigError(name, value, "expected True, False or None")
    if parsed is Role.READER and read_only is False and reader_read_only:
        raise ConfigError(
            "read_only",
            read_only,
            "reader sessions are read-only: use role='writer', or reader=PoolOptions(read_only=False)",
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


class Requests:
    """Validates the arguments of the transactions of one router, and remembers what they stand for.

    Args:
        reader_attrs: of the router.
        reader_read_only: sessions of readers are read-only.
    """

    def __init__(self, *, reader_attrs: SessionAttrs, reader_read_only: bool) -> None:
        self._readers = {"reader_attrs": reader_attrs, "reader_read_only": reader_read_only}
        self._plain: dict[tuple[str, bool, bool], Request] = {}

    def __call__(
        self,
        role: object,
        *,
        timeout: object = None,
        isolation: object = None,
        read_only: object = None,
        deferrable: object = None,
        decidable: bool = False,
        independent: bool = False,
    ) -> Request:
        """Return the result of `make_request`, or raise its ConfigError; *timeout* is in seconds."""
        if timeout is not None:
            check_number("timeout", timeout)
        plain = isolation is read_only is deferrable is None and type(role) is str
        # Nearly all are plain, and for those a key of all arguments and their types takes longer than the rest.
        if plain and (found := self._plain.get((role, decidable, independent))) is not None:  # type: ignore[arg-type]
            return found
        given: dict[str, Any] = {
            **self._readers,
            "isolation": isolation,
            "read_only": read_only,
            "deferrable": deferrable,
            "decidable": decidable,
            "independent": independent,
        }
        try:
            request = _known_request(role, **given)
        except TypeError:  # an argument is not hashable
            request = make_request(role, **given)
        if plain:
            self._plain[role, decidable, independent] = request  # type: ignore[index]
        return request


def parse_isolation(value: Any) -> IsolationLevel | None:
    """Return the isolation level for a name in any case (PostgreSQL docs, 13.2), or for psycopg's constant."""
    if value is None or isinstance(value, psycopg.IsolationLevel):
        return value
    levels = {level.name.replace("_", " ").lower(): level for level in psycopg.IsolationLevel}
    name = " ".join(value.replace("_", " ").lower().split()) if isinstance(value, str) else None
    if name not in levels:
        names = ", ".join(map(repr, sorted(levels)))
        raise ConfigError("isolation", value, f"expected {names}, a psycopg.IsolationLevel or None")
    return levels[name]
