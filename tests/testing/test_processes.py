"""Which processes are a server's: all of them, however it was started, and nobody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgroute.testing import LocalCluster, find_server, processes
from pgroute.testing.binaries import TOOLS
from pgroute.testing.sandbox import Sandbox
from tests.testing.test_local_cluster import nothing_left

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="what is shown of processes differs"),
]

SLEEP = "/bin/sleep"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program, which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*command: object, **options: object) -> subprocess.Popen[bytes]:
            process: subprocess.Popen[bytes] = subprocess.Popen([*map(str, command)], **options)  # type: ignore[call-overload]
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_processes_that_have_to_do_with_a_server_are_not_taken_for_its_own(
    start: Start, temporary: Path
) -> None:
    with LocalCluster(1) as cluster:
        node, other = cluster.nodes
        folder = node.data_dir.parent
        found = set(processes.members(folder))
        servers = [set(processes.members(folder, each.name)) for each in cluster.nodes]
        assert not servers[0] & servers[1]
        assert servers[0] | servers[1] == found
        uid_and_gid = node._sandbox.owner or (os.getuid(), os.getgid())
        owner = dict(zip(("user", "group"), uid_and_gid, strict=True))
        links = temporary / "links"
        links.mkdir()
        same, similar = links / processes.link_name(node.data_dir), links / "postgresAAAAAAA"
        for link in (same, similar):
            link.symlink_to(SLEEP)
        shell = ("/bin/sh", "-c", "read x")
        strangers = [
            start(SLEEP, 600, cwd=node.data_dir, **owner),
            start(*shell, "postgres", "-D", node.data_dir, cwd="/", stdin=subprocess.PIPE, **owner),
            start(similar, 600, cwd="/", **owner),
        ]
        if node._sandbox.owner is not None:
            strangers.append(start(same, 600, cwd="/"))  # of another user
        pids = {process.pid for process in strangers}
        assert not pids & set(processes.members(folder))
        assert not pids & set(processes.members(folder, node.name))
        node.kill()
        other.freeze()
        assert not any(process.poll() for process in strangers)
        assert "T" not in {state(pid) for pid in pids}
    assert not any(process.poll() for process in strangers)


def test_where_there_is_no_proc_all_processes_are_found_by_their_parents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_LINUX", False)
    with LocalCluster(1) as cluster:
        node, other = cluster.nodes
        backends = [
            pid for (pid,) in node.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        ]
        node.freeze()
        assert {state(pid) for pid in backends} == {"T"}
        node.thaw()
        node.kill()
        assert not any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in backends)
        assert other.execute("SELECT 1") == [(1,)]
        other.freeze()
    assert nothing_left(node.data_dir.parent)


def test_a_signal_does_not_reach_a_process_that_has_the_pid_of_a_member_now(start: Start) -> None:
    process = start(SLEEP, 600)
    started = processes._process(process.pid).started
    processes._signal(process.pid, f"{int(started) - 1}", signal.SIGKILL)
    processes._signal(process.pid, started, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])


def test_each_server_has_a_name_of_its_own_that_the_kernel_keeps() -> None:
    paths = [Path(f"/tmp/pgroute-{letter}/node{number}") for letter in "abc" for number in range(100)]
    names = {processes.link_name(path) for path in paths}
    assert len(names) == len(paths)
    assert {len(name) for name in names} == {15}


def test_a_server_behind_a_script_is_killed_with_all_its_processes(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    real = find_server()
    scripts = temporary / "scripts"
    scripts.mkdir()
    for tool in TOOLS:
        script = scripts / tool
        script.write_text(f'#!/bin/sh\nexec {real.bindir / tool} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(scripts), prepend=os.pathsep)
    with LocalCluster(0, version=real.version) as cluster:
        assert cluster.server.bindir == scripts
        node = cluster.primary
        with contextlib.closing(psycopg.connect(node.conninfo, autocommit=True)) as session:
            backends = [pid for (pid,) in session.execute("SELECT pid FROM pg_stat_activity")]
            node.freeze()
            assert {state(pid) for pid in backends} == {"T"}
            node.thaw()
            assert session.execute("SELECT 1").fetchall() == [(1,)]
            node.kill()
            assert not any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in backends)
        node.start()
        node.freeze()
    assert nothing_left(node.data_dir.parent)


def test_a_process_that_has_the_pid_of_a_child_now_is_no_member(start: Start) -> None:
    with contextlib.closing(Sandbox(find_server())) as sandbox:
        shell = start(
            "/bin/sh", "-c", "sleep 60 & echo $!; wait", stdout=subprocess.PIPE, start_new_session=True
        )
        assert shell.stdout is not None
        try:
            grandchild = int(shell.stdout.readline())
            assert shell.pid in processes.members(sandbox.folder, children=[shell.pid])
            assert processes.members(sandbox.folder, children=[grandchild]) == {}
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
