"""Whether and how a GET was answered (RFC 9112), as far as one small answer needs it."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from pgroute.core.discovery.report import Malformed
from pgroute.core.late_dataclass import dataclass
from pgroute.core.printable import printable

MOST_BYTES = 262_144
"""The most bytes of an answer: 4 kB for each of the most members."""

_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9][0-9])( .*)?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_SHOWN = 100
_OK = 200
_REDIRECTS = range(300, 400)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is whole.

    Attributes:
        body: the body of the status 200.
        date: the server's time, seconds since the epoch, to the second; None if it does not tell.
    """

    body: bytes
    date: float | None = None


def read_response(raw: bytes, *, ended: bool) -> Response | None:
    """Return the answer once it is whole; None: there is more to come.

    Args:
        raw: what was received so far.
        ended: the server has ended the connection.

    Raises:
        Malformed: it is not an answer with the status 200.
    """
    if len(raw) > MOST_BYTES:
        raise Malformed(f"an answer of more than {MOST_BYTES} bytes")
    head, end, body = _parted(raw)
    if not end:
        if not ended:
            return None
        raise Malformed("no answer in HTTP" if raw else "it ended the connection without an answer")
    status, headers = _head(head)
    if status != _OK:
        where = headers.get("location", "")
        leads = f", which leads to {printable(where, _SHOWN)} and is not followed" if where else ""
        raise Malformed(f"status {status}{leads if status in _REDIRECTS else ''}")
    if "transfer-encoding" in headers:
        raise Malformed("an answer in chunks, which HTTP/1.0 does not have")
    length = headers.get("content-length")
    if length is not None and not _DIGITS.fullmatch(length):
        raise Malformed("no length of the answer")
    if length is None:
        return Response(body, _date(headers)) if ended else None
    if len(body) >= int(length):
        return Response(body[: int(length)], _date(headers))
    if ended:
        raise Malformed(f"it ended the connection after {len(body)} of {int(length)} bytes")
    return None


def _parted(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the head, the empty line after it, and the body; some servers end lines without a carriage return."""
    ends = [(at, end) for end in (b"\r\n\r\n", b"\n\n") if (at := raw.find(end)) >= 0]
    return raw.partition(min(ends)[1] if ends else b"\r\n\r\n")


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    line, *rest = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    found = _STATUS.fullmatch(line)
    if found is None:
        raise Malformed("no answer in HTTP")
    headers = {}
    for each in rest:
        name, colon, value = each.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return int(found[1]), headers


def _date(headers: dict[str, str]) -> float | None:
    try:
        date = parsedate_to_datetime(headers["date"])
        # "-0000" is UTC without a word on where the server is (RFC 5322, 3.3), and comes without a zone.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
