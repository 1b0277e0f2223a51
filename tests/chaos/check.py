"""From what the writers were told and what the servers have to a verdict: nothing lost, doubled or misreported."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.journal import Begun, Ended, Left, Outcome, Read, Record, writer_of


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a server has it, with the port and timeline that the server noted when it was inserted."""

    id: int
    port: int
    timeline: int


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of a run.

    Attributes:
        begun: when each write was begun.
        ended: what its writer was told; missing if the worker was killed before.
        reads: the readers' sessions.
        left: the workers that ended in order.
        rows: what the last primary has.
        left_behind: what deposed primaries had and their successors had not: lost by PostgreSQL, not by the router.
        zero_loss: with synchronous replication nothing acknowledged may be left behind.
    """

    begun: Mapping[int, float]
    ended: Mapping[int, Ended]
    reads: Sequence[Read]
    left: Collection[int]
    rows: Sequence[Row]
    left_behind: Sequence[Row]
    zero_loss: bool

    @classmethod
    def of(
        cls, records: Iterable[Record], rows: Sequence[Row], left_behind: Sequence[Row], *, zero_loss: bool
    ) -> History:
        """Sort the workers' records."""
        begun: dict[int, float] = {}
        ended: dict[int, Ended] = {}
        reads: list[Read] = []
        left: set[int] = set()
        for record in records:
            match record:
                case Begun():
                    begun[record.id] = record.at
                case Ended():
                    ended[record.id] = record
                case Read():
                    reads.append(record)
                case Left():
                    left.add(record.process)
        return cls(begun, ended, reads, left, rows, left_behind, zero_loss)

    def outcome(self, id_: int) -> Outcome:
        """Return what became of a write; one without an end is unknown."""
        end = self.ended.get(id_)
        return Outcome.UNKNOWN if end is None else end.outcome

    def count(self, outcome: Outcome) -> int:
        """Return the number of writes with that outcome."""
        return sum(self.outcome(id_) is outcome for id_ in self.begun)


class Wrong(enum.StrEnum):
    """The ways in which a run can be wrong."""

    LOST = "lost"
    DOUBLED = "doubled"
    PHANTOM = "phantom"
    MISREPORTED = "misreported"
    MISPLACED = "misplaced"
    STALE = "stale"
    UNACCOUNTED = "unaccounted"
    WRITABLE = "writable reader"
    UNEXPECTED = "unexpected error"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise broken."""

    kind: Wrong
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, and how many acknowledged writes PostgreSQL itself lost (never any with zero_loss)."""

    violations: tuple[Violation, ...]
    lost_by_servers: int

    def count(self, kind: Wrong) -> int:
        """Return the number of violations of a kind."""
        return sum(violation.kind is kind for violation in self.violations)


def check(history: History) -> Verdict:
    """Judge a run."""
    present = Counter(row.id for row in history.rows)
    forsaken = {row.id for row in history.left_behind}
    missing = [
        id_
        for id_, end in history.ended.items()
        if end.outcome is Outcome.ACKNOWLEDGED and id_ not in present
    ]
    lost = [id_ for id_ in missing if history.zero_loss or id_ not in forsaken]
    violations = [
        *(Violation(Wrong.LOST, f"{_told(history, id_)}; {_where(id_, forsaken)}") for id_ in lost),
        *(
            Violation(Wrong.DOUBLED, f"{_told(history, id_)}; found {times} times")
            for id_, times in present.items()
            if times > 1
        ),
        *_false_words(history, {*present, *forsaken}),
        *_wrong_places(history),
        *_unaccounted(history),
        *_odd_errors(history.ended.values()),
        *_odd_errors(history.reads),
        *_wrong_reads(history.reads),
    ]
    return Verdict(tuple(violations), len(missing) - len(lost))


def _told(history: History, id_: int) -> str:
    return f"{id_} begun at {history.begun.get(id_)}, {history.ended.get(id_)}"


def _where(id_: int, forsaken: Collection[int]) -> str:
    return "a deposed primary had it" if id_ in forsaken else "no server has it"


def _false_words(history: History, found: Collection[int]) -> Iterator[Violation]:
    """Writes that are somewhere, though nobody tried them, or though the writer was told that they are not."""
    for id_ in found:
        if id_ not in history.begun:
            yield Violation(Wrong.PHANTOM, f"{id_} was never tried")
        elif history.outcome(id_) is Outcome.FAILED:
            yield Violation(Wrong.MISREPORTED, f"{_told(history, id_)}; it was committed")


def _wrong_places(history: History) -> Iterator[Violation]:
    """Sessions on a timeline below one that the router had seen before, and rows elsewhere than their session."""
    for end in history.ended.values():
        if end.timeline and end.timeline < end.mark:
            yield Violation(Wrong.STALE, f"a session on timeline {end.timeline} after {end.mark}: {end}")
    for row in (*history.rows, *history.left_behind):
        known = history.ended.get(row.id)
        if known is None:
            continue
        if row.timeline < known.mark and not known.timeline:
            yield Violation(Wrong.STALE, f"{row} was written after timeline {known.mark} was seen: {known}")
        if known.port and (known.port, known.timeline) != (row.port, row.timeline):
            yield Violation(Wrong.MISPLACED, f"{row} was written by {known}")


def _unaccounted(history: History) -> Iterator[Violation]:
    """Writes of which their writer was told nothing, though its process ended in order."""
    for id_ in history.begun.keys() - history.ended.keys():
        if writer_of(id_)[0] in history.left:
            yield Violation(Wrong.UNACCOUNTED, f"{id_} has no end")


def _odd_errors(ends: Iterable[Ended | Read]) -> Iterator[Violation]:
    """Errors of other libraries, and errors of waiting for a session that are not the router's."""
    for end in ends:
        package = end.error.partition(".")[0]
        if end.error and (
            package not in ("pgroute", "psycopg") or (not end.entered and package != "pgroute")
        ):
            yield Violation(Wrong.UNEXPECTED, str(end))


def _wrong_reads(reads: Sequence[Read]) -> Iterator[Violation]:
    for read in reads:
        if read.wrote or (read.port and not read.read_only):
            yield Violation(Wrong.WRITABLE, str(read))
        if read.port and not read.recovering and read.timeline < read.mark:
            yield Violation(Wrong.STALE, f"a reader on timeline {read.timeline} after {read.mark}: {read}")
