"""Processes that share a watch, which a test asks, stops and ends as it likes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any, Self

PROGRAM = """
import json, os, pathlib, signal, socket, sys, time
import pgroute

look_up = socket.getaddrinfo

def getaddrinfo(name, *given, **more):
    if not str(name).endswith(".test"):
        return look_up(name, *given, **more)
    zone = json.loads(pathlib.Path(os.environ["TMPDIR"], "zone").read_text())
    if name not in zone:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in zone[name]]

socket.getaddrinfo = getaddrinfo

def answer(router, events, command, *given):
    match command:
        case "sharing":
            return {str(key): [s.mode, s.others, s.reason] for key, s in router.stats().watches.items()}
        case "hosts":
            return [
                [host.role.value if host.role else None, host.state.value, host.last_seen]
                for host in router.topology.hosts
            ]
        case "reason":
            return router.topology.hosts[0].reason
        case "addresses":
            names = router._manager.watch._membership._names
            return [names.found(question).records for question in names._watchers]
        case "primary":
            return str(router.topology.primary and router.topology.primary.key)
        case "events":
            return [events.pop(0) for _ in range(len(events))]
        case "kick":
            key = router.topology.hosts[0].key
            router._manager.watch.kick(key, fresh=bool(given))
            until = time.monotonic() + 10
            while not router._manager.watch.heard(key):
                assert time.monotonic() < until
                time.sleep(0.001)
            return True
        case "write":
            with router.writer(given[0]) as conn:
                return conn.info.port
        case "fork":
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            return child

def serve(commands, dsn, environment, probe):
    os.environ.update(environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    events = []
    router = pgroute.Router(dsn, probe=pgroute.ProbeOptions(**{"share": True, **probe}))
    router.subscribe(lambda event: events.append(event.kind.value))  # before it is opened, so that none is missed
    with commands, router:
        while data := commands.recv(65536):
            commands.send(json.dumps(answer(router, events, *json.loads(data))).encode())

# Forks, as a server does, for each process that a test wants: to import pgroute takes far longer.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
master = socket.socket(fileno=int(sys.argv[1]))
master.send(b"ready")
while True:
    data, fds, _, _ = socket.recv_fds(master, 65536, 1)
    if not data:
        break
    child = os.fork()
    if not child:
        master.close()
        try:
            serve(socket.socket(fileno=fds[0]), *json.loads(data))
        finally:
            os._exit(0)
    os.close(fds[0])
    master.send(str(child).encode())
"""


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Return two ends that keep messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Master:
    """The process that forks all others."""

    def __init__(self) -> None:
        self._sock, other = socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(other.fileno())], pass_fds=[other.fileno()]
            )
        self._sock.settimeout(60.0)
        assert self._sock.recv(100) == b"ready"

    def start(self, dsn: str, **probe: Any) -> Process:
        """Start a process with an open router."""
        commands, other = socketpair()
        with other:
            environment = {"TMPDIR": os.environ["TMPDIR"]}
            socket.send_fds(self._sock, [json.dumps([dsn, environment, probe]).encode()], [other.fileno()])
        return Process(int(self._sock.recv(100)), commands)

    def close(self) -> None:
        """End it; its children are ended by whoever started them."""
        self._sock.close()
        self._process.wait(30)


class Process:
    """A process with an open router."""

    def __init__(self, pid: int, commands: socket.socket) -> None:
        self._pid: int | None = pid
        self._commands = commands
        commands.settimeout(60.0)

    def ask(self, command: str, *given: Any) -> Any:
        """Have the process do something, and return what it says."""
        self._commands.send(json.dumps([command, *given]).encode())
        return json.loads(self._commands.recv(65536))

    @property
    def modes(self) -> list[str]:
        """Who watches each host, for this process."""
        return [mode for mode, _, _ in self.ask("sharing").values()]

    @property
    def roles(self) -> list[str]:
        """The role of each host that is up."""
        return [role for role, state, _ in self.ask("hosts") if state == "up"]

    @property
    def last_seen(self) -> float:
        """When the first host was seen last."""
        seen: float = self.ask("hosts")[0][2]
        return seen

    def signal(self, number: int) -> None:
        """Send a signal, to stop or end it at any moment."""
        assert self._pid is not None
        os.kill(self._pid, number)

    def close(self) -> None:
        """Close the router, and wait for the end."""
        pid, self._pid = self._pid, None
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        with self._commands, contextlib.suppress(OSError):
            self._commands.shutdown(socket.SHUT_WR)
            while self._commands.recv(65536):
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
