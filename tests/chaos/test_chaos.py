"""A short run: workers of both faces against a cluster that fails in a known sequence of ways, and the check."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import Crash, Freeze, Overtake, Terminate
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


def test_without_synchronous_replication_only_the_servers_lose() -> None:
    script = (
        Step(1, 0.2, Crash("kill", promoted=0.3, held=(1, 2), lag=0.3, frozen=0, back=0.0)),
        Step(2, 0.2, Overtake(lag=0.3, beside=0.3)),
    )
    result = play(
        Plan(seed=SEED, seconds=30, script=script, mode="async-replication", faces=("async", "sync"))
    )
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
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "all writers write" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    ports = [int(port) for port in re.findall(r"node\d :(\d+)", "".join(lines))]
    assert len(ports) == 3
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert not any(tmp_path.iterdir())
    # The workers' journals are there, so their command lines say so.
    assert not [pid for pid, words in command_lines() if str(tmp_path) in words]


def command_lines() -> list[tuple[str, str]]:
    """Return the command lines of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found.append((entry.name, (entry / "cmdline").read_text(errors="replace")))
        except OSError:  # no process, or gone
            continue
    return found
