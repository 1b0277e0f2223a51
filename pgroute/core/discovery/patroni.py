"""Reads an answer of Patroni's ``GET /cluster`` (Patroni docs, REST API; patroni/utils.py, cluster_as_json)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgroute.core.discovery.report import LONGEST_NAME, MOST_MEMBERS, Malformed, Report, Switchover, reach
from pgroute.core.model.advice import HostAdvice
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.config.discovery import PatroniDiscovery
    from pgroute.core.discovery.report import Member

_DEFAULT_PORT = 5432
_TRUE = frozenset({"true", "yes", "on", "1"})
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
    members = {member.name: member for member in (_member(each, options) for each in listed)}
    if len(members) < len(listed):
        raise Malformed("two members have the same name")
    return Report(
        scope=_text(told, "scope"),
        members=tuple(members[name] for name in sorted(members)),
        paused=told.get("pause") is True,
        switchover=_switchover(told.get("scheduled_switchover")),
    )


def _member(told: object, options: PatroniDiscovery) -> Member:
    if not isinstance(told, dict):
        raise Malformed("a member is not a JSON object")
    name = _text(told, "name")
    if not name:
        raise Malformed("a member has no name")
    port = told.get("port", _DEFAULT_PORT)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise Malformed(f"the port of {name} is not a port")
    tags = told.get("tags", {})
    if not isinstance(tags, dict):
        raise Malformed(f"the tags of {name} are not a JSON object")
    advice = HostAdvice(
        member=name,
        role=_text(told, "role"),
        state=_text(told, "state"),
        no_reads=_flag(tags, "noloadbalance"),
        no_failover=_flag(tags, "nofailover") or _never_next(tags),
        zone=_zone(tags.get(options.zone_tag) if options.zone_tag else None),
        lag_bytes=_lag(told),
    )
    return reach(advice, _text(told, "host"), port, options.hosts)


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key, "")
    if not isinstance(value, str):
        raise Malformed(f"{key!r} is not a text")
    return printable(value, LONGEST_NAME)


def _flag(tags: Mapping[str, Any], name: str) -> bool:
    value = tags.get(name)
    return value is True or (isinstance(value, (str, int)) and str(value).lower() in _TRUE)


def _never_next(tags: Mapping[str, Any]) -> bool:
    """Return True for a ``failover_priority`` of 0, which means the same as ``nofailover`` (Patroni docs, tags)."""
    priority = tags.get("failover_priority")
    return isinstance(priority, int) and not isinstance(priority, bool) and priority <= 0


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
        raise Malformed("the scheduled switchover is not a JSON object")
    try:
        at = datetime.fromisoformat(_text(told, "at"))
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Malformed("the time of the scheduled switchover is none with a time zone")
    return Switchover(at.timestamp(), _text(told, "from"), _text(told, "to"))
