"""Which refusals to write are the host's doing: those a writer gets after a demotion, not a reader that writes."""

from __future__ import annotations

_MARK = "pgroute_read_only_host"


def note_read_only_host(exc: BaseException) -> None:
    """Record that an error came from a session asked for as read-write, at a host that takes no writes."""
    setattr(exc, _MARK, True)


def is_of_read_only_host(exc: BaseException) -> bool:
    """Return whether that was recorded of an error."""
    return getattr(exc, _MARK, False) is True
