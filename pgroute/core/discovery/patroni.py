"""Reads an answer of Patroni's ``GET /cluster`` (Patroni docs, REST API; patroni/utils.py, cluster_as_json)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgroute.core.discovery.report import (
    LONGEST_NAME,
    MOST_MEMBERS,
    Malformed,
    Member,
    Report,
    Switchover,
    reach,
)
from pgroute.core.model.advice import HostAdvice
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.config.discovery import PatroniDiscovery

_DEFAULT_PORT = 5432
_LONGEST_ZONE = 63
_MOST_LAG = 1 << 63


def read_cluster(body: bytes, options: PatroniDiscovery) -> Report:
    """Return the report in the body of an answer.

    Args:
        body: the body.
        options: give the tag of the zone, and where members are reached.

    Raises:
        Malformed: it is none that Patroni gives.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Malformed("not a JSON object")
    listed = told.get("members")
    if not isinstance(listed, list) or not listed:
        raise Malformed("it lists no members")
    if len(listed) > MOST_MEMBERS:
        raise Malformed(f"it lists {len(listed)} members, more than the {MOST_MEMBERS} accepted")
    members = {member.name: member for member in _members(listed, options)}
    if len(members) < len(listed):
        raise Malformed("two members have the same name")
    return Report(
        scope=_text(told, "scope"),
        members=tuple(members[name] for name in sorted(members)),
        paused=told.get("pause") is True,
        switchover=_switchover(told.get("scheduled_switchover")),
    )


def _members(listed: list[object], options: PatroniDiscovery) -> list[Member]:
    """Return the members. One that cannot be read has no place, and the others count."""
    found, errors = [], []
    for number, told in enumerate(listed, 1):
        if not isinstance(told, dict):
            raise Malformed("a member is not a JSON object")
        try:
            found.append(_member(told, options))
        except Malformed as exc:
            name = told.get("name")
            known = printable(name, LONGEST_NAME) if isinstance(name, str) else ""
            found.append(Member(HostAdvice(member=known or f"number {number}"), None, str(exc), unread=True))
            errors.append(str(exc))
    if len(errors) == len(listed):
        raise Malformed(f"none of its members can be read: {errors[0]}")
    return found


def _member(told: Mapping[str, Any], options: PatroniDiscovery) -> Member:
    name = _text(told, "name")
    if not name:
        raise Malformed("it has no name")
    port = _DEFAULT_PORT if told.get("port") is None else told["port"]
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise Malformed("'port' is no number from 1 to 65535")
    tags = {} if told.get("tags") is None else told["tags"]
    if not isinstance(tags, dict):
        raise Malformed("'tags' are not a JSON object")
    advice = HostAdvice(
        member=name,
        role=_text(told, "role"),
        state=_text(told, "state"),
        no_reads=bool(tags.get("noloadbalance")),  # to Patroni, any text is a yes
        no_failover=_no_failover(tags),
        zone=_zone(tags.get(options.zone_tag) if options.zone_tag else None),
        lag_bytes=_lag(told),
    )
    return reach(advice, _text(told, "host"), port, options.hosts)


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{key!r} is not a text")
    return printable(value, LONGEST_NAME)


def _no_failover(tags: Mapping[str, Any]) -> bool:
    """Return whether a member is never the next primary (patroni/tags.py).

    A ``failover_priority`` of 0 or less says so too, but only without a ``nofailover``. It may be a text.
    """
    if tags.get("nofailover") is not None:
        return bool(tags["nofailover"])
    priority = tags.get("failover_priority")
    if isinstance(priority, bool) or not isinstance(priority, (str, int, float)):
        return False
    try:
        return round(float(priority)) <= 0
    except (ValueError, OverflowError):
        return False


def _zone(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return printable(str(value), _LONGEST_ZONE)


def _lag(told: Mapping[str, Any]) -> int | None:
    """Return the lag: of what is replayed if Patroni says so (4.0), else of what is received. A text is "unknown"."""
    for key in ("replay_lag", "lag"):
        value = told.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_LAG:
            return value
    return None


def _switchover(told: object) -> Switchover | None:
    if told is None:
        return None
    if not isinstance(told, dict):
        return Switchover(None, why="it is not a JSON object")
    try:
        leader, candidate, text = (_text(told, key) for key in ("from", "to", "at"))
    except Malformed as exc:
        return Switchover(None, why=str(exc))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        return Switchover(None, leader, candidate, f"{text!r} is no time with a time zone")
    return Switchover(at.timestamp(), leader, candidate)
