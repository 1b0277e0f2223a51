"""A short run: workers of both faces against a cluster that fails in a known sequence of ways, and the check."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.clients import Terminate
from tests.chaos.failover import Crash, Freeze, Overtake
from tests.chaos.journal import Outcome
from tests.chaos.nemesis import Step
from tests.chaos.network import LostCommit, Partition
from tests.chaos.run import Plan, Result, run

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("PGROUTE_CHAOS_SEED", "20"))
"""Another sequence can be asked for; the verdict must be the same."""


def play(plan: Plan) -> Result:
    """Run it, and fail with all that is wrong."""
    lines: list[str] = [f"seed {plan.seed}"]
    result = run(plan, lines.append)
    assert not result.verdict.violations, "\n".join([*lines, *map(str, result.verdict.violations)])
    return result


def test_nothing_acknowledged_is_lost_and_nobody_is_misled() -> None:
    faults = (Crash, Freeze, Partition, Terminate, LostCommit)
    result = play(
        Plan(seed=SEED, seconds=30, steps=len(faults), faces=("sync", "async"), faults=faults, brisk=True)
    )
    assert len(result.played) == len(faults)
    assert result.history.count(Outcome.ACKNOWLEDGED) > 200
    assert {read.recovering for read in result.history.reads if read.port} >= {True}
    assert max(row.timeline for row in result.history.rows) == 4


@pytest.mark.long
def test_without_synchronous_replication_only_the_servers_lose() -> None:
    script = (
        Step(1, 0.2, Crash("kill", promoted=0.3, held=(1, 2), lag=0.3, frozen=0, back=0.0)),
        Step(2, 0.2, Overtake(lag=0.3, beside=0.3)),
    )
    result = play(Plan(seed=SEED, seconds=30, script=script, mode="async-replication", faces=("async",)))
    told = {
        row.id for row in result.history.left_behind if result.history.outcome(row.id) is Outcome.ACKNOWLEDGED
    }
    # What was written in the seconds before, which no standby received.
    assert result.verdict.lost_by_servers == len(told) > 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process started here can be interrupted, also where the tests run in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--brisk", "--seed", str(SEED)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("all writers write" in line for line in process.stdout)
        started = offspring(process.pid)
        servers = {folder for folder in started.values() if "pgroute-" in folder.parent.name}
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 130
    assert len(servers) == 3
    assert not [folder for folder in servers if folder.exists()]
    assert not any(tmp_path.iterdir())
    assert not started.keys() & {identity for identity, *_ in processes()}


def processes() -> Iterator[tuple[tuple[int, str], int, Path]]:
    """Yield the identity (pid and time of the start), the parent and the working directory of each live process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone
                state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
                if state != "Z":
                    yield (int(entry.name), rest[17]), int(parent), (entry / "cwd").readlink()


def offspring(pid: int) -> dict[tuple[int, str], Path]:
    """Return the processes below one, and their working directories."""
    listing = list(processes())
    found: dict[tuple[int, str], Path] = {}
    family = {pid}
    while fresh := {
        identity: cwd for identity, parent, cwd in listing if parent in family and identity not in found
    }:
        found |= fresh
        family = {child for child, _ in fresh}
    return found
