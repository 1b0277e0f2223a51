"""One run: a cluster behind proxies, workers that increment a counter under keys, faults, and the check of the end."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgroute import CommitUnknown
from pgroute.core.sql.schema import definition, rights
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.chaos.crew import Crew
from tests.chaos.faults import Fault
from tests.chaos.nemesis import FAULTS
from tests.chaos.run import SETTINGS, Game, Played
from tests.chaos.run import Plan as Faults
from tests.chaos.stage import SETUP, USER, Stage
from tests.soak.calls import Call, Calls
from tests.soak.worker import WRITERS

COUNTER = (
    "CREATE TABLE counter (value int NOT NULL)",
    "INSERT INTO counter VALUES (0)",
    f"GRANT SELECT, UPDATE ON counter TO {USER}",
    definition(),
    rights(USER),
)
LAST, LAST_OF_EACH = 60.0, 0.05
"""Seconds for what is left to be done after the last fault: for the whole, and for each increment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        seed: of the faults.
        increments: how many, by all.
        processes: how many share them.
        faults: how many are played.
        kinds: of the faults.
        brisk: all waiting is short.
        spread: seconds over which the increments would be spread if nothing failed.
        version: of PostgreSQL.
        keep: a folder for the workers' and the servers' logs; None: nothing is kept.
    """

    seed: int
    increments: int
    processes: int
    faults: int
    kinds: tuple[type[Fault], ...] = FAULTS
    brisk: bool = False
    spread: float = 0.0
    version: str | None = None
    keep: Path | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Attributes:
        wrong: what should not be, in words.
        played: the faults.
        calls: of all workers.
        counter: the counter's value at the end.
        keys: the number of rows in pgroute.once.
        seconds: how long it took.
    """

    wrong: Sequence[str]
    played: Sequence[Played]
    calls: Sequence[Call]
    counter: int
    keys: int
    seconds: float

    @property
    def faults(self) -> Counter[str]:
        """How often each kind was played, overlays included."""
        steps = [played.step for played in self.played]
        return Counter(fault.name for step in steps for fault in (step.fault, step.overlay) if fault)


class Workers(Crew):
    """The processes that increment, in the places of a crew."""

    def __init__(self, plan: Plan, dsn: str, folder: Path) -> None:
        faces = [("sync", "async")[place % 2] for place in range(plan.processes)]
        super().__init__(faces, dsn, folder, writers=WRITERS, readers=0)
        self.calls: list[Call] = []
        self._plan = plan
        self._reader = Calls(folder)
        self._settled: dict[tuple[int, int], float] = {}

    def waiting(self, since: float) -> list[str]:
        """Return the writers none of whose calls begun after a moment was settled."""
        self.follow()
        return [
            f"writer {writer} of worker {worker.number} ({worker.face})"
            for worker in self._current()
            for writer in range(WRITERS)
            if self._settled.get((worker.number, writer), 0.0) <= since
        ]

    def follow(self) -> None:
        """Take up what was written down since the last time."""
        for call in self._reader.fresh():
            self.calls.append(call)
            if not call.error:
                self._settled[call.worker, call.writer] = call.begun

    def _command(self, number: int, place: int) -> list[str]:
        plan = self._plan
        interval = plan.spread * plan.processes * WRITERS / plan.increments
        figures = {
            "worker": number,
            "place": place,
            "processes": plan.processes,
            "increments": plan.increments,
            "interval": interval,
        }
        command = ["tests.soak.worker", "--folder", str(self._folder)]
        return command + [word for name, value in figures.items() for word in (f"--{name}", str(value))]


def run(plan: Plan, say: Callable[[str], None]) -> Result:
    """Play a plan; nothing of it is left afterwards."""
    begun = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun:7.2f} s  {text}")

    with tempfile.TemporaryDirectory(prefix="pgroute-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        cluster = stack.enter_context(
            LocalCluster(2, version=plan.version, synchronous=True, settings=SETTINGS)
        )
        for sql in (*SETUP, *COUNTER):
            cluster.primary.execute(sql.replace("{password}", cluster.password))
        cluster.catch_up()
        proxies = {node: stack.enter_context(FaultProxy(node)) for node in cluster.nodes}
        dsn = FaultProxy.dsn(proxies.values(), user=USER, dbname=cluster.dbname)
        if plan.keep is not None:
            stack.callback(_keep, plan.keep, folder, cluster)
        workers = stack.enter_context(Workers(plan, dsn, folder))
        game = Game(
            Faults(
                seed=plan.seed,
                seconds=math.inf,
                steps=plan.faults,
                faces=("",) * plan.processes,
                faults=plan.kinds,
                brisk=plan.brisk,
                recovery=30.0,
            ),
            Stage(cluster, proxies, workers, tell),
        )
        game.play()
        tell("no more faults")
        wrong = [str(violation) for violation in game.stuck] + workers.dismiss(
            LAST + plan.increments * LAST_OF_EACH
        )
        wrong += check(plan, game.stage.primary, workers.calls)
        [(counter, keys)] = game.stage.primary.execute(
            "SELECT value, (SELECT count(*) FROM pgroute.once) FROM counter"
        )
        return Result(wrong, game.played, workers.calls, counter, keys, time.monotonic() - begun)


def check(plan: Plan, node: Node, calls: Sequence[Call]) -> list[str]:
    """Return what is wrong in the end: a counter that is not exact, keys and results that are not as they should be."""
    wrong, increments = [], plan.increments
    [(counter,)] = node.execute("SELECT value FROM counter")
    if counter != increments:
        wrong.append(f"the counter is {counter}, not {increments}")
    stored = dict(node.execute("SELECT key, result::int FROM pgroute.once"))
    keys = {f"inc-{number}" for number in range(1, increments + 1)}
    if stored.keys() != keys:
        missing, surplus = len(keys - stored.keys()), len(stored.keys() - keys)
        wrong.append(f"of the keys {missing} are missing, {surplus} are surplus")
    twice = len(stored) - len(set(stored.values()))
    if twice:
        wrong.append(f"{twice} results are stored under more than one key")
    for call in calls:
        value = stored.get(f"inc-{call.number}")
        if not call.error and call.value != value:
            wrong.append(f"increment {call.number} was told to be {call.value}, and is stored as {value}")
    return wrong + misled(plan.processes, calls)


def misled(processes: int, calls: Sequence[Call]) -> list[str]:
    """Return what was found done although no call before had said that it may be.

    A worker that was killed may have done one increment of each writer, and said nothing.
    """
    wrong = []
    doubtful: set[int] = set()
    settled: set[int] = set()
    begun: set[tuple[int, int]] = set()
    for call in sorted(calls, key=lambda call: call.begun):
        if call.number in settled:
            continue
        replaced = call.worker > processes and (call.worker, call.writer) not in begun
        begun.add((call.worker, call.writer))
        if replaced or call.error == CommitUnknown.__name__:
            doubtful.add(call.number)
        if call.error:
            continue
        settled.add(call.number)
        if not call.bodies and call.number not in doubtful:
            wrong.append(f"increment {call.number} was found done, and nobody had been told that it may be")
    return wrong


def _keep(target: Path, folder: Path, cluster: LocalCluster) -> None:
    """Copy the workers' files and logs, and the servers' logs."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.copy(path, target)
    for node in cluster.nodes:
        (target / f"{node.name}.log").write_text(node.log())
