"""From the facts of an exception to what it says of the host and of the transaction."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from pgroute.core.faults import translations
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection


class FaultKind(enum.Enum):
    """What went wrong, in the terms the router decides by."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNRESOLVED = "unresolved"
    STARTING = "starting"
    BUSY = "busy"
    REJECTED = "rejected"
    LOST = "lost"
    READ_ONLY = "read-only"
    SERIALIZATION = "serialization"
    DEADLOCK = "deadlock"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Fault:
    """The router's reading of one exception.

    Attributes:
        kind: what went wrong.
        host_suspect: the host should be probed at once.
        fresh: the probe must use a fresh connection, since an open one cannot show it.
        rerun_safe: the transaction was certainly not committed.
        commit_unknown: it may have been committed.
        shut: the server itself lets nobody in, for it starts or stops.
        reason: one line for a person, free of secrets, and printable whatever was given.
    """

    kind: FaultKind
    host_suspect: bool = False
    fresh: bool = False
    rerun_safe: bool = False
    commit_unknown: bool = False
    shut: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))


# psycopg gives no SQLSTATE for a failed connect, so the text has to tell, in the server's language. An unknown text
# from the server counts as a rejection, which is the slowest to be tried again. PgBouncer repeats what its server said,
# with or without words around it; if it did not reach the server, it has its own words for that, or none.
_UNREACHED = r"connect failed|cannot connect|connect timeout|server DNS lookup failed|server conn crashed\?|server down"
_SHUT = re.compile(
    "|".join(
        (
            r"database system is (?:starting up|shutting down|not yet accepting|not accepting|in recovery mode)",
            r"cannot connect now|(?:pgbouncer is|pooler is|server) shutting down",
            *translations.STARTING,
        )
    )
)
_NOBODY_BEHIND = re.compile(
    rf"cached error: (?:{_UNREACHED})? \(server_login_retry\)|try again later \(server_login_retry\)|\(server down\)"
    r"|pgbouncer cannot connect to server"
)
_BUSY = re.compile(
    "|".join(
        (
            r"too many (?:clients|connections)|remaining connection slots|no more connections allowed",
            r"client connections exceeded",
            r"number of requested standby connections exceeds",
            *translations.BUSY,
        )
    )
)
_REJECTED = re.compile(
    r"no password supplied|SSL|TLS|certificate|authentication|channel binding|GSS|private key|sslmode",
)
# The network's words, TLS or not, where the server went away in the middle.
_CUT = re.compile(r"SYSCALL error|unexpected eof|closed unexpectedly|[Cc]onnection reset|Broken pipe")
_UNRESOLVED = re.compile(
    r"failed to resolve host|could not translate host name|Name or service not known|nodename nor servname"
)
# libpq prints what the server said as "SEVERITY:  text", the severity in the server's language: "ÖLÜMCÜL (FATAL)" in
# Turkish. It has no quotes; those are around names, which may contain anything.
_SERVER_SAID = re.compile(r"(?:failed: |^)[^:\n\"']+:  (?P<text>.*)", re.DOTALL)
# Poolers that take no ``options``: PgBouncer ("unsupported startup parameter"), RDS Proxy ("command-line options").
_OPTIONS = re.compile(r"startup parameter|\boptions?\b")
# What a server says of a login names its subject, in every language. The bound keeps a text of opening quotes from
# being read to its end for each of them.
_QUOTED = re.compile(
    r"(?<!\w)[\"'«»„\u201c\u2018][\s\u00a0\u202f]?([^\n]{0,128}?)[\s\u00a0\u202f]?[\"'«»\u201c\u201d\u2019]"
)
_PREFIX = re.compile(
    r"(?m)^(?:connection failed: |connection is bad: )?(?:connection to server [^\n]*?failed: )?"
)

_MOST_TEXT = 8192


def one_line(text: str | bytes) -> str:
    """Return the first line of libpq's text, printable, without the words that every such text begins with."""
    text = text[:_MOST_TEXT]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return printable(_PREFIX.sub("", text.strip()).split("\n", 1)[0]) or "no reason given"


def connect_fault(exc: BaseException) -> Fault:
    """Read a failed connection attempt (psycopg: the exception's class and libpq's text)."""
    if isinstance(exc, (psycopg.errors.ConnectionTimeout, TimeoutError)):
        return Fault(FaultKind.TIMEOUT, host_suspect=True, rerun_safe=True, reason="connecting timed out")
    text = str(exc)[:_MOST_TEXT]
    # The names of hosts and users are not part of what went wrong.
    words = _PREFIX.sub("", text.strip())
    said = _SERVER_SAID.search(text)
    shut = said is not None and _SHUT.search(said["text"]) is not None
    if said:
        if shut or _NOBODY_BEHIND.search(said["text"]):
            kind = FaultKind.STARTING
        elif _BUSY.search(said["text"]):
            kind = FaultKind.BUSY
        else:
            kind = FaultKind.REJECTED
    elif _UNRESOLVED.search(words):
        kind = FaultKind.UNRESOLVED
    elif "timeout expired" in words:
        kind = FaultKind.TIMEOUT
    elif _REJECTED.search(words) and not _CUT.search(words):
        kind = FaultKind.REJECTED
    elif isinstance(exc, psycopg.OperationalError):
        kind = FaultKind.REFUSED
    else:
        # Not a matter of the network: a parameter that psycopg or libpq refuses.
        kind = FaultKind.REJECTED
    return Fault(kind, host_suspect=True, rerun_safe=True, shut=shut, reason=one_line(text))


def options_refused(exc: psycopg.Error, *, names: Collection[str]) -> bool | None:
    """Return whether a login was refused for the ``options`` that it carried, None if the text does not tell.

    Args:
        exc: why it failed.
        names: of its user and database; a refusal that quotes one of them is about that.
    """
    said = _SERVER_SAID.search(str(exc)[:_MOST_TEXT])
    if said is None or connect_fault(exc).kind is not FaultKind.REJECTED:
        return False
    words = _QUOTED.sub("", said["text"])
    if "pg_hba.conf" in words or _REJECTED.search(words):
        return False
    if _OPTIONS.search(words):
        return True
    return False if any(quoted in names for quoted in _QUOTED.findall(said["text"])) else None


_LOST_STATES = frozenset({"57P01", "57P02", "57P03"})


def session_fault(
    exc: BaseException, *, closed: bool, committing: bool = False, read_write: bool = False
) -> Fault:
    """Read an exception raised in a session.

    Args:
        exc: what was raised.
        closed: whether the connection is closed now (40001 and others come as ERROR or as FATAL).
        committing: whether a COMMIT that may have written was on its way.
        read_write: whether the session was asked for as read-write.
    """
    sqlstate = getattr(exc, "sqlstate", None) or ""
    reason = one_line(str(exc)) if isinstance(exc, psycopg.Error) else type(exc).__name__
    if closed:
        kind = {"40001": FaultKind.SERIALIZATION, "40P01": FaultKind.DEADLOCK}.get(sqlstate, FaultKind.LOST)
        return Fault(
            kind,
            host_suspect=True,
            fresh=sqlstate.startswith("08"),
            rerun_safe=not committing,
            commit_unknown=committing,
            reason=reason,
        )
    if sqlstate == "25006":
        return Fault(
            FaultKind.READ_ONLY,
            host_suspect=read_write,
            fresh=read_write,
            rerun_safe=read_write,
            reason=reason,
        )
    if sqlstate == "40001":
        return Fault(FaultKind.SERIALIZATION, rerun_safe=True, reason=reason)
    if sqlstate == "40P01":
        return Fault(FaultKind.DEADLOCK, rerun_safe=True, reason=reason)
    if sqlstate in _LOST_STATES or sqlstate.startswith("08"):
        return Fault(FaultKind.LOST, host_suspect=True, fresh=sqlstate.startswith("08"), reason=reason)
    return Fault(FaultKind.OTHER, reason=reason)
