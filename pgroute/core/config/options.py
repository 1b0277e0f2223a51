"""The options of a router, validated when they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, NoneType
from typing import Any, Literal

from pgroute.core.config.discreet import discreetly_made
from pgroute.errors import ConfigError

_EMPTY: Mapping[str, Any] = MappingProxyType({})


_MOST = 1e9
"""Seconds that a timeout may have: what the operating systems' waits can count."""


def check_number(
    name: str, value: object, *, low: float = 0.0, above: bool = False, none: bool = False
) -> None:
    """Raise ConfigError unless *value* is a number of at least *low* (more than *low* if *above*) within reason."""
    if value is None and none:
        return
    bound = f"a number {'above' if above else 'of at least'} {low:g}, at most {_MOST:g}"
    bound += " or None" if none else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value <= _MOST:
        raise ConfigError(name, value, f"expected {bound}")
    if value < low or (above and value <= low):
        raise ConfigError(name, value, f"expected {bound}")


def check_integer(name: str, value: object, *, low: int) -> None:
    """Raise ConfigError unless *value* is an int of at least *low*."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(name, value, f"expected a whole number of at least {low}")


def check_callable(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is None or callable."""
    if value is not None and not callable(value):
        raise ConfigError(name, value, "expected a callable or None")


def check_mapping(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is None or a mapping from str; its content is not shown."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(name, type(value).__name__, "expected a mapping or None")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(name, key, "expected a mapping with str keys")


MOST_NAME_BYTES = 512
"""What a name may have in UTF-8 that is kept in a database: an entry of its index has to fit."""


def check_name(parameter: str, value: object, also: str = "") -> None:
    """Raise ConfigError unless *value* can name something in a database; *also* says what else is accepted."""
    accepted = f"expected 1 to {MOST_NAME_BYTES} bytes (UTF-8, without NUL){also}"
    if not isinstance(value, str):
        raise ConfigError(parameter, value, f"{accepted}; a string, such as {parameter}={str(value)!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MOST_NAME_BYTES or "\0" in value:
        shown = value if size <= MOST_NAME_BYTES else f"{value[:40]}... ({size} bytes)"
        raise ConfigError(parameter, shown, accepted)


DISCARD = "discard"
"""The reset by which a connection forgets all that a session has set."""


def check_reset(value: object) -> None:
    """Raise ConfigError unless *value* is None, callable or "discard"."""
    if not (value is None or callable(value) or value == DISCARD):
        raise ConfigError("reset", value, f"expected a callable, {DISCARD!r} or None")


_TELLING = re.compile(r"(?i)passw(or)?d|passphrase|pwd|secret|token|key")
"""What is in the name of a setting that may hold a secret."""
_SETTING = re.compile(r"_*[A-Za-z][A-Za-z0-9_$]*(\._*[A-Za-z][A-Za-z0-9_$]*)*")
# The server splits the options at any white space of C's isspace(); a backslash takes the next character as it is
# (pg_split_opts).
_SPLITTING = re.compile(r"[ \t\n\v\f\r\\]")
_MOST_OPTION_BYTES = 8000
"""A startup packet has at most 10,000 (MAX_STARTUP_PACKET_LENGTH)."""


def startup_options(settings: Mapping[str, Any]) -> str:
    """Return server settings as libpq's ``options`` wants them.

    Raises:
        ConfigError: a name or a value cannot be sent so that it arrives as given.
    """
    text = " ".join(f"-c {name}={_setting(name, value)}" for name, value in settings.items())
    if len(text.encode()) > _MOST_OPTION_BYTES:
        accepted = f"expected at most {_MOST_OPTION_BYTES} bytes of settings in all; use configure= for more"
        raise ConfigError("settings", f"{len(text.encode())} bytes", accepted)
    return text


def join_options(given: str | None, settings: str) -> str:
    """Return the ``options`` of a DSN with settings after them, which win."""
    if not given:
        return settings
    if (len(given) - len(given.rstrip("\\"))) % 2:
        given = given[:-1]  # it would take the blank that follows for a part of its value
    return f"{given} {settings}"


def _setting(name: str, value: object) -> str:
    if not _SETTING.fullmatch(name):
        raise ConfigError("settings", name, "expected names of server settings, as in SHOW")
    match value:
        case bool():
            text = "on" if value else "off"
        case int():
            text = int.__repr__(value)
        case float() if math.isfinite(value):
            text = float.__repr__(value)
        case str() if "\0" not in value and value == value.encode(errors="ignore").decode():
            text = str.__str__(value)
        case _:
            accepted = "expected a str without NUL and lone surrogates, a bool or a finite number"
            raise ConfigError(f"settings[{name!r}]", value, accepted, secret=bool(_TELLING.search(name)))
    return _SPLITTING.sub(r"\\\g<0>", text)


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The pool of one role, per host.

    Args:
        min_size: connections kept open to each host that serves the role; a new pool starts with one.
        max_size: connections at most, to each host.
        max_idle: seconds; once in each such period one connection beyond min_size is closed, if it was not needed.
        max_lifetime: seconds after which a connection is replaced when it comes back.
        max_waiting: callers that may queue at a host, 0 for any number; one more goes to another host, or gets
            PoolExhausted at once.
        read_only: sessions are read-only, on the server too; None: as the role says (readers are, writers are not).
            True is refused for writers.
        kwargs: for psycopg.connect, over those of the router: libpq parameters, and autocommit, prepare_threshold,
            context, row_factory, cursor_factory.
        settings: server settings for each session, by name (``{"statement_timeout": "5s"}``), passed as libpq's
            options when it connects. Values are str, bool or numbers.
        configure: called with each new connection before its first use, over the router's; a coroutine function for
            an AsyncRouter. It must not leave a transaction open.
        reset: called with each connection that comes back, over the router's; likewise. It takes its time from the
            caller who returns the connection. "discard": ``DISCARD ALL``, so that nothing that a session has set (SET,
            SET ROLE, LISTEN, temporary tables, advisory locks, prepared statements) reaches the next one; *configure*
            is called again after it.

    Raises:
        ConfigError: a value is of the wrong kind or out of range.
    """

    min_size: int = 1
    max_size: int = 10
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    max_waiting: int = 0
    read_only: bool | None = None
    kwargs: Mapping[str, Any] | None = field(default=None, repr=False)
    settings: Mapping[str, Any] | None = field(default=None, repr=False)
    configure: Callable[[Any], Any] | None = None
    reset: Callable[[Any], Any] | Literal["discard"] | None = None

    def __post_init__(self) -> None:
        check_integer("min_size", self.min_size, low=0)
        check_integer("max_size", self.max_size, low=1)
        if self.max_size < self.min_size:
            raise ConfigError(
                "max_size", self.max_size, f"expected at least min_size, which is {self.min_size}"
            )
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


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """The watch on the hosts.

    Args:
        interval: seconds between two probes of a host while a primary is known, at least 0.01.
        timeout: seconds for one probe, or for connecting, at least 0.01; one timeout makes a host suspect, two in a row
            make it down.
        abort_after: seconds without an answer after which sessions in flight at a host are aborted when another
            serves their role (at once when a primary on a higher timeline is there); None: never.
        abort_stale: also abort sessions in flight at an old primary that still answers.
        check_system_id: refuse hosts that belong to another cluster.
        system_id: the cluster's system identifier (``SELECT system_identifier FROM pg_control_system()``), to pin it: a
            host that tells another one, or none, never serves. None: learned from the majority.
        min_ttl: seconds for which what a name was found to stand for holds at least, whatever its record says; at least
            0.1.
        max_ttl: seconds for which it holds at most; also where the resolver tells no time ("system").
        lookup_timeout: seconds for one lookup of a name, at least 0.01.
        kwargs: for the connections of the watch, over those of the router: libpq parameters, such as a ``user`` of its
            own with its ``password``. Behind a pooler that user has a pool of its own, which sessions cannot fill. What
            the watch then finds, a refused login or a read-only default of the user, is no word about the sessions'.

    Raises:
        ConfigError: a value is of the wrong kind or out of range.
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
        for name in ("abort_stale", "check_system_id"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, getattr(self, name), "expected True or False")
        if self.system_id is not None:
            check_integer("system_id", self.system_id, low=1)
            if not self.check_system_id:
                raise ConfigError("system_id", self.system_id, "expected None where check_system_id is False")


@discreetly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What is particular to one host.

    Args:
        weight: its share under balance="random", relative to the others; 0: only when no other can serve.

    Raises:
        ConfigError: the weight is not a number of at least 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
