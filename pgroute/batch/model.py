"""The values of a batch job: its chunks, its progress and its report."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from psycopg import sql


class KeyRange(Protocol):
    """The keys of a chunk."""

    @property
    def after(self) -> Any: ...
    @property
    def upto(self) -> Any: ...
    @property
    def where(self) -> sql.SQL: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a job, as it is given to the body.

    Each attempt gets a new list of rows, with the same items in it. `after` and `upto` are plain values if the key was
    given as one name, tuples if it was given as several. They raise ``psycopg.DataError`` if psycopg cannot represent
    the key, such as an infinite timestamp: then use `where`.

    Attributes:
        number: from 0, in the order of the source.
        rows: its items, or its rows in the form of the connection's row_factory; empty with ``Keyset(fetch=False)``.
    """

    number: int
    rows: list[Any]
    keys: KeyRange | None = field(default=None, repr=False, compare=False)

    @property
    def after(self) -> Any:
        """The exclusive lower bound of its keys; None for the first chunk, and for items."""
        return None if self.keys is None else self.keys.after

    @property
    def upto(self) -> Any:
        """The inclusive upper bound of its keys, in the form of `after`; None for items."""
        return None if self.keys is None else self.keys.upto

    @property
    def where(self) -> sql.SQL | None:
        """``after < key AND key <= upto`` as SQL, for a statement that works on the whole chunk; None for items.

        ::

            update = sql.SQL("UPDATE item SET price = price * 1.1 WHERE {}")
            conn.execute(update.format(chunk.where))

        The key names refer to columns of the statement that contains the condition.
        """
        return None if self.keys is None else self.keys.where


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """The result of a run.

    Attributes:
        job: its name.
        rows: rows in applied chunks, of all runs; for a Keyset, as counted when the job was first run.
        chunks: applied chunks, of all runs.
        skipped: chunks done by earlier runs or by other copies of the job.
        rejected: chunks set aside, of all runs.
        retries: attempts of this run beyond the first one of each chunk.
        seconds: the duration of this run, in seconds.
        finished: True if the database records every chunk as applied or set aside.
    """

    job: str
    rows: int
    chunks: int
    skipped: int
    rejected: int
    retries: int
    seconds: float
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """The progress of a job, as this run knows it.

    Attributes:
        job: its name.
        rows: rows in chunks applied or set aside.
        rows_total: all rows of the job; None: not known yet.
        chunks: chunks applied or set aside.
        chunks_total: all chunks of the job; None: not known yet.
        rejected: chunks set aside by this run.
        retries: attempts of this run beyond the first one of each chunk.
        seconds: seconds since this run began.
        rate: rows per second, of this run.
        eta: seconds to the end at this rate; None: not known.
        primary: the current primary; None: there is none.
        finished: True once the job is finished.
    """

    job: str
    rows: int
    rows_total: int | None
    chunks: int
    chunks_total: int | None
    rejected: int
    retries: int
    seconds: float
    rate: float
    eta: float | None
    primary: str | None
    finished: bool = False
