"""The options of a router, validated when they are constructed."""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003  (typing.get_type_hints reads them)
from dataclasses import field, replace
from types import MappingProxyType, NoneType
from typing import Any, Literal

from pgroute.core.config.checks import (
    check_bool,
    check_callable,
    check_integer,
    check_mapping,
    check_number,
    check_reset,
)
from pgroute.core.config.discreet import discreetly_made
from pgroute.core.config.settings import startup_options
from pgroute.core.late_dataclass import dataclass
from pgroute.errors import ConfigError

_EMPTY: Mapping[str, Any] = MappingProxyType({})

_MOST_SYSTEM_ID = 2**64 - 1


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The pools of one role; the sizes are per host.

    *configure* and *reset* replace those of the router. They are coroutine functions for an AsyncRouter. *configure*
    must not leave a transaction open. The caller who returns a connection waits for *reset*. With ``reset="discard"``
    each returned connection runs ``DISCARD ALL`` and then *configure* again. So nothing that a session has set (SET,
    SET ROLE, LISTEN, temporary tables, advisory locks, prepared statements) reaches the next one.

    *setup* is called with a connection at each checkout, before the body. It is for what this session alone needs, such
    as a tenant's setting, and takes the round trips of its statements. It must not leave a transaction open. If it
    raises, that connection is closed and another is tried. After three the caller gets the error. It has the time that
    the caller has for a session, at least 0.2 s. psycopg attributes that it sets are reset when the session ends.

    Args:
        min_size: connections kept open to each host that serves the role; a new pool starts with one.
        max_size: the most connections to each host.
        max_size_on_primary: the most connections of readers to the primary, where they go while no standby can serve
            them; None: max_size. Only for readers.
        max_idle: seconds; in each such period, one connection beyond min_size is closed if it was not needed.
        max_lifetime: seconds after which a connection is replaced when it is returned.
        max_uses: sessions after which a connection is replaced when it is returned; None: any number.
        max_waiting: callers that may queue for a host, 0 for any number; one more is sent to another host, or gets
            PoolExhausted at once.
        read_only: sessions are read-only, on the server too. None: readers are, writers are not. True is refused for
            writers.
        kwargs: for psycopg.connect, overriding those of the router: libpq parameters, and autocommit,
            prepare_threshold, context, row_factory, cursor_factory.
        settings: server settings for each session (``{"statement_timeout": "5s"}``), sent as libpq's options when
            connecting. Values are str, bool or numbers.
        configure: called with each new connection before its first use; None: the router's.
        reset: called with each connection that is returned, or "discard"; None: the router's.
        setup: called with a connection at each checkout; None: nothing is.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    min_size: int = 1
    max_size: int = 10
    max_size_on_primary: int | None = None
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    max_waiting: int = 0
    read_only: bool | None = None
    kwargs: Mapping[str, Any] | None = field(default=None, repr=False)
    settings: Mapping[str, Any] | None = field(default=None, repr=False)
    configure: Callable[[Any], Any] | None = None
    reset: Callable[[Any], Any] | Literal["discard"] | None = None
    setup: Callable[[Any], Any] | None = None
    max_uses: int | None = None

    def __post_init__(self) -> None:
        check_integer("min_size", self.min_size, low=0)
        check_integer("max_size", self.max_size, low=1)
        if self.max_size < self.min_size:
            raise ConfigError(
                "max_size", self.max_size, f"expected at least min_size, which is {self.min_size}"
            )
        if self.max_size_on_primary is not None:
            check_integer("max_size_on_primary", self.max_size_on_primary, low=1)
            if self.max_size_on_primary > self.max_size:
                accepted = f"expected at most max_size, which is {self.max_size}, or None"
                raise ConfigError("max_size_on_primary", self.max_size_on_primary, accepted)
        check_number("max_idle", self.max_idle, above=True)
        check_number("max_lifetime", self.max_lifetime, above=True)
        check_integer("max_waiting", self.max_waiting, low=0)
        if not isinstance(self.read_only, (bool, NoneType)):
            raise ConfigError("read_only", self.read_only, "expected True, False or None")
        check_mapping("kwargs", self.kwargs)
        check_mapping("settings", self.settings)
        startup_options(self.settings or _EMPTY)
        check_callable("configure", self.configure)
        check_reset(self.reset)
        check_callable("setup", self.setup)
        if self.max_uses is not None:
            check_integer("max_uses", self.max_uses, low=1)


def resized(options: PoolOptions, min_size: object, max_size: object) -> PoolOptions:
    """Return the options with another size; None leaves one as it is.

    Raises:
        ConfigError: a size is no whole number or out of range, or both are None.
    """
    if min_size is None and max_size is None:
        raise ConfigError("min_size", None, "expected min_size, max_size or both")
    if min_size is not None:
        check_integer("min_size", min_size, low=0)
        if max_size is None and min_size > options.max_size:  # type: ignore[operator]
            raise ConfigError("min_size", min_size, f"expected at most max_size, which is {options.max_size}")
    least = options.max_size_on_primary
    if max_size is not None:
        check_integer("max_size", max_size, low=1)
        if least is not None and max_size < least:  # type: ignore[operator]
            raise ConfigError(
                "max_size", max_size, f"expected at least max_size_on_primary, which is {least}"
            )
    changes: dict[str, Any] = {"min_size": min_size, "max_size": max_size}
    return replace(options, **{name: value for name, value in changes.items() if value is not None})


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """How the hosts are probed.

    Sessions in flight at a silent host are aborted after *abort_after* if another host serves their role. If that is a
    primary on a higher timeline, they are aborted about 0.2 seconds after the router has seen it.

    A host that reports another *system_id*, or none, never serves. To find it, execute
    ``SELECT system_identifier FROM pg_control_system()``.

    *kwargs* may give the probes a ``user`` with its ``password``. Behind a pooler, a separate user has a separate pool,
    which sessions cannot exhaust. But then a login refused to the probes says nothing about that of the sessions.

    Args:
        interval: seconds between two probes of a host while there is a primary, at least 0.01.
        timeout: seconds for one probe, or for connecting, at least 0.01. One timeout makes a host suspect, two in a row
            make it down.
        abort_after: seconds without an answer after which the sessions in flight at a host are aborted; None: never.
        abort_stale: also abort the sessions in flight at an old primary that still answers.
        check_system_id: refuse hosts that belong to another cluster.
        system_id: the cluster's system identifier; None: learned from the majority of the hosts.
        min_ttl: seconds for which the result of a lookup is used at least, whatever the TTL of its record; at least
            0.1.
        max_ttl: seconds for which it is used at most, also if the resolver reports no TTL ("system").
        lookup_timeout: seconds for one lookup of a name, at least 0.01.
        kwargs: libpq parameters for the connections of the probes, overriding those of the router.
        share: have one process of this user on this machine probe for all that probe the same host with the same
            parameters, where that is possible.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    interval: float = 1.0
    timeout: float = 1.0
    abort_after: float | None = 10.0
    abort_stale: bool = False
    check_system_id: bool = True
    system_id: int | None = None
    min_ttl: float = 1.0
    max_ttl: float = 30.0
    lookup_timeout: float = 2.0
    kwargs: Mapping[str, Any] | None = field(default=None, repr=False)
    share: bool = True

    def __post_init__(self) -> None:
        check_mapping("kwargs", self.kwargs)
        check_number("min_ttl", self.min_ttl, low=0.1)
        check_number("max_ttl", self.max_ttl, low=0.1)
        if self.max_ttl < self.min_ttl:
            raise ConfigError(
                "max_ttl", self.max_ttl, f"expected at least min_ttl, which is {self.min_ttl:g}"
            )
        check_number("lookup_timeout", self.lookup_timeout, low=0.01)
        check_number("interval", self.interval, low=0.01)
        check_number("timeout", self.timeout, low=0.01)
        check_number("abort_after", self.abort_after, none=True)
        for name in ("abort_stale", "check_system_id", "share"):
            check_bool(name, getattr(self, name))
        if self.system_id is not None:
            check_integer("system_id", self.system_id, low=1, high=_MOST_SYSTEM_ID)
            if not self.check_system_id:
                raise ConfigError("system_id", self.system_id, "expected None where check_system_id is False")


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Options of a single host.

    Args:
        weight: its share of the sessions, relative to the other hosts, with any balance but "ordered"; 0: only if no
            other host can serve. It replaces the weight of an SRV record.
        zone: where it is, such as a region or a data centre; see ``Router(zone=)``.

    Raises:
        ConfigError: the weight is not a number of at least 0, or the zone is no str.
    """

    weight: float = 1.0
    zone: str = ""

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        if not isinstance(self.zone, str):
            raise ConfigError("zone", self.zone, "expected a str")
