"""Clusters that begin with what initdb made for another are as good as others, and are others."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgroute.testing import ClusterError, ClusterTimeout, InitdbCache, LocalCluster, find_server
from pgroute.testing.initdb import checksums, give_identifier
from pgroute.testing.sandbox import Sandbox
from tests.conftest import EACH_VERSION

pytestmark = pytest.mark.cluster


def identifier(cluster: LocalCluster) -> int:
    [[value]] = cluster.primary.execute("SELECT system_identifier FROM pg_control_system()")
    return int(value)


def control_data(sandbox: Sandbox, folder: Path) -> str:
    """Return what PostgreSQL's own program says of pg_control, warnings included."""
    done = subprocess.run(
        [sandbox.bindir / "pg_controldata", folder],
        env=sandbox._environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.fixture
def cache() -> Iterator[InitdbCache]:
    with InitdbCache() as cache:
        yield cache


@pytest.fixture(params=EACH_VERSION, ids=lambda major: f"pg{major}")
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def filled(
    version: int, pgroute_initdb_cache: InitdbCache
) -> Iterator[Callable[[str], tuple[Sandbox, Path]]]:
    """Give a function that makes files in a folder, which no server has touched, and returns where."""
    server = find_server(version)
    sandbox = Sandbox(server)

    def fill(name: str) -> tuple[Sandbox, Path]:
        pgroute_initdb_cache.fill(server, sandbox, sandbox.folder / name, 60.0)
        return sandbox, sandbox.folder / name

    with contextlib.closing(sandbox):
        yield fill


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
    ids=["zeros", "ones", "up", "down"],
)
def test_checksums_are_those_of_the_rfc(data: bytes, checksum: int) -> None:
    """RFC 3720, appendix B.4."""
    *_, value = checksums(data)
    assert value == checksum


def test_postgresql_finds_the_new_control_file_whole(filled: Callable[[str], tuple[Sandbox, Path]]) -> None:
    filled("first")
    sandbox, folder = filled("second")
    path = folder / "global/pg_control"
    assert "crc" not in control_data(sandbox, folder).lower()
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert "crc" in control_data(sandbox, folder).lower(), "it would have said so"


def test_clusters_of_a_cache_are_other_clusters(version: int, pgroute_initdb_cache: InitdbCache) -> None:
    with (
        LocalCluster(0, version=version, cache=pgroute_initdb_cache) as other,
        LocalCluster(version=version, cache=pgroute_initdb_cache) as cluster,
    ):
        assert identifier(other) != identifier(cluster)
        old = cluster.primary
        old.execute("CREATE TABLE t (i int)")
        cluster.catch_up()
        old.kill()
        new = cluster.promote()
        new.execute("INSERT INTO t VALUES (1)")
        old.rejoin(new)
        cluster.catch_up()
        assert [node.execute("SELECT i FROM t") for node in cluster.nodes] == [[(1,)]] * 3


def break_control_file(folder: Path) -> None:
    path = folder / "global/pg_control"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def break_wal(folder: Path) -> None:
    (path,) = (folder / "pg_wal").glob("0*")
    with path.open("r+b") as wal:
        wal.seek(24)
        wal.write(bytes(8))


def add_wal(folder: Path) -> None:
    (folder / "pg_wal/000000010000000000000002").touch()


@pytest.mark.parametrize("change", [break_control_file, break_wal, add_wal])
def test_files_of_another_kind_are_left_alone_and_made_afresh(
    cache: InitdbCache, change: Callable[[Path], None]
) -> None:
    with LocalCluster(0, cache=cache) as first:
        before = identifier(first)
    [kept] = cache._kept.values()
    change(kept)
    data = (kept / "global/pg_control").read_bytes()
    assert not give_identifier(kept)
    assert (kept / "global/pg_control").read_bytes() == data
    with LocalCluster(0, cache=cache) as second:
        assert identifier(second) != before


def test_after_an_initdb_that_failed_the_next_cluster_starts(cache: InitdbCache) -> None:
    with pytest.raises(ClusterTimeout, match="initdb did not end"):
        LocalCluster(0, cache=cache, timeout=0.01).start()
    assert not cache._kept
    for _ in range(2):
        with LocalCluster(0, cache=cache):
            pass


def test_nothing_is_left_of_a_cache() -> None:
    with InitdbCache() as cache:
        with LocalCluster(0, cache=cache):
            pass
        [kept] = cache._kept.values()
        assert (kept / "global/pg_control").exists()
    assert not kept.parent.exists()


def test_a_cache_that_is_not_in_use_is_refused() -> None:
    cache = InitdbCache()
    with pytest.raises(ClusterError, match="the cache is not in use"):
        LocalCluster(0, cache=cache).start()
    with cache, pytest.raises(ClusterError, match="in use already"):
        cache.__enter__()
    with pytest.raises(ClusterError, match="the cache is not in use"):
        LocalCluster(0, cache=cache).start()
