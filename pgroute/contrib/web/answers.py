"""What a client is told when a request could not be served."""

from __future__ import annotations

from typing import NamedTuple

from pgroute.errors import CommitUnknown, PositionLost


class Answer(NamedTuple):
    """An answer.

    Attributes:
        status: of HTTP.
        detail: what happened, for the client: no host, no SQL.
        headers: further ones.
    """

    status: int
    detail: str
    headers: dict[str, str]


def answer_to(error: Exception) -> Answer:
    """Return what a client is told of an error.

    Args:
        error: a psycopg.OperationalError, which the errors of a router are, or the 25006 of a writer.
    """
    if isinstance(error, CommitUnknown):
        # No Retry-After: a client that repeats the request might do it twice.
        return Answer(503, "it is not known whether this was done: look before you repeat it", {})
    if isinstance(error, PositionLost):
        return Answer(409, "your last change may be lost: look before you go on", {})
    return Answer(503, "the database cannot do this now: try again", {"Retry-After": "1"})
