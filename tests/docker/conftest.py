"""Clusters in containers, made from the Compose files of docker/, for as long as a module's tests need them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import pytest
from pytest_docker.plugin import get_docker_services
from rich.console import Console
from rich.table import Table

from tests.chaos.stage import SETUP
from tests.docker.containers import BUILD, NO_COMPOSE, ROOT, Containers, DockerError, docker, find_compose
from tests.docker.load import Figures

NO_BASE = 77
"""Status of docker/build where neither a registry answers nor a base can be made."""

C = TypeVar("C", bound=Containers)

FIGURES = pytest.StashKey[list[Figures]]()

TABLES = (*SETUP[1:], "CREATE TABLE probe (host text, at timestamptz DEFAULT clock_timestamp())")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here; a scenario with containers may take longer than a test elsewhere."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)
            if item.get_closest_marker("timeout") is None:
                # By a signal, and the test alone: what it started must be cleared away.
                item.add_marker(pytest.mark.timeout(300, method="signal", func_only=True))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print what the faults came to, and write it to the file that PGROUTE_FIGURES names."""
    found = config.stash[FIGURES]
    if not found:
        return
    if path := os.environ.get("PGROUTE_FIGURES"):
        Path(path).write_text(json.dumps([dataclasses.asdict(figures) for figures in found], indent=1) + "\n")
    table = Table(title="what the faults came to")
    durations = "log s", "cluster s", "still s", "first +ms", "last +ms"
    for name in ("fault", "face", *durations, "acked", "?", "no", "lost", "twice"):
        table.add_column(name, justify="left" if name in ("fault", "face") else "right")
    table.add_column("errors of run()")
    for row in found:
        errors = ", ".join(f"{count} {error}" for error, count in sorted(row.errors.items()))
        times = *map(seconds, (row.log, row.cluster, row.still)), *map(milliseconds, (row.first, row.last))
        counts = row.acknowledged, row.unknown, row.failed, row.lost, row.doubled
        table.add_row(row.fault, row.face, *times, *map(str, counts), errors)
    Console(file=terminalreporter._tw._file, width=160).print(table)


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1000:.0f}"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> list[Figures]:
    """Figures put here are shown at the end of the run."""
    return request.config.stash[FIGURES]


@pytest.fixture(scope="session")
def compose_command() -> str:
    """How Compose is called; without an engine and Compose the tests are skipped."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker program")
    try:
        told = subprocess.run(
            ["docker", "info", "-f", "{{.ServerVersion}}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no Docker engine answers within 30 s")
    if told.returncode or not told.stdout.strip():
        pytest.skip(f"no Docker engine answers: {told.stderr.strip().splitlines()[-1:]}")
    command = find_compose()
    if command is None:
        pytest.skip(NO_COMPOSE)
    return command


@pytest.fixture(scope="session")
def images(compose_command: str) -> None:
    """The images, built from this tree."""
    built = subprocess.run(
        [ROOT / "docker" / "build"], capture_output=True, text=True, timeout=BUILD, check=False
    )
    if built.returncode == NO_BASE:
        pytest.skip(f"no base image: {built.stderr.strip()}")
    assert built.returncode == 0, built.stdout + built.stderr
    # Moments that were seen in containers are compared with moments seen here.
    boot = "/proc/sys/kernel/random/boot_id"
    image = os.environ.get("PGROUTE_IMAGE", "pgroute-cluster")
    if docker("run", "--rm", "--network", "none", image, "cat", boot) != Path(boot).read_text():
        pytest.skip("the Docker engine is on another machine, whose clock says something else")


class Clusters(Generic[C]):
    """The cluster at hand, or another one if a test has left it in pieces.

    Args:
        start: starts one, for as long as the block.
        repair: makes the one at hand whole again, or raises AssertionError or DockerError.
    """

    def __init__(
        self, start: Callable[[], contextlib.AbstractContextManager[C]], repair: Callable[[C], object]
    ) -> None:
        self._start = start
        self._repair = repair
        self._stack = contextlib.ExitStack()
        self._cluster: C | None = None

    def whole(self) -> C:
        """Return a cluster that is whole."""
        if self._cluster is not None:
            try:
                self._repair(self._cluster)
            except (AssertionError, DockerError):
                self.close()
        if self._cluster is None:
            self._cluster = self._stack.enter_context(self._start())
        return self._cluster

    def close(self) -> None:
        """End the cluster at hand."""
        self._cluster = None
        self._stack.close()


@contextlib.contextmanager
def project(
    command: str, name: str, *files: str, environment: dict[str, str] | None = None
) -> Iterator[Containers]:
    """Start the containers of a cluster, with what the tests add, and remove all that is theirs in the end."""
    paths = [ROOT / "docker" / file / "compose.yaml" for file in files]
    paths.append(ROOT / "tests" / "docker" / "compose" / f"{name}.yaml")
    containers = Containers(f"pgroute-test-{name}-{os.getpid()}")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"PGROUTE_PASSWORD": containers.password, **(environment or {})}.items():
            patch.setenv(key, value)
        plan = command, [str(path) for path in paths], containers.project
        try:
            with get_docker_services(*plan, ["up -d --no-build"], ["down -v -t 1"]):
                yield containers
        except BaseException:
            # It does not clear away what was started before a start that failed.
            with contextlib.suppress(Exception), get_docker_services(*plan, [], ["down -v -t 1"]):
                pass
            raise


def put_application(containers: Containers, primary: str, hosts: str, *services: str) -> None:
    """Make the tables, and put the tests' own modules where the application runs."""
    for statement in TABLES:
        containers.sql(primary, f"SET ROLE app; {statement}")
    for service in services:
        containers.execute(service, "mkdir", "-p", "/srv/app/tests", user="root")
        for folder in ("chaos", "docker"):
            containers.leave_in(service, ROOT / "tests" / folder, f"/srv/app/tests/{folder}")
    dsn = f"postgresql://app:{containers.password}@{hosts}/app"
    containers.execute(services[0], "pgroute", "install", dsn)


def ports_free(*names: str) -> dict[str, str]:
    """Return what has Compose choose the ports on this machine."""
    return {f"PGROUTE_{name}_PORT": "" for name in names}
