"""Classifies exceptions: what they mean for the host and for the transaction."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

import psycopg

from pgroute.core.faults import translations
from pgroute.core.late_dataclass import dataclass
from pgroute.core.late_pattern import LatePattern
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection


class FaultKind(enum.Enum):
    """The kinds of faults that the router distinguishes."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNRESOLVED = "unresolved"
    STARTING = "starting"
    BUSY = "busy"
    REJECTED = "rejected"
    NO_CREDENTIALS = "no credentials"
    SHORTAGE = "shortage"
    LOST = "lost"
    READ_ONLY = "read-only"
    SERIALIZATION = "serialization"
    DEADLOCK = "deadlock"
    OTHER = "other"


SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
"""The error numbers that tell of a shortage in this process or machine."""

NOT_TRIED = frozenset({FaultKind.NO_CREDENTIALS, FaultKind.SHORTAGE})
"""Nothing was asked of the host: the credentials function gave none, or this process could not open a connection."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The meaning of one exception.

    Attributes:
        kind: what went wrong.
        host_suspect: the host should be probed at once.
        fresh: the probe must use a new connection, because an open one would not show the fault.
        rerun_safe: the transaction was certainly not committed.
        commit_unknown: it may have been committed.
        shut: the server itself refuses everybody, because it is starting or stopping.
        time_limit: the setting with which the server has ended a transaction that took too long; empty: it has not.
        reason: one printable line for people, without secrets.
    """

    kind: FaultKind
    host_suspect: bool = False
    fresh: bool = False
    rerun_safe: bool = False
    commit_unknown: bool = False
    shut: bool = False
    time_limit: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))


# psycopg gives no SQLSTATE for a failed connection attempt, so the text decides, in the language of the server. An
# unknown text from the server counts as a rejection, which is retried most slowly. PgBouncer repeats the message of its
# server, with or without words around it; if it did not reach the server, it has its own words for that, or none.
_UNREACHED = r"connect failed|cannot connect|connect timeout|server DNS lookup failed|server conn crashed\?|server down"
_SHUT = LatePattern(
    "|".join(
        (
            r"database system is (?:starting up|shutting down|not yet accepting|not accepting|in recovery mode)",
            r"cannot connect now|(?:pgbouncer is|pooler is|server) shutting down",
            *translations.STARTING,
        )
    )
)
# The server ended while it logged the client in, so nothing was refused.
_ENDED = LatePattern("|".join((r"terminating connection", *translations.ENDED)))
_NO_SERVER_BEHIND = LatePattern(
    rf"cached error: (?:{_UNREACHED})? \(server_login_retry\)|try again later \(server_login_retry\)|\(server down\)"
    r"|pgbouncer cannot connect to server"
)
_BUSY = LatePattern(
    "|".join(
        (
            r"too many (?:clients|connections)|remaining connection slots|no more connections allowed",
            r"client connections exceeded",
            r"number of requested standby connections exceeds",
            *translations.BUSY,
        )
    )
)
_REJECTED = LatePattern(
    "|".join(
        (
            r"no password supplied|SSL|TLS|certificate|authentication|channel binding|GSS|private key|sslmode",
            *translations.REJECTED,
        )
    )
)
# Messages of the network, with TLS or without, when the server went away.
_CUT = LatePattern(
    "|".join(
        (
            r"SYSCALL|unexpected eof|closed unexpectedly|[Cc]onnection reset|Broken pipe",
            *translations.CUT,
        )
    )
)
_UNRESOLVED = LatePattern(
    r"failed to resolve host|could not translate host name|Name or service not known|nodename nor servname"
)
# libpq prints a message of the server as "SEVERITY:  text", with the severity in the server's language: "ÖLÜMCÜL
# (FATAL)" in Turkish. It contains no quotes, unlike names, which may contain anything. Ahead of it may be a prefix in a
# language that `_PREFIX` does not know, which ends with a colon.
_SERVER_SAID = LatePattern(r"(?ms)(?:[:\uff1a] ?|^)[^:\uff1a\n\"'«»„\u201c\u201d]+:  (?P<text>.*)")
# Poolers that refuse ``options``: PgBouncer ("unsupported startup parameter"), RDS Proxy ("command-line options").
_OPTIONS = LatePattern(r"startup parameter|\boptions?\b")
# A server's message about a login quotes the name, in every language. The bound keeps a text full of opening quotes
# from being scanned to its end for each of them.
_QUOTED = LatePattern(
    r"(?<!\w)[\"'«»„\u201c\u2018][\s\u00a0\u202f]?([^\n]{0,128}?)[\s\u00a0\u202f]?[\"'«»\u201c\u201d\u2019]"
)
_PREFIX = LatePattern(
    r"(?m)^(?:connection failed: |connection is bad: )?(?:"
    + "|".join((r"connection to server [^\n]*?failed: ", *translations.PREFIXES))
    + ")?"
)

_MOST_TEXT = 8192


def one_line(text: str | bytes) -> str:
    """Return the first line of libpq's text, printable, without the words at its beginning that are always the same."""
    text = text[:_MOST_TEXT]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return printable(_PREFIX.sub("", text.strip()).split("\n", 1)[0]) or "no reason given"


def connect_fault(exc: BaseException) -> Fault:
    """Classify a failed connection attempt by the class of the exception and libpq's text."""
    if isinstance(exc, (psycopg.errors.ConnectionTimeout, TimeoutError)):
        return Fault(FaultKind.TIMEOUT, host_suspect=True, rerun_safe=True, reason="connecting timed out")
    text = str(exc)[:_MOST_TEXT]
    # The prefix holds names of hosts and users, which may contain any words.
    words = _PREFIX.sub("", text.strip())
    said = _SERVER_SAID.search(words)
    shut = said is not None and _SHUT.search(said["text"]) is not None
    if said:
        if shut or _NO_SERVER_BEHIND.search(said["text"]) or _ENDED.search(said["text"]):
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
        # A parameter that psycopg or libpq refuses.
        kind = FaultKind.REJECTED
    return Fault(kind, host_suspect=True, rerun_safe=True, shut=shut, reason=one_line(text))


def options_refused(exc: psycopg.Error, *, names: Collection[str]) -> bool | None:
    """Return True if a login was refused because of its ``options``, None if the text does not say.

    Args:
        exc: the error of the login.
        names: the user and the database; a message that quotes one of them is about that.
    """
    said = _SERVER_SAID.search(_PREFIX.sub("", str(exc)[:_MOST_TEXT].strip()))
    if said is None or connect_fault(exc).kind is not FaultKind.REJECTED:
        return False
    words = _QUOTED.sub("", said["text"])
    if "pg_hba.conf" in words or _REJECTED.search(words):
        return False
    if _OPTIONS.search(words):
        return True
    return False if any(quoted in names for quoted in _QUOTED.findall(said["text"])) else None


def plan_outdated(exc: BaseException) -> bool:
    """Return whether a prepared statement was refused because a migration has changed its columns; nothing has run.

    The text is in the language of the server, and other errors have this SQLSTATE.
    """
    return (
        isinstance(exc, psycopg.errors.FeatureNotSupported)
        and exc.diag.source_function == "RevalidateCachedQuery"
    )


TIME_LIMITS = {"25P03": "idle_in_transaction_session_timeout", "25P04": "transaction_timeout"}
"""By SQLSTATE, the settings with which a server ends a connection because of its client (PostgreSQL docs, 19.11)."""

_LOST_STATES = frozenset({"57P01", "57P02", "57P03"})


def session_fault(
    exc: BaseException, *, closed: bool, committing: bool = False, read_write: bool = False
) -> Fault:
    """Classify an exception raised in a session.

    Args:
        exc: the exception.
        closed: the connection is closed now (40001 and others come as ERROR or as FATAL).
        committing: a COMMIT of a transaction that may have written was sent.
        read_write: the session was requested as read-write.
    """
    sqlstate = getattr(exc, "sqlstate", None) or ""
    reason = one_line(str(exc)) if isinstance(exc, psycopg.Error) else type(exc).__name__
    if sqlstate in TIME_LIMITS:
        limit = TIME_LIMITS[sqlstate]
        return Fault(FaultKind.OTHER, commit_unknown=committing, time_limit=limit, reason=reason)
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
    return Fault(FaultKind.OTHER, rerun_safe=plan_outdated(exc), reason=reason)
