# Generated from tests/aio/test_copy_faults.py by .ci/unasync.py: edit that file, not this one.
"""COPY through lost connections, retryable errors and failovers: what runs again, and what cannot."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import Router, CommitUnknown, ConfigError, CopyProgress, PoolOptions, SessionLost
from pgroute.testing import LocalCluster
from tests.sync.conftest import Proxied
from tests.sync.counting import waiting
from tests.sync.replicas import dsn_of
from tests.support import Background, call, eventually
from tests.wiretap import Wiretap

pytestmark = [pytest.mark.cluster, pytest.mark.long]

COPY_DONE = b"c\0\0\0\4"
HERE = "cut here"
SIZE = 12_000
# More than the buffers on the way hold: otherwise the end is sent before the loss is known.
FILLER = "x" * 1600
ROWS = [(number, HERE if number == SIZE // 4 else FILLER) for number in range(1, SIZE + 1)]
DATA = b"".join(b"%d\t%s\n" % (number, name.encode()) for number, name in ROWS)


@pytest.fixture
def written(mended: LocalCluster) -> str:
    """Make the table that the cluster drops after the test."""
    mended.nodes[0].execute("CREATE TABLE written (id int PRIMARY KEY, name text)")
    mended.catch_up()
    return "written"


def count(cluster: LocalCluster) -> int:
    [(number,)] = cluster.nodes[0].execute("SELECT count(*) FROM written")
    return int(number)


def generated() -> Iterator[tuple[int, str]]:
    yield from ROWS


class Pipe:
    """A file that cannot seek."""

    def __init__(self) -> None:
        self._file = io.BytesIO(DATA)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


AGAIN: dict[str, Any] = {
    "list": lambda _: ROWS,
    "function": lambda _: generated,
    "file": lambda _: io.BytesIO(DATA),
    "file of text": lambda _: io.StringIO(DATA.decode()),
    "path": lambda path: path,
}
ONCE: dict[str, Any] = {
    "generator": (generated, "generator"),
    "bytes": (lambda: (DATA[at : at + 9000] for at in range(0, len(DATA), 9000)), "generator"),
    "pipe": (Pipe, "Pipe"),
}


# Lost before the end of the data.


@pytest.mark.parametrize("kind", AGAIN)
def test_lost_on_the_way_is_run_again(
    proxied: Proxied, written: str, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    told: list[CopyProgress] = []
    with Router(proxied.dsn) as router:
        proxied.proxies[0].when(HERE.encode(), action="reset")
        assert router.copy_to_table(written, AGAIN[kind](path), progress=told.append) == SIZE
    assert count(proxied.cluster) == SIZE
    assert told[-1].attempt == 2
    assert told[-1].bytes == len(DATA)


@pytest.mark.parametrize("once", [None, "key"])
def test_function_that_returns_what_it_returned_before(pair: Proxied, once: str | None) -> None:
    node = pair.cluster.nodes[0]
    node.execute("CREATE TABLE IF NOT EXISTS copied (id int, name text); TRUNCATE copied")
    rows = generated()
    with Router(pair.dsn) as router:
        pair.proxies[0].when(HERE.encode(), action="reset")
        with pytest.raises(ConfigError, match=r"^invalid source .*the same generator"):
            router.copy_to_table("copied", lambda: rows, once=once)
        again = generated()
        pair.proxies[0].when(b"COPY", action="reset")
        assert router.copy_to_table("copied", lambda: again, once=once) == SIZE, "nothing was taken"
    assert node.execute("SELECT count(*) FROM copied") == [(SIZE,)]
    node.execute("DROP TABLE copied")


def test_function_that_rewinds_what_it_returned_before(proxied: Proxied, written: str) -> None:
    text = io.StringIO(DATA.decode())
    reader = csv.reader(text, delimiter="\t")

    def rewound() -> Iterator[list[str]]:
        text.seek(0)
        return reader

    with Router(proxied.dsn) as router:
        proxied.proxies[0].when(HERE.encode(), action="reset")
        assert router.copy_to_table(written, rewound) == SIZE
    assert count(proxied.cluster) == SIZE


@pytest.mark.parametrize("lost", [[HERE.encode()], [HERE.encode(), b"COPY"]])
def test_function_that_returns_an_iterator_at_its_end(
    proxied: Proxied, written: str, lost: list[bytes]
) -> None:
    rows = iter(ROWS)
    calls = 0

    def same() -> Iterator[tuple[int, str]]:
        nonlocal calls
        calls += 1
        if calls > 1:
            list(rows)
        for trigger in lost[calls - 1 : calls]:
            proxied.proxies[0].when(trigger, action="reset")
        return rows

    with Router(proxied.dsn) as router:
        with pytest.raises(ConfigError, match=r"^invalid source .*the same list_iterator"):
            router.copy_to_table(written, same)
    assert calls == len(lost) + 1
    assert count(proxied.cluster) == 0


@pytest.mark.parametrize("kind", ONCE)
def test_source_that_is_read_once_is_lost(proxied: Proxied, written: str, kind: str) -> None:
    make, name = ONCE[kind]
    with Router(proxied.dsn) as router:
        trigger = proxied.proxies[0].when(HERE.encode(), action="reset")
        with pytest.raises(SessionLost, match=r"the connection to .* was lost") as caught:
            router.copy_to_table(written, make())
        assert trigger.hits == 1
        [note] = caught.value.__notes__
        assert f"not run again: the source ({name}) can be read only once, and " in note
        assert caught.value.rerun_safe
        assert not caught.value.may_have_committed
        assert count(proxied.cluster) == 0
        # Nothing was taken from it when this is lost.
        proxied.proxies[0].when(b"COPY", action="reset")
        assert router.copy_to_table(written, make()) == SIZE


# Lost at the end.

AT_END: dict[str, dict[str, Any]] = {
    "before the server has it": {"pattern": COPY_DONE, "after_forwarding": False},
    "when the server has it": {"pattern": COPY_DONE},
    "at its answer": {"pattern": b"COPY %d\0" % SIZE, "direction": "to_client", "after_forwarding": False},
}


@pytest.mark.parametrize("place", AT_END)
def test_lost_at_the_end_it_may_have_been_committed(proxied: Proxied, written: str, place: str) -> None:
    tried = []

    def rows() -> list[tuple[int, str]]:
        tried.append(True)
        return ROWS

    with Router(proxied.dsn) as router:
        proxied.proxies[0].when(**AT_END[place])
        with pytest.raises(CommitUnknown, match="lost during the copy: it may have been committed") as caught:
            router.copy_to_table(written, rows)
    assert not caught.value.rerun_safe
    assert len(tried) == 1


AT_COMMIT: dict[str, tuple[dict[str, Any], int]] = {
    "not committed": ({"pattern": b"COMMIT", "after_forwarding": False}, 0),
    "committed": ({"pattern": b"COMMIT\0", "direction": "to_client", "after_forwarding": False}, 1000),
}


@pytest.mark.parametrize("outcome", AT_COMMIT)
def test_lost_at_commit_with_a_key_it_is_applied_once(pair: Proxied, outcome: str) -> None:
    node = pair.cluster.nodes[0]
    place, applied = AT_COMMIT[outcome]
    rows = [(number,) for number in range(1000)]
    with Router(pair.dsn) as router:
        pair.proxies[0].when(**place)
        for _ in range(2):
            assert router.copy_to_table("counter", rows, once="list") == 1000
        assert node.execute("SELECT count(*) FROM counter WHERE value >= 0") == [(1001,)]
        node.execute("TRUNCATE counter")
        pair.proxies[0].when(**place)
        if applied:
            assert router.copy_to_table("counter", iter(rows), once="iterator") == 1000
        else:
            with pytest.raises(SessionLost, match="nothing was committed") as caught:
                router.copy_to_table("counter", iter(rows), once="iterator")
            assert caught.value.rerun_safe
            assert "can be read only once, and 1000 items had been taken" in caught.value.__notes__[0]
        assert node.execute("SELECT count(*) FROM counter") == [(applied,)]


def test_lost_on_the_way_with_a_key(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    node.execute("CREATE TABLE IF NOT EXISTS copied (id int, name text); TRUNCATE copied")
    with Router(pair.dsn) as router:
        pair.proxies[0].when(HERE.encode(), action="reset")
        assert router.copy_to_table("copied", ROWS, once="list") == SIZE
        pair.proxies[0].when(HERE.encode(), action="reset")
        with pytest.raises(SessionLost) as caught:
            router.copy_to_table("copied", generated(), once="generator")
        assert "not run again: the source (generator)" in caught.value.__notes__[0]
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert router.copy_to_table("copied", ROWS, once="list") == SIZE
    assert node.execute("SELECT count(*) FROM copied") == [(SIZE,)]
    node.execute("DROP TABLE copied")


# Errors of the server that are run again.


@pytest.fixture
def refusing(mended: LocalCluster, written: str) -> Iterator[str]:
    """Make the table refuse the first row that it gets, with the SQLSTATE that its name asks for."""
    mended.nodes[0].execute("""
        CREATE SEQUENCE tries OWNED BY written.id;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.name LIKE 'fail %' AND nextval('tries') = 1 THEN
                RAISE EXCEPTION USING ERRCODE = substr(NEW.name, 6), MESSAGE = 'for once';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON written FOR EACH ROW EXECUTE FUNCTION refuse()""")
    yield written
    mended.nodes[0].execute("DROP FUNCTION refuse CASCADE")


@pytest.mark.parametrize("once", [None, "key"])
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "25006"])
def test_retryable_error_of_the_server(
    mended: LocalCluster, refusing: str, sqlstate: str, once: str | None
) -> None:
    rows = [(1, "row"), (2, f"fail {sqlstate}")]
    node = mended.nodes[0]
    with Router(node.conninfo) as router:
        router.install()
        assert router.copy_to_table(refusing, rows, once=once) == 2
        assert count(mended) == 2
        node.execute("TRUNCATE written; ALTER SEQUENCE tries RESTART; DELETE FROM pgroute.once")
        with pytest.raises(psycopg.Error, match="for once") as caught:
            router.copy_to_table(refusing, iter(rows), once=once)
        assert caught.value.sqlstate == sqlstate
        assert any("not run again: the source" in note for note in caught.value.__notes__)
        assert count(mended) == 0
    node.execute("DROP SCHEMA pgroute CASCADE")


# Synchronous replication.


def test_copy_that_no_standby_confirms_is_unknown(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    with Router(pair.cluster.dsn) as router, Background() as background:
        router.wait()
        call(standby.freeze)
        handle = background.start(router.copy_to_table, "counter", [(1,)])
        [(pid, _)] = eventually(lambda: waiting(primary, "SyncRep"))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(CommitUnknown, match="committed locally"):
            handle.result()


def test_query_whose_writes_no_standby_confirms_keeps_its_file(pair: Proxied, tmp_path: Path) -> None:
    primary, standby = pair.cluster.nodes
    delete = "DELETE FROM counter RETURNING value"
    with Router(pair.cluster.dsn) as router, Background() as background:
        router.wait()
        call(standby.freeze)
        handle = background.start(router_copy, router, delete, tmp_path / "data")
        [(pid, _)] = eventually(lambda: waiting(primary, "SyncRep"))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(CommitUnknown, match="committed locally"):
            handle.result()
    assert (tmp_path / "data").read_text() == "0\n", "the rows are nowhere else"


def router_copy(router: Router[Any], query: str, path: Path) -> int:
    return router.copy_from(query, path, role="writer")


# Failovers.


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.long)])
def test_failover_in_the_middle(trio: Proxied, fault: str) -> None:
    cluster = trio.cluster
    primary = cluster.nodes[0]
    primary.execute("CREATE TABLE written (id int PRIMARY KEY, name text)")
    cluster.catch_up()
    attempts = 0

    def rows() -> Iterator[tuple[int, str]]:
        nonlocal attempts
        attempts += 1
        yield from ROWS[: SIZE // 2]
        if attempts == 1:
            getattr(primary, fault)()
            cluster.promote()
        yield from ROWS[SIZE // 2 :]

    with Router(trio.dsn) as router:
        assert router.copy_to_table("written", rows) == SIZE
        assert router.fetchval("SELECT count(*) FROM written", role="writer") == SIZE
    assert attempts >= 2


# Copies out.

QUERY = (
    f"SELECT number, CASE number WHEN {SIZE // 4} THEN 'cut'||' here' ELSE repeat('x', {len(FILLER)}) END"
    f" FROM generate_series(1, {SIZE}) AS number"
)


class Taker:
    """A file that cannot give back what it has got."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data


def cut(proxied: Proxied, times: int = 1) -> None:
    """Cut connections amid the data of QUERY."""
    for proxy in proxied.proxies:
        proxy.when(HERE.encode(), direction="to_client", action="reset", times=times)


def test_copy_out_that_is_lost_is_run_again(proxied: Proxied, tmp_path: Path) -> None:
    path = tmp_path / "data"
    file, text = io.BytesIO(b"before"), io.StringIO()
    file.read()
    told: list[CopyProgress] = []
    with Router(proxied.dsn) as router:
        for target in (path, file, text):
            cut(proxied)
            assert router.copy_from(QUERY, target, progress=told.append) == SIZE
            assert told[-1].attempt >= 2
    assert path.read_bytes() == DATA
    assert file.getvalue() == b"before" + DATA
    assert text.getvalue() == DATA.decode()
    assert list(tmp_path.iterdir()) == [path]


def test_target_that_cannot_give_back_gets_nothing_twice(proxied: Proxied) -> None:
    with Router(proxied.dsn) as router:
        targets: list[tuple[Any, str]] = [(Taker(), "Taker"), ([].append, "builtin_function_or_method")]
        for target, name in targets:
            cut(proxied)
            with pytest.raises(SessionLost) as caught:
                router.copy_from(QUERY, target)
            assert f"not run again: the target ({name}) has got " in caught.value.__notes__[0]
        for proxy in proxied.proxies:
            proxy.clear_faults()
            proxy.when(b"generate_series", action="reset")
        taker = Taker()
        assert router.copy_from(QUERY, taker) == SIZE
        assert taker.got == DATA, "it had got nothing yet"


LOST_COMMIT: dict[str, Any] = {"pattern": b"COMMIT\0", "direction": "to_client", "after_forwarding": False}


def test_query_of_a_writer_is_lost_before_its_commit_or_during_it(
    proxied: Proxied, written: str, tmp_path: Path
) -> None:
    # A scan of a large table begins where another one is: without an order, what is cut might come last.
    delete = f"WITH gone AS (DELETE FROM {written} RETURNING *) SELECT * FROM gone ORDER BY id"
    path = tmp_path / "data"
    with Router(proxied.dsn) as router:
        router.copy_to_table(written, ROWS)
        cut(proxied)
        taker = Taker()
        with pytest.raises(SessionLost, match="was lost"):
            router.copy_from(delete, taker, role="writer")
        assert count(proxied.cluster) == SIZE
        cut(proxied)
        assert router.copy_from(delete, path, role="writer") == SIZE
        assert path.read_bytes() == DATA
        assert count(proxied.cluster) == 0
        for target in (path, io.BytesIO()):
            router.execute(f"INSERT INTO {written} VALUES (1, 'x')")
            proxied.proxies[0].when(**LOST_COMMIT)
            with pytest.raises(CommitUnknown, match="lost during the copy: it may have been committed"):
                router.copy_from(delete, target, role="writer")
            assert count(proxied.cluster) == 0
            got = target.read_bytes() if isinstance(target, Path) else target.getvalue()
            assert got.endswith(b"1\tx\n"), "the rows are nowhere else"


def test_iteration_that_is_lost_ends_with_an_error(proxied: Proxied, written: str) -> None:
    taken = 0
    with Router(proxied.dsn) as router:
        cut(proxied)
        with pytest.raises(SessionLost, match="was lost") as caught:
            with router.copy_rows(QUERY) as rows:
                for _ in rows:
                    taken += 1
        assert 0 < taken < SIZE
        assert "handed out already" in caught.value.__notes__[0]
        for proxy in proxied.proxies:
            proxy.clear_faults()
            proxy.when(b"generate_series", action="reset")
        with router.copy_chunks(QUERY) as chunks:
            assert b"".join([bytes(chunk) for chunk in chunks]) == DATA
        router.copy_to_table(written, ROWS)
        cut(proxied)
        delete = f"WITH gone AS (DELETE FROM {written} RETURNING *) SELECT * FROM gone ORDER BY id"
        for kind in (SessionLost, CommitUnknown):
            with pytest.raises(kind):
                with router.copy_chunks(delete, role="writer") as chunks:
                    for _ in chunks:
                        pass
            assert count(proxied.cluster) == (SIZE if kind is SessionLost else 0)
            proxied.proxies[0].clear_faults()
            proxied.proxies[0].when(**LOST_COMMIT)


# Round trips.


def _iterate(router: Router[Any]) -> None:
    with router.copy_rows("SELECT 1", role="writer") as rows:
        for _ in rows:
            pass


TRIPS: dict[str, tuple[int, Any]] = {
    "copy_to_table": (2, lambda router: router.copy_to_table("counter", [(1,)])),
    "copy_to_table with a key": (4, lambda router: router.copy_to_table("counter", [(1,)], once=True)),
    "copy_from": (1, lambda router: router.copy_from("counter", io.BytesIO(), role="writer")),
    "copy_from of a query that may write": (
        2,
        lambda router: router.copy_from("SELECT 1", io.BytesIO(), role="writer"),
    ),
    "copy_rows": (2, _iterate),
}


@pytest.mark.parametrize("kind", TRIPS)
def test_round_trips_are_a_contract(pair: Proxied, kind: str) -> None:
    trips, call = TRIPS[kind]
    with ExitStack() as stack:
        taps = [stack.enter_context(Wiretap(node)) for node in pair.cluster.nodes]
        with Router(dsn_of(tuple(taps)), writer=PoolOptions(max_size=1)) as router:
            call(router)  # opens the connection, and looks at the tables of the keys once
            for tap in taps:
                tap.take()
            call(router)
            # In COPY FROM the client begins two: by the statement, and by the end of the data.
            sent = [message for tap in taps for message in tap.take()]
            assert sum(message.kind in (b"Q", b"S", b"c") for message in sent) == trips
