"""The containers of a Compose project, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
"""Seconds that a command of Docker may take."""

BUILD = 900
"""Seconds that the images may take."""

NO_COMPOSE = "there is no Docker Compose, neither as a plugin nor as a program"


class DockerError(RuntimeError):
    """A command of Docker failed."""


def docker(*arguments: str, stdin: str | None = None, timeout: float = TIMEOUT) -> str:
    """Run a command of Docker and return what it printed.

    Raises:
        DockerError: with what it said.
    """
    return _run("docker", *arguments, stdin=stdin, timeout=timeout)


def find_compose() -> str | None:
    """Return how Compose is called here, as a plugin or as a program; None: there is none."""
    for command in ("docker compose", "docker-compose"):
        with contextlib.suppress(OSError):
            if not subprocess.run(
                [*command.split(), "version"], capture_output=True, timeout=30, check=False
            ).returncode:
                return command
    return None


def script(project: str, name: str, *arguments: str) -> str:
    """Run a script of docker/ for a project and return what it printed.

    Raises:
        DockerError: with what it said.
    """
    return _run(str(ROOT / "docker" / name), *arguments, PGROUTE_PROJECT=project)


def _run(*command: str, stdin: str | None = None, timeout: float = TIMEOUT, **environment: str) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise DockerError(f"{' '.join(command)}: not within {exc.timeout:g} s") from None
    if done.returncode:
        raise DockerError(f"{' '.join(command)}: {done.stderr.strip()}{done.stdout.strip()}")
    return done.stdout


def until(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT, every: float = 0.1) -> None:
    """Wait for a condition; DockerErrors while asking are no answer."""
    since, last = time.monotonic(), ""
    while time.monotonic() - since < timeout:
        try:
            if condition():
                return
        except DockerError as exc:
            last = str(exc)
        time.sleep(every)
    raise AssertionError(f"not within {timeout:g} s: {what} {last}")


class Containers:
    """The services of one project, by their names.

    Args:
        project: Compose's name of it.
    """

    password = secrets.token_hex(16)

    def __init__(self, project: str) -> None:
        self.project = project
        self._ids: dict[str, str] = {}

    def id(self, service: str) -> str:
        """Return the id of a service's container."""
        if service not in self._ids:
            labels = f"project={self.project}", f"service={service}"
            filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
            found = docker("ps", "-aq", "--no-trunc", *filters).split()
            if len(found) != 1:
                raise DockerError(f"{self.project} has {len(found)} containers of {service}")
            self._ids[service] = found[0]
        return self._ids[service]

    def execute(self, service: str, *command: str, user: str = "", stdin: str | None = None) -> str:
        """Run a command inside a container and return what it printed."""
        options = [*(["-u", user] if user else []), *(["-i"] if stdin is not None else [])]
        return docker("exec", *options, self.id(service), *command, stdin=stdin)

    def sql(self, service: str, statement: str, dbname: str = "app") -> list[list[str]]:
        """Run SQL as the superuser, inside the server's container."""
        command = ["psql", "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", dbname, "-c", statement]
        return [line.split("\t") for line in self.execute(service, *command, user="postgres").splitlines()]

    def kill(self, *services: str) -> None:
        docker("kill", *map(self.id, services))

    def stop(self, service: str) -> None:
        docker("stop", "-t", "30", self.id(service))

    def start(self, *services: str) -> None:
        docker("start", *map(self.id, services))

    def pause(self, service: str) -> None:
        docker("pause", self.id(service))

    def unpause(self, service: str) -> None:
        docker("unpause", self.id(service))

    def state(self, service: str) -> str:
        """Return "running", "paused", "exited" and so on."""
        return docker("inspect", "-f", "{{.State.Status}}", self.id(service)).strip()

    def cut(self, service: str, *networks: str) -> None:
        """Take a container off networks: what was sent to it or by it is lost, nobody is told."""
        for network in networks:
            docker("network", "disconnect", "-f", f"{self.project}_{network}", self.id(service))

    def join(self, service: str, network: str, alias: str = "") -> None:
        """Put a container on a network."""
        options = ["--alias", alias] if alias else []
        docker("network", "connect", *options, f"{self.project}_{network}", self.id(service))

    def networks(self, service: str) -> set[str]:
        """Return the networks that a container is on, by their names in the Compose file."""
        form = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
        names = docker("inspect", "-f", form, self.id(service)).split()
        return {name.removeprefix(f"{self.project}_") for name in names}

    def log(self, service: str) -> str:
        """Return what a container has printed, each line behind the time at which Docker took it."""
        done = subprocess.run(
            ["docker", "logs", "-t", self.id(service)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        return done.stdout

    def logged(self, service: str, text: str, since: float) -> float | None:
        """Return when a container first printed a text after a moment; both are of CLOCK_MONOTONIC, in seconds."""
        offset = time.time() - time.monotonic()
        for line in self.log(service).splitlines():
            stamp, _, said = line.partition(" ")
            if text in said and (at := _moment(stamp) - offset) >= since:
                return at
        return None

    def leave_in(self, service: str, folder: Path, target: str) -> None:
        """Copy a folder into a container."""
        docker("cp", str(folder), f"{self.id(service)}:{target}")


def _moment(stamp: str) -> float:
    """Return the seconds since the epoch of a time as Docker writes it, with nanoseconds."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
