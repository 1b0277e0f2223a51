"""A schema in which somebody else could have code run is refused, and each application can have one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgroute import AsyncRouter, ConfigError, PoolOptions
from pgroute._async import schema_check as schema
from pgroute.batch import AsyncBatchJob, Chunk, Keyset
from pgroute.core.sql.schema import definition, rights
from pgroute.testing import LocalCluster
from tests.support import dsn_with

pytestmark = pytest.mark.cluster

AsyncConnection = psycopg.AsyncConnection[Any]

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


async def answer(conn: AsyncConnection, value: int) -> int:
    return value


async def nothing(conn: AsyncConnection, chunk: Chunk) -> None:
    pass


async def test_a_squatter_gets_no_code_run(place: Place) -> None:
    place.execute(definition() + SQUATTED, "squatter")
    with psycopg.connect(f"{place.cluster.primary.conninfo} dbname=to_squat") as conn:
        conn.execute("INSERT INTO pgroute.once VALUES ('the trap works')")
        found = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'squatter'").fetchone()
        assert found == (True,)
        conn.rollback()
    for user in ("postgres", "app"):
        async with AsyncRouter(place.dsn, kwargs={"user": user}) as router:
            job = AsyncBatchJob(router, "job", [1, 2])
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
                    await use()
                assert caught.value.parameter == "schema"
        assert not place.seized()
    assert place.execute("SELECT FROM pgroute.once") == []


async def test_nothing_is_made_in_a_schema_of_somebody_else(place: Place) -> None:
    place.execute("CREATE SCHEMA pgroute", "squatter")
    async with AsyncRouter(place.dsn) as router:
        with pytest.raises(ConfigError, match="it belongs to 'squatter'"):
            await router.install()
    assert place.execute("SELECT to_regclass('pgroute.once')") == [(None,)]


async def test_a_squatter_who_comes_first_by_a_moment_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(schema: str) -> str:
        place.execute(definition() + SQUATTED, "squatter")
        return definition(schema)

    monkeypatch.setattr("pgroute._async.schema_check.definition", late)
    async with AsyncRouter(place.dsn) as router:
        with pytest.raises(ConfigError, match="it belongs to 'squatter'"):
            await router.install()
    assert not place.seized()


async def test_a_schema_that_is_squatted_later_is_refused_by_whoever_missed_it(place: Place) -> None:
    async with AsyncRouter(place.dsn, writer=PoolOptions(max_size=1)) as router:
        with pytest.raises(ConfigError, match="pgroute install"):
            await router.run(answer, 1, once="key")
        place.execute(definition() + SQUATTED, "squatter")
        with pytest.raises(ConfigError, match="'squatter'"):
            await router.run(answer, 1, once="key")
    assert not place.seized()


async def test_a_squatter_who_comes_between_the_look_and_the_use_gets_no_code_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = schema._examine

    async def early(*args: Any) -> frozenset[str]:
        found = await look(*args)
        place.execute(definition() + SQUATTED, "squatter")
        return found

    monkeypatch.setattr(schema, "_examine", early)
    async with AsyncRouter(place.dsn) as router:
        uses: tuple[Callable[[], Any], ...] = (
            partial(router.run, answer, 1, once="key"),
            partial(router.purge_once_keys, 86400),
            partial(AsyncBatchJob(router, "job", [1, 2]).run, nothing),
        )
        for use in uses:
            with pytest.raises(ConfigError, match="pgroute install"):
                await use()
            assert not place.seized()
            place.execute("DROP SCHEMA pgroute CASCADE")


async def test_a_connection_looks_once(place: Place) -> None:
    async with AsyncRouter(place.dsn, writer=PoolOptions(max_size=1)) as router:
        await router.install()
        assert await router.run(answer, 1, once="key") == 1
        # Only its owner can do so, who is trusted.
        place.execute("ALTER TABLE pgroute.once ENABLE ROW LEVEL SECURITY")
        assert await router.run(answer, 2, once="key") == 1
    async with AsyncRouter(place.dsn) as router:
        with pytest.raises(ConfigError, match="the table 'once' has row security"):
            await router.run(answer, 2, once="key")


@pytest.mark.parametrize("name", ["order", 'a"; %s %% \\ {0} ü --'])
async def test_each_application_has_a_schema_of_its_own(place: Place, name: str) -> None:
    place.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1), (2), (3)")
    async with AsyncRouter(place.dsn) as other, AsyncRouter(place.dsn, schema=name) as owner:
        await other.install()
        assert await other.run(answer, 1, once="key") == 1
        with pytest.raises(ConfigError, match="pgroute install"):
            await owner.run(answer, 2, once="key")
        await owner.install()
        assert await owner.run(answer, 2, once="key") == 2
        assert await other.run(answer, 3, once="key") == 1
    place.execute(rights("app", name) + "GRANT SELECT ON item TO app")
    async with AsyncRouter(place.dsn, kwargs={"user": "app"}) as shut_out:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await shut_out.run(answer, 3, once="key")
    async with AsyncRouter(place.dsn, kwargs={"user": "app"}, schema=name) as app:
        await app.install()
        assert await app.run(answer, 3, once="key") == 2
        assert await app.purge_once_keys(86400) == 0
        for source in (Keyset("SELECT id FROM item", "id"), [1, 2, 3]):
            job = AsyncBatchJob(app, f"job of {type(source).__name__}", source, chunk_size=2)
            assert (await job.run(nothing)).chunks == 2
    assert place.execute("SELECT FROM pgroute.batch_job") == []
    place.execute("DROP OWNED BY app")
