"""What the scripts of docker/ start, they end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.conftest import ports_free
from tests.docker.containers import ROOT, docker

KINDS = {
    "containers": ("ps", "-aq"),
    "volumes": ("volume", "ls", "-q"),
    "networks": ("network", "ls", "-q"),
}


def left(project: str) -> dict[str, list[str]]:
    """Return what there is of a project."""
    label = f"label=com.docker.compose.project={project}"
    return {kind: docker(*command, "--filter", label).split() for kind, command in KINDS.items()}


def run(*command: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [ROOT / "docker" / command[0], *command[1:]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    ).stdout


@pytest.fixture
def environment(images: None) -> Iterator[dict[str, str]]:
    """A project of the test's own, on ports that Docker chooses; it is ended whatever the test does."""
    project = f"pgroute-test-scripts-{os.getpid()}"
    environment = {"PGROUTE_PROJECT": project, **ports_free("DB1", "DB2", "DB3")}
    yield environment
    run("down", "primary-replica", environment=environment)


def test_up_and_down_leave_nothing(environment: dict[str, str]) -> None:
    shown = run("up", "primary-replica", environment=environment).splitlines()
    assert [line.split()[:3] for line in shown[-3:]] == [
        ["db1", "running", "primary"],
        ["db2", "running", "standby"],
        ["db3", "running", "standby"],
    ]
    there = left(environment["PGROUTE_PROJECT"])
    assert len(there["containers"]) == len(there["volumes"]) == 3
    assert len(there["networks"]) == 2
    run("down", "primary-replica", environment=environment)
    assert not any(left(environment["PGROUTE_PROJECT"]).values())


@pytest.mark.parametrize("command", ["up", "down"])
def test_an_unknown_cluster_is_refused(compose_command: str, command: str) -> None:
    done = subprocess.run(
        [ROOT / "docker" / command, "nonsense"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no cluster nonsense: there are primary-replica, patroni and pgbouncer" in done.stderr
