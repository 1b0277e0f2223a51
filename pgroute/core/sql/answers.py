"""Reads the answers to probes and checks strictly: an impossible value makes the whole answer a failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from collections.abc import Sequence

Value = bytes | None

_POSITION = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")
_WAL_FILE = re.compile(r"([0-9A-F]{8})[0-9A-F]{16}")
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_DURATION = re.compile(r"([0-9]{1,9})(us|ms|s|min|h|d)?")
_UNITS = {"us": 1e-6, None: 1e-3, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PAGE = 8192
_PAGE_HEADERS = (24, 40)
_BIGINT = (-(2**63), 2**63 - 1)
_TIMELINE = (1, 2**31 - 1)
_SLOTS = (1, 2**31 - 1)
_MICROSECONDS = (0, 253_402_300_800_000_000)
"""Of the start of a server: up to the year 9999."""


class Malformed(ValueError):
    """An answer that no PostgreSQL server gives; the text says what is wrong and quotes nothing of it."""


class ProbeValues(NamedTuple):
    """The values of a whole probe, as in `Answer`.

    Attributes:
        writer_delay: seconds of ``wal_writer_delay``; 0.0 if not reported.
        defaults: the settings that a new session would get. If they change, the probe needs a new connection.
    """

    role: HostRole
    read_only: bool
    timeline: int | None
    lsn: int | None
    flushed: int | None
    replayed: int | None
    writer_delay: float
    system_id: int | None
    started_at: float | None
    defaults: bytes


def read_probe(row: Sequence[Value]) -> ProbeValues:
    """Read the eleven values of a whole probe.

    Raises:
        Malformed: a value is impossible.
    """
    (recovering, read_only, wal_file, standby, inserted, flushed, replayed, delay, *others) = _columns(
        row, 11
    )
    system_id, started, defaults = others
    role = _role(recovering)
    primary = role is HostRole.PRIMARY
    start_us = _integer("start", started, _MICROSECONDS)
    return ProbeValues(
        role,
        _switch("default_transaction_read_only", read_only),
        _timeline_of_file(wal_file) if primary else _integer("timeline", standby, _TIMELINE),
        _inserted(inserted) if primary else _position(replayed),
        _position(flushed) if primary else None,
        _position(replayed) if primary else None,
        _duration(delay),
        _integer("system identifier", system_id, _BIGINT),
        None if start_us is None else start_us / 1e6,
        defaults or b"",
    )


def read_shown(row: Sequence[Value]) -> HostRole:
    """Read the one value of ``SHOW in_hot_standby``, or of ``SHOW transaction_read_only``."""
    (shown,) = _columns(row, 1)
    return HostRole.STANDBY if _switch("the setting shown", shown) else HostRole.PRIMARY


def read_check(row: Sequence[Value]) -> tuple[HostRole, int | None, int | None, int | None]:
    """Read the values of a connection's check: role, system identifier, timeline of a primary, max_connections."""
    recovering, system_id, wal_file, slots = _columns(row, 4)
    return (
        _role(recovering),
        _integer("system identifier", system_id, _BIGINT),
        _timeline_of_file(wal_file),
        _integer("max_connections", slots, _SLOTS),
    )


def read_progress(row: Sequence[Value]) -> tuple[HostRole, int | None, int | None]:
    """Read how far a server is: its role, its timeline, and its position."""
    recovering, standby, lsn, wal_file = _columns(row, 4)
    role = _role(recovering)
    if role is HostRole.PRIMARY:
        return role, _timeline_of_file(wal_file), _inserted(lsn)
    return role, _integer("timeline", standby, _TIMELINE), _position(lsn)


def _columns(row: Sequence[Value], count: int) -> Sequence[Value]:
    if len(row) != count:
        raise Malformed(f"{len(row)} columns instead of {count}")
    return row


def _role(recovering: Value) -> HostRole:
    if recovering not in (b"t", b"f"):
        raise Malformed("its recovery state is neither true nor false")
    return HostRole.STANDBY if recovering == b"t" else HostRole.PRIMARY


def _switch(name: str, value: Value) -> bool:
    if value not in (b"on", b"off"):
        raise Malformed(f"{name} is neither on nor off")
    return value == b"on"


def _integer(name: str, value: Value, bounds: tuple[int, int]) -> int | None:
    if value is None:
        return None
    low, high = bounds
    match = _INTEGER.fullmatch(_text(value))
    if match is None or not low <= int(match[0]) <= high:
        raise Malformed(f"its {name} is no whole number from {low} to {high}")
    return int(match[0])


def _timeline_of_file(value: Value) -> int | None:
    """Return the timeline in the name of a WAL file."""
    if value is None:
        return None
    match = _WAL_FILE.fullmatch(_text(value))
    if match is None or int(match[1], 16) == 0:
        raise Malformed("the name of its WAL file is none")
    return int(match[1], 16)


def _position(value: Value) -> int | None:
    """Return a WAL position in bytes; PostgreSQL prints it as two hexadecimal numbers."""
    if value is None:
        return None
    match = _POSITION.fullmatch(_text(value))
    if match is None:
        raise Malformed("its WAL position is none")
    return int(match[1], 16) << 32 | int(match[2], 16)


def _inserted(value: Value) -> int | None:
    """Return a primary's insert position; just behind the header of a page it is the end of the page before.

    No record begins in a header (24 bytes, 40 in the first page of a file), so nothing is inserted there. A standby
    tells the end of the last record that it has replayed, and would be behind for as long as nothing follows: after
    pg_switch_wal(), say.
    """
    lsn = _position(value)
    if lsn is not None and lsn % _PAGE in _PAGE_HEADERS:
        lsn -= lsn % _PAGE
    return lsn


def _duration(value: Value) -> float:
    """Return the seconds of a setting as current_setting() prints it."""
    if value is None:
        return 0.0
    match = _DURATION.fullmatch(_text(value))
    if match is None:
        raise Malformed("its wal_writer_delay is no duration")
    return int(match[1]) * _UNITS[match[2]]


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")
