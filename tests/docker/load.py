"""Load from inside a container: writers and readers by pgroute, a prober by psycopg alone, and what came of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from tests.chaos.account import Style
from tests.chaos.check import History, Row, Verdict, check
from tests.chaos.crew import LAST_WORDS, Crew
from tests.chaos.journal import Ended, Outcome, Read, writer_of
from tests.chaos.stage import ROWS
from tests.docker.containers import Containers, DockerError, until

RECOVERY = 60.0
"""Seconds within which every writer must have written again, once all is repaired."""

END = 40.0
"""Seconds that a worker may take to end."""

UNDER_WAY = 0.5
"""Seconds that an answer may take on a busy machine from the socket to the writer."""

WORKER = "tests.chaos.worker"

PROMOTED = "database system is ready to accept connections"
"""What PostgreSQL logs at the end of a promotion (and of a start as a primary)."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the prober saw: "primary" (a host says that it is one) or "commits" (it took a commit)."""

    host: str
    what: str
    at: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a fault came to for the writers of one face.

    Attributes:
        fault: its name.
        face: "sync" or "async".
        cluster: seconds from the fault until the cluster took a commit again, by the prober.
        first: seconds from there until the first writer was acknowledged.
        last: the same until the last writer was.
        errors: what writers were told, by class and phase, with how often.
        acknowledged, unknown, failed: writes.
        lost, doubled: acknowledged writes that are not there, or more than once.
        log: seconds from the fault until the new primary logged that it is one.
        still: the longest time without an acknowledged write, in seconds.
    """

    fault: str
    face: str
    cluster: float | None
    first: float | None
    last: float | None
    errors: dict[str, int]
    acknowledged: int
    unknown: int
    failed: int
    lost: int
    doubled: int
    log: float | None = None
    still: float | None = None


_numbers = itertools.count(1, 100)
"""Numbers of first processes: none is used twice, for one of a test that failed may live on for a moment."""

SIGNAL = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    if b"\\0--journal\\0-\\0" in (entry / "cmdline").read_bytes():
        os.kill(int(entry.name), signal.SIGUSR1)
"""
"""A program that has the workers of a container write down what they do."""


class Workers(Crew):
    """The processes that write and read, in a container.

    Args:
        containers: where.
        service: the container.
        dsn: what their routers are given.
        folder: where journals and logs go, on this side.
        faces: one for each process.
        pause: between two sessions, as a multiple of the worker's: faults need no heavy load to be seen.
        module: what a process runs, if not the worker with the default options.
    """

    def __init__(
        self,
        containers: Containers,
        service: str,
        dsn: str,
        folder: Path,
        faces: Sequence[str] = ("sync", "async"),
        *,
        writers: int = 4,
        readers: int = 2,
        pause: float = 4.0,
        module: str = WORKER,
    ) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(faces, dsn, folder, writers=writers, readers=readers)
        self._containers = containers
        self._service = service
        self._first = next(_numbers)
        self._module = module
        self._pause = pause

    def face(self, process: int) -> str:
        """Return the face of the process with a number."""
        return self._faces[(process - self._first) % len(self._faces)]

    def numbers(self, face: str) -> set[int]:
        """Return the numbers of a face's processes."""
        return {self._first + place for place, name in enumerate(self._faces) if name == face}

    def ask_state(self) -> None:
        """Have every worker write down what it does; signals to Docker's program do not reach it."""
        with contextlib.suppress(DockerError):
            self._containers.execute(self._service, "python", "-c", SIGNAL, user="root")
        time.sleep(LAST_WORDS)

    def _number(self) -> int:
        return self._first + len(self._workers)

    def _command(self, number: int, place: int) -> list[str]:
        command = [self._module, "--process", str(number), "--journal", "-", "--run"]
        command += ["--writers", str(self._writers), "--readers", str(self._readers)]
        return [*command, "--pause", str(self._pause)]

    def _launch(self, number: int, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        with self._journal(number).open("wb") as journal:
            return subprocess.Popen(
                ["docker", "exec", "-i", self._containers.id(self._service), "python", "-m", *command],
                stdin=subprocess.PIPE,
                stdout=journal,
                stderr=log,
                start_new_session=True,
            )


class Probing:
    """The prober, running in a container for as long as the block."""

    def __init__(self, containers: Containers, service: str, hosts: Sequence[str], folder: Path) -> None:
        self._containers = containers
        self._service = service
        self._hosts = hosts
        self._path = folder / "prober.jsonl"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        conninfo = f"user=app password={self._containers.password} dbname=app"
        command = ["python", "-m", "tests.docker.prober", "--conninfo", conninfo, *self._hosts]
        with self._path.open("wb") as out, self._path.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker", "exec", "-i", self._containers.id(self._service), *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if (process := self._process) is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def sights(self, what: str, since: float = 0.0) -> list[Sight]:
        """Return what was seen after a moment, once the prober has begun."""
        lines = self._path.read_text().splitlines(keepends=True)
        sights = [Sight(**json.loads(line)) for line in lines if line.endswith("\n")]
        return [sight for sight in sights if sight.what == what and sight.at >= since]


class Load:
    """Workers of both faces with a prober beside them, from a state in which every writer writes.

    Args:
        containers: of the cluster.
        hosts: of the servers, in the order of the DSN.
        folder: for journals and logs.
        dsn: what the routers are given, if not those hosts.
        parameters: what the DSN has besides.
        service: where the application runs.
        faces: one for each process.
        probe: the hosts that the prober asks, if others.
        module: what a process runs, if not the worker with the default options.
    """

    def __init__(
        self,
        containers: Containers,
        hosts: Sequence[str],
        folder: Path,
        *,
        dsn: str = "",
        parameters: str = "",
        service: str = "app",
        faces: Sequence[str] = ("sync", "async"),
        probe: Sequence[str] | None = None,
        module: str = WORKER,
    ) -> None:
        dsn = dsn or f"postgresql://app:{containers.password}@{','.join(hosts)}/app?{parameters}"
        folder.mkdir(exist_ok=True)
        self.containers = containers
        self.crew = Workers(containers, service, dsn, folder, faces, module=module)
        self._faces = faces
        self._probing = Probing(containers, service, hosts if probe is None else probe, folder)

    def __enter__(self) -> Self:
        try:
            self._probing.__enter__()
            self.crew.__enter__()
            # What it sees of the first primary must not be taken for a change.
            until(lambda: bool(self._probing.sights("commits")), "the prober writes")
            self.recovered()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.crew.end()
        self._probing.__exit__()

    def recovered(self, since: float | None = None, timeout: float = RECOVERY) -> None:
        """Wait until every writer has had a write acknowledged that it began after a moment, now by default."""
        since = time.monotonic() if since is None else since

        def all_wrote() -> bool:
            dead = self.crew.dead()
            assert not dead, "\n".join(dead)
            return not self.crew.waiting(since)

        try:
            until(all_wrote, "every writer writes", timeout, every=0.02)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {', '.join(self.crew.waiting(since))} of {self.tails()}") from None

    def tails(self) -> str:
        """Return the ends of the workers' logs."""
        return "\n".join(self.crew._tail(worker) for worker in self.crew._current())

    def acknowledged(self, since: float = 0.0) -> int:
        """Return how many writes were acknowledged after a moment."""
        self.crew.follow()
        return sum(record.at >= since for record in self._ended(Outcome.ACKNOWLEDGED))

    def reads(self, since: float = 0.0) -> int:
        """Return how many reads ended well after a moment."""
        self.crew.follow()
        records = self.crew.records
        return sum(isinstance(record, Read) and record.at >= since and not record.error for record in records)

    def told(self, error: str) -> int:
        """Return how many writers were told of an error of a class."""
        return sum(count for text, count in self.errors().items() if text.startswith(error))

    def errors(self) -> Counter[str]:
        """Return what writers were told that was no acknowledgement."""
        self.crew.follow()
        return Counter(_said(end) for end in self.crew.records if isinstance(end, Ended) and end.error)

    def told_keyed(self, patience: float) -> list[Ended]:
        """Return what writers with a key were told that was no acknowledgement, of those with time for an outage."""
        self.crew.follow()
        ended = [record for record in self.crew.records if isinstance(record, Ended) and record.error]
        return [
            end
            for end in ended
            if (writer := writer_of(end.id)[1]) % 2 and Style.of(writer).timeout > patience
        ]

    def sees(self, host: str, what: str, since: float) -> bool:
        """Whether the prober saw that at a host after a moment."""
        return any(sight.host == host for sight in self._probing.sights(what, since))

    def primary_since(self, fault: float, *, timeout: float = 120.0, other_than: str = "") -> Sight:
        """Wait until the prober has seen a primary that became one after a fault, and return when."""
        found: list[Sight] = []

        def seen() -> bool:
            sights = self._probing.sights("primary", fault)
            found[:] = [sight for sight in sights if sight.host != other_than]
            return bool(found)

        until(seen, "another primary", timeout, every=0.02)
        return found[0]

    def end(self) -> None:
        """Have the workers end in order."""
        late = self.crew.dismiss(END)
        assert not late, "\n".join(late)

    def history(
        self,
        primary: str,
        *,
        zero_loss: bool = True,
        left_behind: Sequence[Row] = (),
        others: Sequence[Load] = (),
    ) -> History:
        """Return what the workers were told (also those of other loads) beside what the primary has."""
        rows = rows_of(self.containers, primary)
        records = [record for load in (self, *others) for record in load.crew.records]
        return History.of(records, rows, left_behind, zero_loss=zero_loss)

    def figures(
        self,
        fault: str,
        history: History,
        *,
        at: float | None = None,
        host: str | None = None,
        since: float | None = None,
    ) -> list[Figures]:
        """Return what a fault came to, for each face.

        Args:
            fault: its name.
            history: of this load, and others perhaps.
            at: when it struck; None: nothing was out.
            host: where the writes went on, by the prober; None: they could from `since` on.
            since: the moment at which the host became the primary, or was repaired.
        """
        commits, logged = since, None
        if host is not None and since is not None:
            sights = [sight for sight in self._probing.sights("commits", since) if sight.host == host]
            commits = sights[0].at if sights else None
            # The log of a bouncer tells nothing of its server.
            if at is not None and ":" not in host:
                logged = self.containers.logged(host, PROMOTED, at)
                assert logged is not None
        found = []
        for face in self._faces:
            mine = {
                id_: end for id_, end in history.ended.items() if writer_of(id_)[0] in self.crew.numbers(face)
            }
            firsts = _firsts(mine.values(), since)
            here = {row.id for row in history.rows}
            counted = Counter(row.id for row in history.rows if row.id in mine)
            told = Counter(history.outcome(id_) for id_ in mine)
            found.append(
                Figures(
                    fault,
                    face,
                    None if commits is None or at is None else commits - at,
                    None if commits is None or not firsts else min(firsts) - commits,
                    None if commits is None or not firsts else max(firsts) - commits,
                    dict(Counter(_said(end) for end in mine.values() if end.error)),
                    told[Outcome.ACKNOWLEDGED],
                    told[Outcome.UNKNOWN],
                    told[Outcome.FAILED],
                    sum(end.outcome is Outcome.ACKNOWLEDGED and id_ not in here for id_, end in mine.items()),
                    sum(times > 1 for times in counted.values()),
                    None if logged is None or at is None else logged - at,
                )
            )
        return found

    def _ended(self, outcome: Outcome) -> list[Ended]:
        return [
            record for record in self.crew.records if isinstance(record, Ended) and record.outcome is outcome
        ]


def judge(history: History) -> Verdict:
    """Check a history, and fail with what is wrong."""
    verdict = check(history)
    assert not verdict.violations, "\n".join(map(str, verdict.violations[:20]))
    return verdict


def rows_of(containers: Containers, service: str) -> list[Row]:
    """Return what a server has."""
    return [Row(*map(int, row)) for row in containers.sql(service, ROWS)]


def _firsts(ended: Iterable[Ended], since: float | None) -> list[float]:
    """Return for each writer the moment of its first acknowledged write after one."""
    firsts: dict[tuple[int, int], float] = {}
    if since is None:
        return []
    for end in ended:
        if end.outcome is Outcome.ACKNOWLEDGED and end.at >= since:
            writer = writer_of(end.id)
            firsts[writer] = min(end.at, firsts.get(writer, end.at))
    return list(firsts.values())


def _said(end: Ended) -> str:
    """Return what a writer was told: the error's class, and whether its key, if it had one, will settle it."""
    keyed = "keyed" if writer_of(end.id)[1] % 2 else "keyless"
    return f"{end.error.rpartition('.')[2]} ({keyed}, {end.outcome})"
