"""The exceptions of pgroute; all of them are psycopg errors too. This module imports no other one of the package.

psycopg.ProgrammingError + ValueError
└── ConfigError              a parameter is wrong; nothing was contacted
psycopg.OperationalError
└── RouteError
    ├── AcquireTimeout       (psycopg_pool.PoolTimeout) no session within the deadline
    │   ├── NoHostAvailable  no host can serve the role
    │   ├── PoolExhausted    a host serves the role, but all its connections are in use
    │   └── SplitBrainError  two hosts claim to be the primary
    ├── PositionLost         a failover has lost the position that a reader must hold
    ├── SessionLost          the connection was lost before COMMIT was sent
    ├── CommitUnknown        it was lost, or replication not confirmed, during COMMIT
    └── RouterClosed         (psycopg_pool.PoolClosed) closed, never opened, or forked
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

_MOST_SHOWN = 500
"""The most characters of a value that the text of an error shows."""
LEAST_MASKED = 4
"""The fewest characters of a secret that is looked for in a text: a shorter one is a part of any sentence."""
_PASSWORD = re.compile(r"(?i)(passw(or)?d|secret|scram_(client|server)_key)['\"]?\s*[=:]")
_LOGIN = re.compile(r"[^\s:/@'\"]:(?!//)(?:(?<!\b[A-Za-z]:)|(?![\\/]))\S")
"""Matches the end of a user name and the beginning of a password, but neither a scheme nor a drive of Windows."""


def presentable(value: object) -> object:
    """Return a value, or words for one without a repr: Python prints no int of thousands of digits."""
    try:
        repr(value)
    except Exception:  # noqa: BLE001  (the user's object)
        return f"<{type(value).__name__} that cannot be shown>"
    return value


def holds_password(value: object) -> bool:
    """Return True if what is shown of a value may hold a password: a keyword string, a mapping, a login before a host.

    It is the repr that is looked at, unless the value is a text: an object of any type may have a DSN in it.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return False
    text = value if isinstance(value, str) else repr(presentable(value))
    _, scheme, rest = text.partition("://")
    login, at, _ = rest.rpartition("@")
    return (
        bool(scheme and at and ":" in login)
        or _PASSWORD.search(text) is not None
        or any(map(_has_login, text.split()))
    )


def _has_login(word: str) -> bool:
    """Return True for ``user:password@host`` without a scheme; ``12:30@host`` is taken for a time."""
    login, _, host = word.rpartition("@")
    return bool(host) and _LOGIN.search(login) is not None and not login.replace(":", "").isdigit()


def _masked(text: str, value: str) -> str:
    """Return a text with "***" in place of a value, wherever that is no part of a longer word."""
    if len(value) < LEAST_MASKED:
        return text
    found = []
    end = 0
    while (at := text.find(value, end)) >= 0:
        after = at + len(value)
        inside = value[0].isalnum() and text[at - 1 : at].isalnum()
        inside = inside or (value[-1].isalnum() and text[after : after + 1].isalnum())
        found.append(text[end:at] + (value if inside else "***"))
        end = after
    return "".join([*found, text[end:]])


class ConfigError(psycopg.ProgrammingError, ValueError):
    """A parameter has an invalid value. No host was contacted, or nothing was written.

    Attributes:
        parameter: the name of the parameter; ``"***"`` if a password is in the place of the name.
        value: the value; ``"***"`` if it is, or may hold, a secret.
        accepted: which values are accepted, in words.
    """

    def __init__(self, parameter: str, value: object, accepted: str, *, secret: bool = False) -> None:
        value = presentable(value)
        if holds_password(parameter):
            parameter = "***"
        if secret or holds_password(value):
            # libpq repeats the name of a service.
            accepted = _masked(accepted, value if isinstance(value, str) else repr(value))
            value = "***"
        super().__init__(parameter, value, accepted)  # type: ignore[arg-type]  # psycopg names only the first
        self.parameter = parameter
        self.value = value
        self.accepted = accepted

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > _MOST_SHOWN:
            shown = f"{shown[:_MOST_SHOWN]}..."
        return f"invalid {self.parameter} {shown}: {self.accepted}"


class RouteError(psycopg.OperationalError):
    """The router could not provide a session, or lost one.

    The body of a `writer()` session may have committed something itself, so *rerun_safe* is False for it.

    Attributes:
        topology: the Topology at that moment; None if it does not explain the error, and in a copied or pickled error.
        rerun_safe: a transaction of `run()` or `attempts()` was not committed. Never True for `writer()`.
        may_have_committed: the work may have been committed nevertheless.
    """

    def __init__(
        self,
        message: str,
        *,
        topology: Any = None,
        rerun_safe: bool = False,
        may_have_committed: bool = False,
    ) -> None:
        super().__init__(message)
        # A Topology or None. No module of the package is imported here, as all of them raise these errors.
        self.topology: Any = topology
        self.rerun_safe = rerun_safe
        self.may_have_committed = may_have_committed

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The topology belongs to this process. In a copy, and in another process, the text stands for it.
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        return (*reduced[:2], {**reduced[2], "topology": None})


class AcquireTimeout(RouteError, PoolTimeout):
    """No session was available within the deadline. Nothing was sent, so trying again is safe."""


class NoHostAvailable(AcquireTimeout):
    """No host could serve the role. The text names every host with its state, the age of that and the reason."""


class PoolExhausted(AcquireTimeout):
    """A host serves the role, but its pool had no free connection within the deadline, or its queue was full.

    The text says how many of its connections are in use and how many callers wait.
    """


class SplitBrainError(AcquireTimeout):
    """Two hosts claim to be the primary and nothing decides between them. The text names both."""


class PositionLost(RouteError):
    """The position lies beyond the fork at which a failover left its timeline, or cannot be proven not to.

    What was written up to there is not all there any more, so no host can serve the session. Nothing was sent.

    Attributes:
        position: the Position.
    """

    def __init__(self, message: str, *, position: Any = None, topology: Any = None) -> None:
        super().__init__(message, topology=topology)
        self.position: Any = position  # a Position; see RouteError


class SessionLost(RouteError):
    """The connection was lost before COMMIT was sent, or in a transaction that could not write.

    Nothing of the transaction was committed. `may_have_committed` is True if a writer session whose body raised nothing
    found its connection broken at the end: work that the body committed itself may be there, nothing else.
    """


class CommitUnknown(RouteError):
    """The connection was lost during COMMIT, or synchronous replication was not confirmed.

    The transaction may be committed or not. Check before you repeat it, or use ``run(once=KEY)``, which does.
    """

    def __init__(self, message: str, *, topology: Any = None) -> None:
        super().__init__(message, topology=topology, may_have_committed=True)


class RouterClosed(RouteError, PoolClosed):
    """The router is closed, was never opened, or belongs to the parent of this forked process."""
