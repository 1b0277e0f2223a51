"""Host names, host roles, session roles, and the session attributes that a host satisfies."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.spelling import is_one_of
from pgroute.errors import ConfigError


class HostKey(NamedTuple):
    """Identifies a host; as text, "host:port".

    Attributes:
        host: the name, address or socket directory in the DSN; empty if the DSN gives only an address.
        port: the port.
        hostaddr: the IP address in the DSN; None if it gives none.
    """

    host: str
    port: int
    hostaddr: str | None = None

    @property
    def is_socket(self) -> bool:
        """Whether this is a Unix socket: a directory, or an abstract name (libpq: ``is_absolute_path``, ``@``)."""
        return not self.hostaddr and self.host[:1] in ("/", "@")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if not self.hostaddr or self.hostaddr == self.host:
            return f"{host}:{self.port}"
        if not host:
            return (
                f"[{self.hostaddr}]:{self.port}" if ":" in self.hostaddr else f"{self.hostaddr}:{self.port}"
            )
        return f"{host}:{self.port} ({self.hostaddr})"


class HostRole(enum.Enum):
    """The role of a host, from ``pg_is_in_recovery()``.

    Attributes:
        PRIMARY: it is not in recovery.
        STANDBY: it is in recovery.
    """

    PRIMARY = "primary"
    STANDBY = "standby"


class Role(enum.Enum):
    """The purpose of a session; each role has its own pools.

    Attributes:
        WRITER: reading and writing, on the primary.
        READER: reading only, on a standby if there is one.
    """

    if not TYPE_CHECKING:
        # The hash of enum.Enum is a Python function: too slow for a lookup in each session, and another thread may run
        # within it, so that counts by role, which are kept without a lock, would get lost.
        __hash__ = object.__hash__

    WRITER = "writer"
    READER = "reader"

    @classmethod
    def parse(cls, value: object, parameter: str = "role") -> Role:
        """Return the role named *value*; ConfigError for anything but ``writer`` and ``reader``."""
        if isinstance(value, cls):
            return value
        if is_one_of(value, "writer", "reader"):
            return cls(value)
        raise ConfigError(parameter, value, "expected 'writer' or 'reader'")


class SessionAttrs(enum.Enum):
    """The six values of libpq's ``target_session_attrs`` (PostgreSQL docs, 32.1.2).

    Attributes:
        ANY: every usable host.
        READ_WRITE: a primary that is not read-only by default.
        PRIMARY: a primary.
        READ_ONLY: a standby, or a primary that is read-only by default.
        STANDBY: a standby.
        PREFER_STANDBY: a standby; if there is none, any usable host.
    """

    ANY = "any"
    READ_WRITE = "read-write"
    PRIMARY = "primary"
    READ_ONLY = "read-only"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"

    if not TYPE_CHECKING:
        __hash__ = object.__hash__

    @classmethod
    def parse(cls, value: object, parameter: str = "target_session_attrs") -> SessionAttrs:
        """Return the member with this value; case matters, as in libpq.

        Raises:
            ConfigError: *value* is not one of the six.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            for member in cls:
                if member.value == value:
                    return member
        raise ConfigError(parameter, value, "expected one of " + ", ".join(repr(m.value) for m in cls))

    def accepts(self, role: HostRole, *, read_only: bool) -> bool:
        """Return True if a host may serve such a session.

        ``prefer-standby`` accepts every host, because its preference is an order and not a filter.

        Args:
            role: the role of the host.
            read_only: a new session there would be read-only by default.
        """
        match self:
            case SessionAttrs.READ_WRITE:
                return role is HostRole.PRIMARY and not read_only
            case SessionAttrs.PRIMARY:
                return role is HostRole.PRIMARY
            case SessionAttrs.READ_ONLY:
                return role is HostRole.STANDBY or read_only
            case SessionAttrs.STANDBY:
                return role is HostRole.STANDBY
            case _:
                return True

    @property
    def pool(self) -> Role:
        """The role whose pool serves such a session."""
        if self in (SessionAttrs.ANY, SessionAttrs.READ_WRITE, SessionAttrs.PRIMARY):
            return Role.WRITER
        return Role.READER
