"""A cluster is its owner's alone: other users of the machine are let in nowhere, and lead root to no file of theirs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute.testing import ClusterError, FaultProxy, LocalCluster, Node, find_server
from pgroute.testing.account import server_account
from pgroute.testing.initdb import run_initdb
from pgroute.testing.processes import _remove_segment
from pgroute.testing.sandbox import Sandbox
from tests.conftest import EACH_VERSION

pytestmark = pytest.mark.cluster

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers are another user's")


@pytest.fixture
def stopped() -> Iterator[Node]:
    """Give a node whose server was never started."""
    server = find_server()
    with contextlib.closing(Sandbox(server)) as sandbox:
        passfile = sandbox.make_file("passfile", "")
        node = Node("node1", sandbox, dbname="postgres", passfile=passfile, find_primary=lambda: node)
        run_initdb(server, sandbox, node.data_dir, 60.0)
        yield node


# Who is let in.


@pytest.mark.parametrize("version", EACH_VERSION)
def test_nobody_is_let_in_without_the_password(version: int) -> None:
    with LocalCluster(1, version=version) as cluster:
        cluster.primary.execute("CREATE ROLE app LOGIN SUPERUSER")
        cluster.catch_up()
        for node in cluster.nodes:
            places = {node.host, node.socket_dir and str(node.socket_dir)} - {None}
            for host in places:
                for user in ("postgres", "app"):
                    for replication in ("false", "true", "database"):
                        there: dict[str, Any] = {
                            "host": host,
                            "port": node.port,
                            "user": user,
                            "replication": replication,
                        }
                        refusals = {"": "no password supplied", "guess": "password authentication failed"}
                        for password, told in refusals.items():
                            with pytest.raises(psycopg.OperationalError, match=told):
                                psycopg.connect(
                                    **there, dbname="postgres", password=password, passfile="/nonexistent"
                                )
            with psycopg.connect(node.conninfo) as conn:
                assert conn.pgconn.used_password


def test_each_cluster_has_a_password_of_its_own_unless_it_is_given_one(
    shared: LocalCluster, pgroute_cluster_factory: Any
) -> None:
    stranger = pgroute_cluster_factory(0)
    assert stranger.password != shared.password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stranger.primary.conninfo, passfile=str(shared.passfile))
    other = pgroute_cluster_factory(0, password=shared.password)
    with psycopg.connect(other.primary.conninfo, passfile=str(shared.passfile)) as conn:
        assert conn.info.port == other.primary.port


@pytest.mark.parametrize("password", ["a:b\\c 'd\" %{}", "x" * 200])
def test_any_printable_password_works(password: str, pgroute_cluster_factory: Any) -> None:
    cluster = pgroute_cluster_factory(1, password=password)
    with psycopg.connect(cluster.dsn) as conn:
        assert conn.pgconn.used_password
    with psycopg.connect(host="127.0.0.1", port=cluster.primary.port, user="postgres", password=password):
        pass


@pytest.mark.parametrize("password", ["", "x" * 201, "two\nlines", "geheimnis\N{LATIN SMALL LETTER SHARP S}"])
def test_a_password_that_a_password_file_cannot_hold_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        LocalCluster(password=password)
    assert not password or password not in str(caught.value)


def test_the_environments_password_is_not_taken_for_the_clusters(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "another one")
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    with FaultProxy(shared.primary) as proxy, FaultProxy(proxy) as outer:
        for conninfo in (
            shared.dsn,
            shared.primary.conninfo,
            FaultProxy.dsn([proxy]),
            FaultProxy.dsn([outer]),
        ):
            with psycopg.connect(conninfo) as conn:
                assert conn.pgconn.used_password


def test_the_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    start: Callable[..., None] = subprocess.Popen.__init__

    def note(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        told.append(f"{args} {options.get('env')}")
        start(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    settings = {"log_statement": "all", "log_connections": "on", "log_replication_commands": "on"}
    with LocalCluster(1, settings=settings) as cluster:
        old, new = cluster.nodes
        old.kill()
        cluster.promote()
        old.rejoin()
        old._copy_from(new, timeout=60.0)
        told += [repr(cluster), repr(cluster.nodes), cluster.dsn, *(node.conninfo for node in cluster.nodes)]
        told += [node.log() for node in cluster.nodes]
        for node in cluster.nodes:
            told.append((node.data_dir / "postgresql.auto.conf").read_text())
        with pytest.raises(ClusterError) as caught:
            old._sandbox.run("pg_rewind", "-D", old.data_dir, "--source-server", new.tool_conninfo)
        told.append(str(caught.value))
        assert any("pg_rewind" in text for text in told)
        assert any("pg_basebackup" in text for text in told)
        assert cluster.password not in "\n".join(told)


def test_its_files_are_closed_to_others(shared: LocalCluster) -> None:
    folder = shared.passfile.parent
    assert stat.S_IMODE(folder.stat().st_mode) & 0o007 == 0
    assert stat.S_IMODE(shared.passfile.stat().st_mode) == 0o600
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0 or path.name == "server", f"{path} {mode:o}"


@as_root
def test_another_user_reads_neither_the_password_nor_reaches_a_socket(shared: LocalCluster) -> None:
    account = server_account()
    assert account is not None
    stranger = next(u for u in pwd.getpwall() if u.pw_uid not in (0, account.uid) and u.pw_gid != account.gid)
    for path in (shared.passfile, shared.primary.log_path, shared.primary.socket_dir):
        done = subprocess.run(
            ["/bin/ls" if path == shared.primary.socket_dir else "/bin/cat", str(path)],
            user=stranger.pw_uid,
            group=stranger.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0, done.stdout) == (True, "")
        assert "Permission denied" in done.stderr


# What the servers' user plants where root works.


class Victim:
    """A file and a folder of root's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "victim"
        self.folder.mkdir(mode=0o755)
        self.file = self.folder / "000000010000000000000001"
        self.file.write_bytes(b"root's" + bytes(100))
        self.file.chmod(0o600)
        self._before = self._look()

    def _look(self) -> list[Any]:
        told: list[Any] = [sorted(path.name for path in self.folder.iterdir()), self.file.read_bytes()]
        for path in (self.folder, self.file):
            found = path.stat()
            told.append((found.st_uid, found.st_gid, found.st_mode, found.st_size, found.st_blocks))
        return told

    def is_untouched(self) -> bool:
        return self._look() == self._before


@pytest.fixture
def victim(temporary: Path) -> Victim:
    return Victim(temporary)


def as_servers(node: Node, script: str, *arguments: object) -> str:
    """Run a shell script as the servers' user."""
    return node._sandbox.run("/bin/sh", "-c", f"set -e; {script}", "sh", *map(str, arguments))


def replace_by_link(node: Node, name: str, target: Path) -> None:
    as_servers(node, 'rm -rf "$1"; ln -s "$2" "$1"', node.data_dir / name, target)


@as_root
@pytest.mark.parametrize("name", ["standby.signal", "postgresql.auto.conf"])
def test_a_standby_is_configured_through_no_link(stopped: Node, victim: Victim, name: str) -> None:
    replace_by_link(stopped, name, victim.file)
    refused = pytest.raises(ClusterError, match=f"{name} is a link") if name.endswith("conf") else None
    with refused or contextlib.nullcontext():
        stopped.configure_standby(stopped)
    assert victim.is_untouched()


@as_root
@pytest.mark.parametrize("name", ["postgresql.conf", "pg_hba.conf"])
def test_a_server_is_configured_through_no_link(
    monkeypatch: pytest.MonkeyPatch, victim: Victim, name: str
) -> None:
    def make_and_plant(server: Any, sandbox: Any, folder: Path, timeout: float) -> None:
        run_initdb(server, sandbox, folder, timeout)
        sandbox.run("/bin/ln", "-sf", victim.file, folder / name)

    monkeypatch.setattr("pgroute.testing.initdb.run_initdb", make_and_plant)
    with pytest.raises(ClusterError, match=f"{name} is a link"):
        LocalCluster(0).start()
    assert victim.is_untouched()


@as_root
def test_a_file_with_a_second_name_elsewhere_is_not_written(stopped: Node) -> None:
    settings = stopped.data_dir / "postgresql.auto.conf"
    own = stopped._sandbox.folder / "own"  # on the same file system
    own.write_text("root's")
    settings.unlink()
    settings.hardlink_to(own)
    with pytest.raises(ClusterError, match="is a link"):
        stopped.configure_standby(stopped)
    assert own.read_text() == "root's"


@as_root
def test_a_lock_file_that_is_a_pipe_holds_nobody_up(stopped: Node) -> None:
    lock = stopped.data_dir / "postmaster.pid"
    as_servers(stopped, 'mkfifo "$1"', lock)
    with pytest.raises(ClusterError, match="is a link, or no file"):
        stopped._ready()
    _remove_segment(lock)


@as_root
def test_the_servers_user_can_replace_nothing_that_root_looks_up(stopped: Node, victim: Victim) -> None:
    folder = stopped._sandbox.folder
    stopped._sandbox.spawn(stopped.data_dir, ["--version"], stopped.log_path).wait(10)
    attempts = (
        f"ln -s {victim.file} {folder}/node3.log",
        f"mv {stopped.data_dir} {folder}/elsewhere",
        f"rm -f {stopped.log_path}",
        f"ln -sf {victim.file} {stopped.passfile}",
        f"chmod 777 {folder}",
        f"echo >> {stopped.log_path}",
    )
    for attempt in attempts:
        with pytest.raises(ClusterError, match=r"Permission denied|Operation not permitted|cannot"):
            as_servers(stopped, attempt)


def test_what_links_lead_to_stays_when_the_cluster_goes(stopped: Node, victim: Victim) -> None:
    for name, target in {"folder": victim.folder, "file": victim.file}.items():
        as_servers(stopped, 'ln -s "$1" "$2"', target, stopped.data_dir / name)
    stopped._sandbox.close()
    assert not stopped.data_dir.exists()
    assert victim.is_untouched()


@as_root
def test_another_users_shared_memory_is_not_removed(temporary: Path) -> None:
    account = server_account()
    assert account is not None
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x70670000 | (os.getpid() & 0xFFFF)
    segment = libc.shmget(key, 4096, 0o1000 | 0o2000 | 0o600)  # IPC_CREAT | IPC_EXCL
    assert segment >= 0, os.strerror(ctypes.get_errno())
    lock = temporary / "postmaster.pid"
    lock.write_text("1\n\n\n\n\n\n" + f"{key} {segment}\nready\n")

    def is_there() -> bool:
        return any(
            line.split()[1] == str(segment) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        )

    try:
        os.chown(lock, account.uid, account.gid)
        _remove_segment(lock)
        assert is_there()
        os.chown(lock, 0, 0)
        _remove_segment(lock)
        assert not is_there(), "that of the file's owner is"
    finally:
        libc.shmctl(segment, 0, None)
