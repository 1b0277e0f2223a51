"""One run: a cluster behind proxies, workers, the faults of a schedule with their repair, and the check."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pgroute.testing import FaultProxy, LocalCluster
from tests.chaos.check import History, Verdict, Violation, Wrong, check
from tests.chaos.crew import Crew
from tests.chaos.faults import Fault, Terms
from tests.chaos.nemesis import FAULTS, Step, schedule
from tests.chaos.stage import SETUP, USER, Stage

Mode = Literal["sync", "async-replication"]

SETTINGS = {"max_connections": "60", "superuser_reserved_connections": "10"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        seed: of the schedule.
        seconds: after which no further fault begins, from when all writers write.
        mode: with synchronous replication, or without, where PostgreSQL may lose what it acknowledged.
        faces: "sync" or "async", one for each worker process.
        writers, readers: in each worker.
        faults: the kinds that are played.
        brisk: all waiting is short.
        steps: the number of faults at most.
        script: steps to play instead of those drawn from the seed.
        version: of PostgreSQL.
        recovery: seconds after a repair within which every writer must have written again.
        keep: a folder for journals and logs; None: nothing is kept.
    """

    seed: int
    seconds: float
    mode: Mode = "sync"
    faces: tuple[str, ...] = ("sync", "async", "sync", "async")
    writers: int = 3
    readers: int = 2
    faults: tuple[type[Fault], ...] = FAULTS
    brisk: bool = False
    steps: int | None = None
    script: tuple[Step, ...] = ()
    version: str | None = None
    recovery: float = 10.0
    keep: Path | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """A step that was played: when its fault began, when it was repaired, when all writers had written again."""

    step: Step
    begun: float
    repaired: float
    recovered: float


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    history: History
    verdict: Verdict
    played: tuple[Played, ...]
    seconds: float


def run(plan: Plan, say: Callable[[str], None] = print) -> Result:
    """Play a plan; nothing of it is left afterwards but what was to be kept."""
    begun = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun:7.2f} s  {text}")

    with tempfile.TemporaryDirectory(prefix="pgroute-chaos-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        cluster = stack.enter_context(
            LocalCluster(2, version=plan.version, synchronous=plan.mode == "sync", settings=SETTINGS)
        )
        tell(
            f"PostgreSQL {cluster.server.version}: {', '.join(f'{n.name} :{n.port}' for n in cluster.nodes)}"
        )
        for sql in SETUP:
            cluster.primary.execute(sql.replace("{password}", cluster.password))
        cluster.catch_up()
        proxies = {node: stack.enter_context(FaultProxy(node)) for node in cluster.nodes}
        dsn = FaultProxy.dsn(proxies.values(), user=USER, dbname=cluster.dbname)
        if plan.keep is not None:
            stack.callback(_keep, plan.keep, folder, cluster)
        crew = stack.enter_context(Crew(plan.faces, dsn, folder, writers=plan.writers, readers=plan.readers))
        game = Game(plan, Stage(cluster, proxies, crew, tell))
        game.play()
        late = crew.dismiss(plan.recovery)
        stage = game.stage
        history = History.of(crew.records, stage.rows(), stage.left_behind, zero_loss=plan.mode == "sync")
        verdict = check(history)
        stuck = [*game.stuck, *(Violation(Wrong.STUCK, text) for text in late)]
        verdict = replace(verdict, violations=(*stuck, *verdict.violations))
        result = Result(history, verdict, tuple(game.played), time.monotonic() - begun)
        (folder / "steps.json").write_text(json.dumps(_steps(result), indent=1))
        return result


class Game:
    """The course of a run: step by step, each from a state in which all writers write."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.stage = stage
        self.played: list[Played] = []
        self.stuck: list[Violation] = []
        self._plan = plan

    def play(self) -> None:
        """Play steps until it is time, or until the writers do not come back."""
        self._recover("the start")
        self.stage.say("all writers write")
        until = time.monotonic() + self._plan.seconds
        for step in self._steps():
            if time.monotonic() >= until or self.stuck:
                return
            self.stage.pause(step.calm)
            self.stage.say(str(step))
            begun = time.monotonic()
            with self._overlay(step):
                step.fault.play(self.stage)
            repaired = time.monotonic()
            self._recover(str(step))
            self.played.append(Played(step, begun, repaired, time.monotonic()))

    def _steps(self) -> Iterator[Step]:
        if self._plan.script:
            yield from self._plan.script
            return
        terms = Terms(brisk=self._plan.brisk, workers=len(self._plan.faces))
        for step in schedule(self._plan.seed, terms, self._plan.faults):
            if self._plan.steps is not None and step.number > self._plan.steps:
                return
            yield step

    @contextlib.contextmanager
    def _overlay(self, step: Step) -> Iterator[None]:
        """Play the other fault of a step, if it has one, beside the block; both are repaired when it is left."""
        failures: list[Exception] = []

        def play(overlay: Fault) -> None:
            try:
                self.stage.pause(step.overlay_after)
                overlay.play(self.stage)
            except Exception as exc:  # noqa: BLE001  (raised by the thread that waits for this one)
                failures.append(exc)

        if step.overlay is None:
            yield
            return
        thread = threading.Thread(target=play, args=(step.overlay,), name="overlay")
        thread.start()
        try:
            yield
        except BaseException:
            self.stage.over.set()
            raise
        finally:
            thread.join()
        if failures:
            raise failures[0]

    def _recover(self, after: str) -> None:
        """Wait until every writer has written again, and note those that have not in time."""
        crew, since = self.stage.crew, time.monotonic()
        while waiting := crew.waiting(since):
            dead = crew.dead()
            late = time.monotonic() - since > self._plan.recovery
            if dead or late:
                crew.ask_state()
                texts = dead or [f"{who} did not write within {self._plan.recovery:g} s" for who in waiting]
                self.stuck += (Violation(Wrong.STUCK, f"{text} after {after}") for text in texts)
                for violation in self.stuck:
                    self.stage.say(str(violation))
                return
            time.sleep(0.02)


def _keep(target: Path, folder: Path, cluster: LocalCluster) -> None:
    """Copy the workers' journals and logs, and the servers' logs."""
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        shutil.copy(path, target)
    for node in cluster.nodes:
        (target / f"{node.name}.log").write_text(node.log())


def _steps(result: Result) -> Sequence[dict[str, object]]:
    return [
        {
            "step": str(played.step),
            "begun": played.begun,
            "repaired": played.repaired,
            "recovered": played.recovered,
        }
        for played in result.played
    ]
