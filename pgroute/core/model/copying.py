"""What a COPY is told and tells: its options, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence


class CopyOutOptions(TypedDict, total=False):
    """The options of COPY TO, as keyword arguments; the server's default holds for those not given.

    The server refuses those that its version or the format does not have. See COPY in PostgreSQL's documentation.

    Attributes:
        format: "text", "csv" or "binary".
        delimiter: the character between two columns.
        null: the text that stands for NULL.
        header: whether the first line has the names of the columns.
        quote: the character around values in CSV.
        escape: the character before a quote within a value.
        force_quote: the columns whose values are always quoted in CSV; True: all.
        encoding: of the file, under PostgreSQL's name for it; None: the connection's client_encoding.
    """

    format: Literal["text", "csv", "binary"]
    delimiter: str | None
    null: str | None
    header: bool | None
    quote: str | None
    escape: str | None
    force_quote: Sequence[str] | bool | None
    encoding: str | None


class CopyInOptions(TypedDict, total=False):
    """The options of COPY FROM, as keyword arguments; the server's default holds for those not given.

    The server refuses those that its version or the format does not have. See COPY in PostgreSQL's documentation.

    Attributes:
        format: "text", "csv" or "binary".
        delimiter: the character between two columns.
        null: the text that stands for NULL.
        default: the text that stands for a column's default (PostgreSQL 16).
        header: whether the first line is left out; "match": it must have the names of the columns.
        quote: the character around values in CSV.
        escape: the character before a quote within a value.
        force_not_null: the columns in which the text of NULL in CSV is a value; True: all (PostgreSQL 17).
        force_null: the columns in which that text is NULL even in quotes; True: all (PostgreSQL 17).
        encoding: of the file, under PostgreSQL's name for it; None: the connection's client_encoding.
        on_error: "ignore" leaves out rows whose values the column's type refuses (PostgreSQL 17), "stop" does not.
        reject_limit: how many rows "ignore" may leave out (PostgreSQL 18).
        log_verbosity: "verbose" tells each row that "ignore" left out in a notice (PostgreSQL 17); "default" their
            number, "silent" nothing (PostgreSQL 18).
    """

    format: Literal["text", "csv", "binary"]
    delimiter: str | None
    null: str | None
    default: str | None
    header: bool | Literal["match"] | None
    quote: str | None
    escape: str | None
    force_not_null: Sequence[str] | bool | None
    force_null: Sequence[str] | bool | None
    encoding: str | None
    on_error: Literal["stop", "ignore"] | None
    reject_limit: int | None
    log_verbosity: Literal["default", "verbose", "silent"] | None


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is.

    Attributes:
        bytes: bytes sent to the server, or received from it.
        rows: rows sent or received; None: not known, as the source is a file.
        attempt: which attempt this is, from 1. With a new one, rows and bytes begin again at 0.
    """

    bytes: int
    rows: int | None
    attempt: int


for _public in (CopyInOptions, CopyOutOptions, CopyProgress):
    _public.__module__ = "pgroute"
del _public
