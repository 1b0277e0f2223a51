"""What others say is shown and not obeyed: no control characters, no second line, no markup, no end of it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgroute import Event, HostState, NoHostAvailable, ProbeOptions, RetryPolicy, RouteError, Router
from pgroute.cli import main
from pgroute.core.printable import MOST
from tests.refusing import Refusing
from tests.support import eventually, of_a_core

TEXT = (
    "begin \x1b]0;another title\x07\x1b[2J\x9b31m\u202etxt.exe\u2066[red]x[/red] [link=file:///etc]y[/link] [/no] "
    "\r\nFORGED: a line\u2028FORGED: and one\x85FORGED: another\x7f\u200b end"
)
HOSTILE = TEXT.encode() + b"\xff\xfe"
ROOT = Path(__file__).parents[2]
PROBE = ProbeOptions(interval=0.05, timeout=5.0)


def assert_harmless(text: str, *, most: int = 10 * MOST) -> None:
    """Fail for a text that does something to a terminal, or that has lines which somebody else has begun."""
    lines = text.split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.lstrip().startswith("FORGED")] == []
    assert len(text) <= most


class Told:
    """All that is told of a router: its log, its events, its errors."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.events: list[Event] = []
        self.errors: list[BaseException] = []

    def texts(self) -> Iterator[str]:
        """Yield each."""
        formatter = logging.Formatter()
        yield from (formatter.format(record) for record in self._caplog.records if "pgroute" in record.name)
        for event in self.events:
            yield event.text
            yield from (host.reason for host in (event.before, event.after) if host is not None)
        for error in self.errors:
            seen: BaseException | None = error
            while seen is not None:  # as a log shows it
                yield from traceback.format_exception_only(seen)
                seen = seen.__cause__


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    caplog.set_level(logging.DEBUG)
    return Told(caplog)


@contextlib.contextmanager
def opened(dsn: str, told: Told) -> Iterator[Router]:
    """Open a router, and look at all that it has told in the end."""
    router = Router(dsn, probe=PROBE, retry=RetryPolicy(stop=lambda state: state.attempt_number > 2))
    router.subscribe(told.events.append)
    with router:
        yield router
        assert_harmless(str(router.topology))
        for host in router.topology.hosts:
            assert_harmless(host.reason + "\n" + host.degraded, most=2 * MOST + 1)
    texts = list(told.texts())
    assert texts
    for text in texts:
        assert_harmless(text)


@pytest.mark.parametrize("sqlstate", [b"28000", b"53300", b"57P03", b"XX\x1b[0"], ids=repr)
def test_a_refused_login(told: Told, sqlstate: bytes) -> None:
    with Refusing(login=HOSTILE, sqlstate=sqlstate) as server, opened(server.dsn, told) as router:
        with pytest.raises(NoHostAvailable) as caught:
            router.wait(timeout=9.0)
        told.errors.append(caught.value)
        assert "begin \\x1b]0;another title" in router.topology.hosts[0].reason


@pytest.mark.parametrize("sqlstate", [b"XX000", b"42501", b"55000", b"\xff\xfe\x1b[2J"], ids=repr)
def test_a_refused_probe(told: Told, sqlstate: bytes) -> None:
    with Refusing(probe=HOSTILE, sqlstate=sqlstate) as server, opened(server.dsn, told) as router:
        eventually(lambda: "begin \\x1b]0;another title" in router.topology.hosts[0].reason)
        with pytest.raises(NoHostAvailable) as caught:
            router.wait(timeout=0.1)
        told.errors.append(caught.value)


def test_five_megabytes_take_no_time_and_leave_a_line(told: Told) -> None:
    with (
        Refusing(probe=b"a:" * 2_500_000, sqlstate=b"XX000") as server,
        opened(server.dsn, told) as router,
    ):
        eventually(lambda: router.topology.initial_scan_done)
        begun = time.thread_time()
        with pytest.raises(NoHostAvailable) as caught:
            router.wait(timeout=0.2)
        assert time.thread_time() - begun < of_a_core(0.5)
        told.errors.append(caught.value)
        assert 0 < len(router.topology.hosts[0].reason) <= MOST


def test_a_refused_connection_of_a_pool(told: Told) -> None:
    with Refusing(pools=HOSTILE, sqlstate=b"53300") as server, opened(server.dsn, told) as router:

        def refused() -> bool:
            with pytest.raises(RouteError) as caught:
                router.getconn("writer", timeout=0.1)
            told.errors[:] = [caught.value]
            return "begin \\x1b]0;another title" in "".join(told.texts())

        eventually(refused)


def test_a_session_that_is_ended(told: Told) -> None:
    def body(conn) -> None:
        conn.execute("SELECT 1")

    with Refusing(statement=HOSTILE, sqlstate=b"57P01") as server, opened(server.dsn, told) as router:
        with pytest.raises(RouteError) as caught:
            router.run(body, timeout=9.0)
        # What psycopg raised is its own, and what it says is the user's to look at.
        caught.value.__cause__ = None
        told.errors.append(caught.value)
        assert "begin \\x1b]0;another title" in "".join(told.texts())


@pytest.mark.parametrize("parameter", ["encoding", "version"])
def test_a_parameter_of_the_server(told: Told, parameter: str) -> None:
    server = Refusing(statement=HOSTILE)
    setattr(server, parameter, HOSTILE)
    with server, opened(server.dsn, told) as router:
        with pytest.raises(RouteError) as caught:
            router.run(lambda conn: conn.execute("SELECT 1"), timeout=9.0)
        caught.value.__cause__ = None  # psycopg's own
        told.errors.append(caught.value)


def test_a_lookup(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(-2, TEXT)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with opened("postgresql://app@db.example/shop", told) as router:
        eventually(lambda: "begin \\x1b]0;another title" in router.topology.hosts[0].reason)
        with pytest.raises(NoHostAvailable) as caught:
            router.wait(timeout=0.1)
        told.errors.append(caught.value)
        assert router.topology.hosts[0].state is HostState.DOWN


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--json"],
        ["wait", "--timeout", "9"],
        ["dsn", "--timeout", "9"],
        ["install", "--timeout", "9"],
        ["batch", "list", "--timeout", "9"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_command_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with Refusing(login=HOSTILE) as server:
        main(
            [*command[:2], server.dsn, *command[2:]]
            if command[0] == "batch"
            else [command[0], server.dsn, *command[1:]]
        )
    out, err = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(err)
    assert "[red]x[/red] [link=file:///etc]y[/link] [/no]" in out + err
    if "--json" in command:
        [host] = json.loads(out)["hosts"]
        assert_harmless(host["reason"])


def test_the_command_that_follows_the_hosts() -> None:
    with Refusing(login=HOSTILE) as server:
        command = [sys.executable, "-m", "pgroute", "watch", server.dsn]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as watch:
            assert watch.stdout is not None
            lines = [next(watch.stdout) for _ in range(3)]  # two events, and the verdict
            watch.kill()
    for line in lines:
        assert_harmless(line.removesuffix("\n"))
    assert sum("[red]x[/red] [link=file:///etc]y[/link] [/no]" in line for line in lines) == 2
