"""Clusters for the tests, and the check that each test leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgroute.testing import LocalCluster, Node, available_versions
from pgroute.testing.account import server_account, temporary_root
from pgroute.testing.errors import ServerNotFound
from pgroute.testing.initdb import run_initdb
from pgroute.testing.server import Server
from tests import environment, majors
from tests.initdb_cache import TEMPLATES, InitdbCache, Templates, copy
from tests.kept_sessions import KEPT
from tests.support import STALLS

# The same examples for everybody; the profile in force, the parent otherwise, is another one where CI is set.
hypothesis.settings.register_profile(
    "pgroute",
    hypothesis.settings.get_profile("default"),
    derandomize=True,
    # They fail on a busy machine, and say nothing there.
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# With --hypothesis-profile=random: others in each run.
hypothesis.settings.register_profile(
    "random", hypothesis.settings.get_profile("pgroute"), derandomize=False, print_blob=True
)
hypothesis.settings.load_profile("pgroute")

LEFT_OUT = majors.leave_out_others()

VERSIONS = sorted({server.major for server in available_versions()})
"""PostgreSQL majors: those of the wheel and those of the system."""

EACH_VERSION = [
    pytest.param(major, marks=() if major in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.long)
    for major in VERSIONS
]

PROGRAMS = Path(__file__).with_name("programs")
"""A folder for the PYTHONPATH of programs that tests start."""

PATIENCE = 10.0
"""Seconds that what a test has ended may take to be gone."""

# Threads of the loop's default executor, in which `async_call` runs, end with the loop.
KNOWN_THREADS = ("asyncio_",)

SERIAL = itertools.count(1)

Execute = Callable[[Node, str], list[tuple[Any, ...]]]

INSPECTORS: list[Inspector] = []

BACKENDS = (
    "SELECT format('%s %s %s: %s (waits for %s %s, since %s)', pid, application_name, state, query, wait_event_type,"
    " wait_event, backend_start) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND application_name <> 'pgroute-testing'"
)


@pytest.hookimpl(trylast=True)  # pytest itself may have its colours
def pytest_configure() -> None:
    environment.neutralize()
    environment.use_memory()


def pytest_report_header() -> str:
    told = f"PostgreSQL: {', '.join(map(str, VERSIONS)) or 'none'}"
    return told + "".join(f"; left out: {server.version} in {server.bindir}" for server in LEFT_OUT)


def pytest_sessionstart(session: pytest.Session) -> None:
    if not (hasattr(session.config, "workerinput") or session.config.option.collectonly):
        with contextlib.suppress(ServerNotFound):  # the tests that need a server say so
            session.config.add_cleanup(Templates().close)


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over the modules and tests, which live as long as the run.

    They are some 400,000 objects: to walk through them took a good part of the time of all tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 10, 10)  # every 700 allocations it takes a twentieth of the time


def pytest_runtest_setup() -> None:
    STALLS.forget()


@pytest.fixture(scope="session", autouse=True)
def stalls() -> Iterator[None]:
    """How long this process stands still is measured, for `within`."""
    with STALLS.measured():
        yield


@pytest.fixture(scope="session", autouse=True)
def initdb_cache() -> Iterator[None]:
    """Most clusters of this run copy what initdb made for one before, and share files that are only read.

    Those of the programs that tests start do so too.
    """
    if TEMPLATES not in os.environ:
        yield
        return
    cache = InitdbCache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgroute.testing.initdb.run_initdb", cache.fill)
        patch.setattr("pgroute.testing.sandbox.Sandbox.copy", copy)
        patch.setenv("PYTHONPATH", str(PROGRAMS), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_sessions() -> Iterator[None]:
    """`Node.execute` logs in as rarely as it can. A server that is stopped finds no session of it."""
    stop, stop_all = Server.stop, LocalCluster.stop

    def stop_one(server: Server, *args: Any, **given: Any) -> None:
        KEPT.forget(server.port)
        stop(server, *args, **given)

    def stop_cluster(cluster: LocalCluster) -> None:
        for node in cluster.nodes:
            KEPT.forget(node.port)
        stop_all(cluster)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgroute.testing.server.run_query", KEPT.run)
        patch.setattr(Server, "stop", stop_one)
        patch.setattr(LocalCluster, "stop", stop_cluster)
        yield
    KEPT.forget()


@pytest.fixture
def real_initdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cluster of this test has a system identifier that no other one of this run has."""
    monkeypatch.setattr("pgroute.testing.initdb.run_initdb", run_initdb)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has plenty of time to answer a cancel request, whose 0.2 s a busy machine may not give it."""
    for face in ("_async", "_sync"):
        for bound in ("_LEAST_PATIENCE", "_MOST_PATIENCE"):
            monkeypatch.setattr(f"pgroute.{face}.pool.lease.{bound}", 30.0)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that any user may enter: servers may run as another one.

    Those of pytest are closed to others whenever another run of pytest begins.
    """
    root = temporary_root(server_account())  # TMPDIR may be root's alone
    with tempfile.TemporaryDirectory(prefix="pgroute-test-", dir=root, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(params=EACH_VERSION, ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A fresh primary with two standbys, which the test may break as it likes; once for each version."""
    with LocalCluster(version=request.param) as cluster:
        yield cluster
        assert_no_backends(cluster)


@pytest.fixture
def any_cluster() -> Iterator[LocalCluster]:
    """A fresh primary with two standbys of the newest version, to break where the version does not matter."""
    with LocalCluster() as cluster:
        yield cluster
        assert_no_backends(cluster)


@pytest.fixture
def synchronous_cluster() -> Iterator[LocalCluster]:
    """A fresh primary whose commits wait for one of its two standbys, to break."""
    with LocalCluster(synchronous=True) as cluster:
        yield cluster
        assert_no_backends(cluster)


@pytest.fixture(scope="session")
def lasting_pair() -> Iterator[LocalCluster]:
    """The cluster itself; tests ask for `synchronous_pair`."""
    with LocalCluster(1, synchronous=True) as cluster:
        yield cluster


@pytest.fixture
def synchronous_pair(lasting_pair: LocalCluster) -> Iterator[LocalCluster]:
    """A primary whose commits wait for its one standby; the test may stop and freeze nodes and promote none."""
    yield lasting_pair
    first, standby = lasting_pair.nodes
    standby.thaw()
    if not standby.running:
        standby.start()
    standby.wait_streaming(first)
    assert_no_backends(lasting_pair)


class Inspector:
    """Keeps a session at each node of the cluster of the whole run: a login before and after every test costs more than
    many a test itself.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        # Now, as a test may make the environment hostile.
        self._sessions = {node: self._connect(node) for node in cluster.nodes}

    def execute(self, node: Node, sql: str) -> list[tuple[Any, ...]]:
        """As `Node.execute`."""
        cursor = self._session(node).execute(sql.encode())
        return cursor.fetchall() if cursor.description is not None else []

    def catch_up(self) -> None:
        """As `LocalCluster.catch_up`."""
        primary, *standbys = self.cluster.nodes
        [(target,)] = self.execute(primary, "SELECT pg_current_wal_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{target}'"
        wait_until(lambda: all(self.execute(node, replayed)[0][0] for node in standbys))

    def descriptors(self) -> set[int]:
        """Return those that are no test's leak."""
        return {session.fileno() for session in self._sessions.values() if not session.closed}

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def _session(self, node: Node) -> psycopg.Connection:
        session = self._sessions[node]
        try:
            session.execute("SELECT")
        except psycopg.OperationalError:  # a test ended all sessions
            session.close()
            self._sessions[node] = session = self._connect(node)
        return session

    def _connect(self, node: Node) -> psycopg.Connection:
        conninfo = make_conninfo(
            self.cluster.dsn, host=node.host, port=node.port, application_name="pgroute-testing"
        )
        return psycopg.connect(conninfo, autocommit=True)


@pytest.fixture(scope="session")
def inspector(pgroute_shared_cluster: LocalCluster) -> Iterator[Inspector]:
    """The sessions of the tests' own at the cluster of the whole run."""
    inspector = Inspector(pgroute_shared_cluster)
    INSPECTORS.append(inspector)
    yield inspector
    INSPECTORS.remove(inspector)
    inspector.close()


@pytest.fixture
def shared(inspector: Inspector) -> Iterator[LocalCluster]:
    """The cluster of the whole run, of the newest version, whose nodes are left as they are; see `table`."""
    yield inspector.cluster
    assert_no_backends(inspector.cluster, inspector.execute)


@pytest.fixture
def table(shared: LocalCluster, inspector: Inspector) -> Iterator[str]:
    """The name of a table (number int PRIMARY KEY) of this test's own, which the standbys have too."""
    name = f"numbers_{next(SERIAL)}"
    inspector.execute(shared.nodes[0], f"CREATE TABLE {name} (number int PRIMARY KEY)")
    inspector.catch_up()
    yield name
    inspector.execute(shared.nodes[0], f"DROP TABLE {name}")


@pytest.fixture
async def test_loop() -> asyncio.AbstractEventLoop:
    """The loop in which this test runs."""
    return asyncio.get_running_loop()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a task or a descriptor behind.

    It is set up before, and so ends after, all fixtures of the test but those shared by several tests.
    """
    loop: asyncio.AbstractEventLoop | None = None
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        loop = request.getfixturevalue("test_loop")
    before = threads() | descriptors()
    yield

    def left() -> set[str]:
        return ((threads() | descriptors()) - before) | tasks(loop)

    if left():
        gc.collect()
        wait_until(lambda: not left(), loop)
        assert not left()


def threads() -> set[str]:
    """Return the running threads, named."""
    return {
        f"thread {thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith(KNOWN_THREADS)
    }


def descriptors() -> set[str]:
    """Return the open descriptors, with what they lead to."""
    found = set()
    ours = {str(fd) for fd in KEPT.descriptors()}
    ours |= {str(fd) for inspector in INSPECTORS for fd in inspector.descriptors()}
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208  (before and after every test: Path objects take far longer)
        if fd in ours:
            continue
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"descriptor {fd} {os.readlink(f'/proc/self/fd/{fd}')}")  # noqa: PTH115  (as above)
    return found


def tasks(loop: asyncio.AbstractEventLoop | None) -> set[str]:
    """Return the unfinished tasks of a loop that does not run at the moment."""
    return set() if loop is None else {f"task {task!r}" for task in asyncio.all_tasks(loop)}


def backends(cluster: LocalCluster, execute: Execute = Node.execute) -> list[str]:
    """Return the clients' sessions at all servers that answer."""
    found = []
    for node in cluster.nodes:
        if node.running and not node.frozen:
            try:
                rows = execute(node, BACKENDS)
            except UnicodeDecodeError:  # of a statement in a database with another encoding
                found.append(f"{node.name}: a session whose statement is not UTF-8")
                continue
            found += [f"{node.name}: {text}{_kernel_state(text)}" for (text,) in rows]
    return found


def _kernel_state(text: str) -> str:
    """Tell what the kernel says of a backend, where there is /proc: a stopped or stuck one is nobody's leak."""
    try:
        return (
            " kernel state "
            + Path(f"/proc/{text.split(maxsplit=1)[0]}/stat").read_text().rpartition(")")[2].split()[0]
        )
    except OSError:
        return " gone"


def assert_no_backends(cluster: LocalCluster, execute: Execute = Node.execute) -> None:
    """Fail if a client's session does not end."""
    left: list[str] = []

    def none_left() -> bool:
        # Not looked at again: the server may get to a connection only now that was closed long ago.
        left[:] = backends(cluster, execute)
        return not left

    wait_until(none_left)
    assert left == []


def wait_until(condition: Callable[[], bool], loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Return when the condition is true, or after a while; the loop, if given, goes on meanwhile."""
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        if loop is None:
            time.sleep(0.01)
        else:
            loop.run_until_complete(asyncio.sleep(0.01))
