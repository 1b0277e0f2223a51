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

import pytest

from pgroute.testing import InitdbCache, LocalCluster, available_versions

MEMORY = "/dev/shm"
"""Where the clusters' files are if there is plenty of it: on some disks a cluster takes ten seconds to make."""

VERSIONS = sorted({server.major for server in available_versions()})
"""PostgreSQL majors: those of the wheel and those of the system."""

EACH_VERSION = [
    pytest.param(major, marks=() if major in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.long)
    for major in VERSIONS
]

PATIENCE = 10.0
"""Seconds that what a test has ended may take to be gone."""

# Threads of the loop's default executor, in which `async_call` runs, end with the loop.
KNOWN_THREADS = ("asyncio_",)

SERIAL = itertools.count(1)

BACKENDS = (
    "SELECT format('%s %s %s: %s (waits for %s %s, since %s)', pid, application_name, state, query, wait_event_type,"
    " wait_event, backend_start) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND application_name <> 'pgroute-testing'"
)


def pytest_configure() -> None:
    with contextlib.suppress(OSError):
        memory = os.statvfs(MEMORY)
        roomy = memory.f_bavail * memory.f_frsize >= 4 * 2**30 and not memory.f_flag & os.ST_NOEXEC
        if roomy and os.access(MEMORY, os.W_OK) and "TMPDIR" not in os.environ:
            os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that any user may enter: servers may run as another one.

    Those of pytest are closed to others whenever another run of pytest begins.
    """
    with tempfile.TemporaryDirectory(prefix="pgroute-test-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(params=EACH_VERSION, ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest, pgroute_initdb_cache: InitdbCache) -> Iterator[LocalCluster]:
    """A fresh primary with two standbys of each version, which the test may break as it likes."""
    with LocalCluster(version=request.param, cache=pgroute_initdb_cache) as cluster:
        yield cluster
        assert_no_backends(cluster)


@pytest.fixture
def any_cluster(pgroute_initdb_cache: InitdbCache) -> Iterator[LocalCluster]:
    """A fresh primary with two standbys of the newest version, to break where the version does not matter."""
    with LocalCluster(cache=pgroute_initdb_cache) as cluster:
        yield cluster
        assert_no_backends(cluster)


@pytest.fixture
def synchronous_cluster(pgroute_initdb_cache: InitdbCache) -> Iterator[LocalCluster]:
    """A fresh primary whose commits wait for one of its two standbys, to break."""
    with LocalCluster(synchronous=True, cache=pgroute_initdb_cache) as cluster:
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


@pytest.fixture
def shared(pgroute_shared_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster of the whole run, of the newest version, whose nodes are left as they are; see `table`."""
    yield pgroute_shared_cluster
    assert_no_backends(pgroute_shared_cluster)


@pytest.fixture
def table(shared: LocalCluster) -> Iterator[str]:
    """The name of a table (number int PRIMARY KEY) of this test's own, which the standbys have too."""
    name = f"numbers_{next(SERIAL)}"
    shared.primary.execute(f"CREATE TABLE {name} (number int PRIMARY KEY)")
    shared.catch_up()
    yield name
    shared.primary.execute(f"DROP TABLE {name}")


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
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"descriptor {fd.name} {fd.readlink()}")
    return found


def tasks(loop: asyncio.AbstractEventLoop | None) -> set[str]:
    """Return the unfinished tasks of a loop that does not run at the moment."""
    return set() if loop is None else {f"task {task!r}" for task in asyncio.all_tasks(loop)}


def backends(cluster: LocalCluster) -> list[str]:
    """Return the clients' sessions at all servers that answer."""
    found = []
    for node in cluster.nodes:
        if node.running and not node.frozen:
            found += [f"{node.name}: {text}{_kernel_state(text)}" for (text,) in node.execute(BACKENDS)]
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


def assert_no_backends(cluster: LocalCluster) -> None:
    """Fail if a client's session does not end."""
    wait_until(lambda: not backends(cluster))
    assert backends(cluster) == []


def wait_until(condition: Callable[[], bool], loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Return when the condition is true, or after a while; the loop, if given, goes on meanwhile."""
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        if loop is None:
            time.sleep(0.01)
        else:
            loop.run_until_complete(asyncio.sleep(0.01))
