"""The demonstration of examples/docker, as a visitor runs it: under load, with its leader killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.docker.containers import ROOT, docker

TIMEOUT = 200.0
CLEANING = 60.0

LINE = re.compile(r" *\d+ +(?P<orders>\d+) +(?P<reads>\d+) +(?P<errors>\d+) +\S+ +\S+ +\S+ *(?P<told>.*)")


def run(project: str, folder: Path) -> str:
    """Run the demonstration and return what it printed; if it hangs, it is ended as Ctrl-C does."""
    environment = {**os.environ, "PGROUTE_PROJECT": project, "PGROUTE_APP_PORT": "", "TMPDIR": str(folder)}
    with subprocess.Popen(
        [ROOT / "examples" / "docker" / "run", "3"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            print(process.communicate(timeout=CLEANING)[0])
            raise
    assert process.returncode == 0, said
    print(said)
    return said


def leftovers(project: str) -> list[str]:
    """Return what is left of a project: containers, volumes, networks and images."""
    label = f"label=com.docker.compose.project={project}"
    found = docker("ps", "-aq", "--filter", label) + docker("volume", "ls", "-q", "--filter", label)
    found += docker("network", "ls", "-q", "--filter", label)
    found += docker("image", "ls", "-q", "--filter", f"reference={project}*")
    return found.split()


@pytest.mark.long
@pytest.mark.usefixtures("images")
def test_orders_wait_and_none_fails_while_the_leader_is_killed(tmp_path: Path) -> None:
    project = f"pgroute-test-demo-{os.getpid()}"
    said = run(project, tmp_path)

    [old] = re.findall(r"killing (pg\d), the leader", said)
    [new] = re.findall(r"(pg\d) is the leader now", said)
    assert new != old
    lines = [match.groupdict() for match in map(LINE.fullmatch, said.splitlines()) if match]
    hosts = [line["told"][:3] for line in lines if line["told"].startswith("pg")]
    assert (hosts[0], hosts[-1]) == (old, new)
    outage = [line for line in lines if "orders wait" in line["told"] and line["orders"] == "0"]
    assert outage
    assert sum(int(line["reads"]) for line in outage) > 0
    assert {line["errors"] for line in lines} == {"0"}

    [orders] = re.findall(r"^(\d+) orders acknowledged, \d+ reads, 0 errors$", said, re.MULTILINE)
    assert sum(int(line["orders"]) for line in lines) <= int(orders)
    account = f"{orders} orders acknowledged: {orders} found once, 0 missing, 0 there more than once"
    assert account in said.splitlines()
    assert re.search(rf"^\d\d:\d\d:\d\d primary is {new}:5432, timeline \d+, after ", said, re.MULTILINE)

    assert leftovers(project) == []
    assert list(tmp_path.iterdir()) == []
