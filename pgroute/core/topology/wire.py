"""The messages by which processes share one watch: values to bytes and back, of which none is trusted."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostRole
from pgroute.core.printable import MOST, printable
from pgroute.core.topology.observations import Answer, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.model.roles import HostKey

WIRE_FORMAT = 1
"""The version of the messages. Only processes with the same one, of the same pgroute, meet."""

MOST_BYTES = 16_384
"""The longest message. The longest text has `printable.MOST` characters, each of at most twelve bytes."""

_LONGEST = 1e9
"""Seconds, as for the options: the longest interval and timeout, and the longest time since the machine's start."""


class BadMessage(ValueError):
    """The message is none that pgroute sends; the text quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one process requires of the watch of a host.

    Attributes:
        interval: seconds from one probe to the next while there is no outage.
        timeout: seconds for one probe, or for connecting.
        outage_since: monotonic seconds since when it knows of no primary; None: there is one, or none is expected.
        slots: max_connections of the servers.
    """

    interval: float
    timeout: float
    outage_since: float | None = None
    slots: int = 100


@dataclass(frozen=True, slots=True)
class Enter:
    """A process wants to be told of a watch: its first message.

    Attributes:
        watch: which watch.
        need: what it requires.
    """

    watch: str
    need: Need


@dataclass(frozen=True, slots=True)
class Ask:
    """A process needs a probe that is sent after this time.

    Attributes:
        since: monotonic seconds.
        fresh: on a new connection.
    """

    since: float
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The host has refused a login of the process's pools."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The watching process tells another one from now on: its first message.

    Attributes:
        watch: which watch.
    """

    watch: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The watching process lives.

    Attributes:
        linked: its connection to the host is open.
    """

    linked: bool


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on a host that is up; an empty text removes it."""

    text: str


Message = Answer | Failure | Need | Enter | Ask | Refused | Welcome | Beat | Note


def _flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise BadMessage("no truth value")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > MOST:
        raise BadMessage("no text, or one that is too long")
    return value


def _text(value: Any) -> str:
    return printable(_name(value))


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise BadMessage("no whole number, or one out of range")
        return value

    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise BadMessage("no number, or one out of range")
        return float(value)

    return check


def _member(kind: type[Enum]) -> Callable[[Any], Enum]:
    by_value = {member.value: member for member in kind}

    def check(value: Any) -> Enum:
        if type(value) is not str or value not in by_value:
            raise BadMessage("an unknown value")
        return by_value[value]

    return check


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


_TIME = _number(0.0, _LONGEST)
_PERIOD = _number(1e-3, _LONGEST)
_POSITION = _optional(_integer(0, 2**64 - 1))
_COUNT = _integer(0, 2**31 - 1)

_NEED = {
    "interval": _PERIOD,
    "timeout": _PERIOD,
    "outage_since": _optional(_TIME),
    "slots": _COUNT,
}
_FAULT = {
    "kind": _member(FaultKind),
    "host_suspect": _flag,
    "fresh": _flag,
    "rerun_safe": _flag,
    "commit_unknown": _flag,
    "shut": _flag,
    "reason": _text,
    "time_limit": _text,
}
_ANSWER = {
    "role": _member(HostRole),
    "sent_at": _TIME,
    "read_only": _flag,
    "timeline": _optional(_integer(1, 2**32 - 1)),
    "lsn": _POSITION,
    "flushed": _POSITION,
    "replayed": _POSITION,
    "flush_delay": _number(0.0, 1e15),
    "system_id": _optional(_integer(-(2**63), 2**63 - 1)),
    "started_at": _optional(_number(0.0, 1e12)),
    "address": _optional(_name),
    "rtt": _TIME,
    "fresh": _flag,
    "server_version": _COUNT,
    "reduced": _text,
}


def _nested(kind: type[Any], checks: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    return lambda value: _made(kind, checks, value)


_KINDS: Mapping[str, tuple[type[Any], Mapping[str, Callable[[Any], Any]]]] = {
    "answer": (Answer, _ANSWER),
    "failure": (
        Failure,
        {"fault": _nested(Fault, _FAULT), "sent_at": _TIME, "linked": _flag},
    ),
    "need": (Need, _NEED),
    "enter": (Enter, {"watch": _text, "need": _nested(Need, _NEED)}),
    "ask": (Ask, {"since": _TIME, "fresh": _flag}),
    "refused": (Refused, {}),
    "welcome": (Welcome, {"watch": _text}),
    "beat": (Beat, {"linked": _flag}),
    "note": (Note, {"text": _text}),
}
_NAMES = {kind: name for name, (kind, _) in _KINDS.items()}
_DEFAULTS: Mapping[type[Any], Mapping[str, Any]] = {
    kind: {f.name: f.default for f in fields(kind) if f.default is not MISSING} for kind in (*_NAMES, Fault)
}


def encode(message: Message) -> bytes:
    """Return a message as bytes; the host of an observation is left out, as a watch is of one host."""
    return json.dumps(
        [_NAMES[type(message)], _told(message)], allow_nan=False, separators=(",", ":")
    ).encode()


def _told(value: Any) -> dict[str, Any]:
    defaults = _DEFAULTS[type(value)]
    told = {}
    for f in fields(value):
        inner = getattr(value, f.name)
        if f.name == "host" or (f.name in defaults and inner == defaults[f.name]):
            continue
        if isinstance(inner, Enum):
            inner = inner.value
        elif type(inner) in (Fault, Need):
            inner = _told(inner)
        elif isinstance(inner, str) and f.name != "address":
            inner = printable(inner)
        told[f.name] = inner
    return told


def decode(data: bytes, host: HostKey) -> Message:
    """Return the message; an observation is one of *host*.

    Raises:
        BadMessage: it is none.
    """
    if len(data) > MOST_BYTES:
        raise BadMessage("too long")
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadMessage("no JSON") from None
    if type(value) is not list or len(value) != 2 or type(value[0]) is not str or value[0] not in _KINDS:
        raise BadMessage("of no known kind")
    kind, checks = _KINDS[value[0]]
    extra = {"host": host} if kind in (Answer, Failure) else {}
    made: Message = _made(kind, checks, value[1], extra)
    return made


def _made(
    kind: type[Any],
    checks: Mapping[str, Callable[[Any], Any]],
    value: Any,
    extra: Mapping[str, Any] | None = None,
) -> Any:
    if type(value) is not dict or not value.keys() <= checks.keys():
        raise BadMessage("has unknown values")
    if not checks.keys() <= value.keys() | _DEFAULTS[kind].keys():
        raise BadMessage("lacks values")
    return kind(**(extra or {}), **{name: checks[name](inner) for name, inner in value.items()})


def _no_constant(_: str) -> float:
    raise BadMessage("a number that is none")
