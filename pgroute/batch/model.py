"""The values of a batch job: its chunks, and what is told of its course."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    """One chunk of a job, for the body.

    Attributes:
        number: from 0, in the order of the source.
        rows: its items, or its rows as the connection's row_factory gives them; empty with ``Keyset(fetch=False)``. The
            list is made anew for each attempt; items are the same objects.
    """

    number: int
    rows: list[Any]
    keys: KeyRange | None = field(default=None, repr=False, compare=False)

    @property
    def after(self) -> Any:
        """The key that all of its keys are above, None for the first chunk, and for items.

        A plain value where the key was given as one name, a tuple where it was given as several.

        Raises:
            psycopg.DataError: psycopg has no value for it, such as a timestamp of infinity; `where` has no such limit.
        """
        return None if self.keys is None else self.keys.after

    @property
    def upto(self) -> Any:
        """The key that all of its keys are at or below, as `after`; None for items."""
        return None if self.keys is None else self.keys.upto

    @property
    def where(self) -> sql.SQL | None:
        """``after < key AND key <= upto`` as SQL, for a statement that works on the whole chunk; None for items.

        ::

            conn.execute(sql.SQL("UPDATE item SET price = price * 1.1 WHERE price > 0 AND {}").format(chunk.where))

        It compares the columns of these names in the statement that it stands in.
        """
        return None if self.keys is None else self.keys.where


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """How a job ended.

    Attributes:
        job: its name.
        rows: rows in the chunks that were applied, by all runs; for a Keyset, as they were counted at the job's start.
        chunks: chunks that were applied, by all runs.
        skipped: chunks that were none of this run's work: done by earlier runs, or by other copies of the job.
        rejected: chunks that were set aside, by all runs.
        retries: attempts of this run beyond the first one of each chunk.
        seconds: how long this run took, in seconds.
        finished: every chunk was applied or set aside, as the database itself says.
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
    """How far a job has come, as this run knows it.

    Attributes:
        job: its name.
        rows: rows in chunks that were applied or set aside.
        rows_total: rows in all; None: not known yet.
        chunks: chunks that were applied or set aside.
        chunks_total: chunks in all; None: not known yet.
        rejected: chunks that this run has set aside.
        retries: attempts of this run beyond the first one of each chunk.
        seconds: how long this run has taken, in seconds.
        rate: rows per second, of this run.
        eta: seconds to the end at this rate; None: not known.
        primary: the host that is the primary now; None: there is none.
        finished: the job is finished.
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
