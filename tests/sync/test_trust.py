# Generated from tests/aio/test_trust.py by .ci/unasync.py: edit that file, not this one.
"""A schema in which somebody else could have code run is refused, and each application can have one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgroute import Router, ConfigError, PoolOptions
from pgroute._sync import schema_check as schema
from pgroute.batch import BatchJob, Chunk, Keyset
from pgroute.core.sql.schema import definition, rights
from pgroute.testing import LocalCluster
from tests.support import dsn_with

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

SQUATTED = """
CREATE FUNCTION pgroute.seize() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    ALTER ROLE squatter SUPERUSER;
    RETURN NEW;
END $$;
CREATE TRIGGER seize BEFORE INSERT OR UPDATE OR DELETE ON pgroute.once EXECUTE FUNCTION pgroute.seize();
CREATE TRIGGER seize BEFORE INSERT OR UPDATE OR DELETE ON pgroute.batch_job EXECUTE FUNCTION pgroute.seize();
GRANT ALL ON SCHEMA pgroute TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA pgroute TO PUBLIC;
"""


@dataclass(frozen=True)
class Place:
    """A database in which the role squatter may make schemas, and the role app may log in."""

    cluster: LocalCluster
    dsn: str

    def execute(self, sql: str, user: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements at the primary, as a superuser or another role."""
        conninfo = make_conninfo(
            self.cluster.primary.conninfo, dbname="to_squat", user=user, application_name="pgroute-testing"
        )
        with psycopg.connect(conninfo, autocommit=True) as conn:
            cursor = conn.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def seized(self) -> bool:
        """Whether the squatter has become a superuser."""
        [(seized,)] = self.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'squatter'")
        return bool(seized)


@pytest.fixture
def place(shared: LocalCluster) -> Iterator[Place]:
    execute = shared.primary.execute
    for role in ("squatter", "app"):
        execute(f"CREATE ROLE {role} LOGIN PASSWORD '{shared.password}'")
    execute("CREATE DATABASE to_squat")
    execute("GRANT CREATE ON DATABASE to_squat TO squatter")
    shared.catch_up()
    yield Place(shared, dsn_with(shared.dsn, dbname="to_squat"))
    execute("DROP DATABASE to_squat")
    execute("DROP ROLE squatter; DROP ROLE app")


def answer(conn: Connection, value: int) -> int:
    return value


def nothing(conn: Connection, chunk: Chunk) -> None:
    pass


def test_a_squatter_gets_no_code_run(place: Place) -> None:
    place.execute(definition() + SQUATTED, "squatter")
    with psycopg.connect(f"{place.cluster.primary.conninfo} dbname=to_squat") as conn:
        conn.execute("INSERT INTO pgroute.once VALUES ('the trap works')")
        found = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'squatter'").fetchone()
        assert found == (True,)
        conn.rollback()
    for user in ("postgres", "app"):
        with Router(place.dsn, kwargs={"user": user}) as router:
            job = BatchJob(router, "job", [1, 2])
            uses: tuple[Callable[[], Any], ...] = (
                router.install,
                partial(router.run, answer, 1, once="key"),
                partial(router.purge_once_keys, 86400),
                partial(job.run, nothing),
            )
            for use in uses:
                with pytest.raises(
                    ConfigError, match=r"'pgroute'.*'squatter'.*ALTER \.\.\. OWNER TO"
                ) as caught:
                    use()
                assert caught.value.parameter == "schema"
        assert not place.seized()
    assert place.execute("SELECT FROM pgroute.once") == []


def test_nothing_is_made_in_a_schema_of_somebody_else(place: Place) -> None:
    place.execute("CREATE SCHEMA pgroute", "squatter")
    with Router(place.dsn) as router:
        with pytest.raises(ConfigError, match="it belongs to 'squatter'"):
            router.install()
    assert place.execute("SELECT to_regclass('pgroute.once')") == [(None,)]


def test_a_squatter_who_comes_first_by_a_moment_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(schema: str) -> str:
        place.execute(definition() + SQUATTED, "squatter")
        return definition(schema)

    monkeypatch.setattr("pgroute._sync.schema_check.definition", late)
    with Router(place.dsn) as router:
        with pytest.raises(ConfigError, match="it belongs to 'squatter'"):
            router.install()
    assert not place.seized()


def test_a_schema_that_is_squatted_later_is_refused_by_whoever_missed_it(place: Place) -> None:
    with Router(place.dsn, writer=PoolOptions(max_size=1)) as router:
        with pytest.raises(ConfigError, match="pgroute install"):
            router.run(answer, 1, once="key")
        place.execute(definition() + SQUATTED, "squatter")
        with pytest.raises(ConfigError, match="'squatter'"):
            router.run(answer, 1, once="key")
    assert not place.seized()


def test_a_squatter_who_comes_between_the_look_and_the_use_gets_no_code_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = schema._examine

    def early(*args: Any) -> frozenset[str]:
        found = look(*args)
        place.execute(definition() + SQUATTED, "squatter")
        return found

    monkeypatch.setattr(schema, "_examine", early)
    with Router(place.dsn) as router:
        uses: tuple[Callable[[], Any], ...] = (
            partial(router.run, answer, 1, once="key"),
            partial(router.purge_once_keys, 86400),
            partial(BatchJob(router, "job", [1, 2]).run, nothing),
        )
        for use in uses:
            with pytest.raises(ConfigError, match="pgroute install"):
                use()
            assert not place.seized()
            place.execute("DROP SCHEMA pgroute CASCADE")


def test_a_connection_looks_once(place: Place) -> None:
    with Router(place.dsn, writer=PoolOptions(max_size=1)) as router:
        router.install()
        assert router.run(answer, 1, once="key") == 1
        # Only its owner can do so, who is trusted.
        place.execute("ALTER TABLE pgroute.once ENABLE ROW LEVEL SECURITY")
        assert router.run(answer, 2, once="key") == 1
    with Router(place.dsn) as router:
        with pytest.raises(ConfigError, match="the table 'once' has row security"):
            router.run(answer, 2, once="key")


@pytest.mark.parametrize("name", ["order", 'a"; %s %% \\ {0} ü --'])
def test_each_application_has_a_schema_of_its_own(place: Place, name: str) -> None:
    place.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1), (2), (3)")
    with Router(place.dsn) as other, Router(place.dsn, schema=name) as owner:
        other.install()
        assert other.run(answer, 1, once="key") == 1
        with pytest.raises(ConfigError, match="pgroute install"):
            owner.run(answer, 2, once="key")
        owner.install()
        assert owner.run(answer, 2, once="key") == 2
        assert other.run(answer, 3, once="key") == 1
    place.execute(rights("app", name) + "GRANT SELECT ON item TO app")
    with Router(place.dsn, kwargs={"user": "app"}) as shut_out:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shut_out.run(answer, 3, once="key")
    with Router(place.dsn, kwargs={"user": "app"}, schema=name) as app:
        app.install()
        assert app.run(answer, 3, once="key") == 2
        assert app.purge_once_keys(86400) == 0
        for source in (Keyset("SELECT id FROM item", "id"), [1, 2, 3]):
            job = BatchJob(app, f"job of {type(source).__name__}", source, chunk_size=2)
            assert (job.run(nothing)).chunks == 2
    assert place.execute("SELECT FROM pgroute.batch_job") == []
    place.execute("DROP OWNED BY app")
