"""The sessions of a FastAPI application: their transactions end before the answer, and users see what they wrote."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket

import pgroute
from pgroute.contrib.fastapi import (
    CausalSessions,
    Dependencies,
    Reader,
    ReadYourWrites,
    RequestRouter,
    Writer,
    add_error_handlers,
    health_routes,
    lifespan,
)
from pgroute.contrib.starlette import causal_of, router_of
from pgroute.contrib.web.position_cookie import position_cookie
from pgroute.testing import FaultProxy, LocalCluster
from tests.contrib.web.serving import Served, cookie_of
from tests.support import Undecided, coroutine_function, dsn_at, eventually

Reports = Annotated[psycopg.AsyncConnection[Any], Depends(Dependencies("reports").reader, scope="function")]
SECRET = "0123456789abcdef"
READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
"""What a demoted host tells its sessions."""


def notes_app(table: str, database: Any) -> FastAPI:
    """An application whose clients write and read notes."""
    app = FastAPI(lifespan=database)
    insert, select = f"INSERT INTO {table} VALUES (%s)", f"SELECT text FROM {table} ORDER BY text"

    @app.post("/notes/{text}")
    async def write(text: str, conn: Writer) -> dict[str, Any]:
        await conn.execute(insert, (text,))
        return {"port": conn.info.port}

    @app.post("/refused/{text}")
    async def refuse(text: str, conn: Writer) -> None:
        await conn.execute(insert, (text,))
        raise HTTPException(418, "no")

    @app.get("/notes")
    async def read(conn: Reader) -> dict[str, Any]:
        rows = await (await conn.execute(select)).fetchall()
        return {"notes": [text for (text,) in rows], "port": conn.info.port}

    @app.post("/demoted/{text}")
    async def write_where_nobody_can(text: str, conn: Writer) -> None:
        await conn.execute(READ_ONLY)
        await conn.commit()
        await conn.execute(insert, (text,))

    @app.post("/by-reader/{text}")
    async def write_by_reader(text: str, conn: Reader) -> None:
        await conn.execute(insert, (text,))

    @app.post("/run/{text}")
    async def run(text: str, router: RequestRouter) -> None:
        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            await conn.execute(insert, (text,))

        await router.run(body)

    @app.get("/causal/{text}")
    async def both(text: str, causal: CausalSessions) -> list[str]:
        async with causal.writer() as conn:
            await conn.execute(insert, (text,))
        async with causal.reader() as conn:
            return [found for (found,) in await (await conn.execute(select)).fetchall()]

    return app


def test_an_answer_tells_what_was_committed(shared: LocalCluster, notes: str) -> None:
    app = notes_app(notes, lifespan(shared.dsn))
    with Served(app) as served:
        written = served.post("/notes/tea")
        assert written.status == 200
        assert served.post("/run/coffee").status == 200
        assert served.post("/notes/tea").status == 500  # found at COMMIT
        assert served.post("/refused/milk").status == 418
        assert served.get("/causal/juice").body == ["coffee", "juice", "tea"]
        shared.catch_up()
        told = served.get("/notes").body
        assert told["notes"] == ["coffee", "juice", "tea"]
        assert told["port"] != written.body["port"]
        assert served.post("/by-reader/milk").status == 500


def test_a_client_is_not_told_200_when_the_commit_is_unknown(
    shared: LocalCluster, notes: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(shared.primary) as wire:
        dsn = dsn_at(f"127.0.0.1:{wire.port}", shared)
        app = notes_app(notes, lifespan(dsn, probe=pgroute.ProbeOptions(interval=0.2), acquire_timeout=0.5))
        add_error_handlers(app)
        with Served(app) as served:
            assert served.post("/notes/tea").status == 200
            wire.when(b"COMMIT", action="reset")
            reply = served.post("/notes/coffee")
            assert (reply.status, reply.headers["Retry-After"]) == (503, None)
            assert reply.body == {
                "detail": "it is not known whether this was done: look before you repeat it"
            }
            wire.refuse(existing="reset")
            eventually(lambda: served.post("/notes/milk").status == 503)
            reply = served.post("/notes/milk")
            assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
            assert reply.body == {"detail": "the database cannot do this now: try again"}
            wire.clear_faults()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(text.startswith("POST /notes/coffee: ") for text in told)


def test_a_writer_at_a_demoted_host_is_told_to_try_again_and_a_reader_that_writes_is_not(
    shared: LocalCluster, notes: str
) -> None:
    app = notes_app(notes, lifespan(shared.dsn))
    add_error_handlers(app)
    with Served(app) as served:
        reply = served.post("/demoted/tea")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert reply.body == {"detail": "the database cannot do this now: try again"}
        assert served.post("/notes/tea").status == 200  # by another connection
        assert served.post("/by-reader/milk").status == 500


def test_users_see_what_they_have_written(shared: LocalCluster, held_back: str) -> None:
    app = notes_app(held_back, lifespan(shared.dsn))
    app.add_middleware(ReadYourWrites, secret_key=["old" * 10, SECRET], secure=False, samesite="strict")
    with Served(app) as served:
        # They never go back. A standby that answers before the primary cannot prove where it is.
        eventually(lambda: served.get("/notes").headers["Set-Cookie"])
        written = served.post("/notes/tea")
        header = written.headers["Set-Cookie"]
        assert "HttpOnly" in header
        assert "Max-Age=600" in header
        assert "SameSite=strict" in header
        assert "Secure" not in header
        told = served.get("/notes", cookie_of(header)).body
        assert told == {"notes": ["tea"], "port": written.body["port"]}
        assert served.get("/notes").body["notes"] == []
        again = served.get("/notes", cookie_of(header))
        assert "notes" in again.body
        forged = f"{cookie_of(header)}x"
        assert served.get("/notes", forged).body["notes"] == []
        assert served.get("/docs", cookie_of(header)).headers["Set-Cookie"] is None
        assert header.startswith("pgroute-position=")


def test_an_old_key_is_still_accepted(shared: LocalCluster, held_back: str) -> None:
    old = notes_app(held_back, lifespan(shared.dsn))
    old.add_middleware(ReadYourWrites, secret_key=SECRET)
    new = notes_app(held_back, lifespan(shared.dsn))
    new.add_middleware(ReadYourWrites, secret_key=(SECRET, SECRET[::-1]))
    with Served(old) as served:
        written = served.post("/notes/tea").headers["Set-Cookie"]
        assert "Secure" in written
    with Served(new) as served:
        assert served.get("/notes", cookie_of(written)).body["notes"] == ["tea"]


def test_a_position_of_another_cluster_is_left_alone(shared: LocalCluster, notes: str) -> None:
    app = notes_app(notes, lifespan(shared.dsn))
    app.add_middleware(ReadYourWrites, secret_key=SECRET)
    foreign = position_cookie(SECRET).write(pgroute.Position(1, 1, 1))
    with Served(app) as served:
        eventually(lambda: served.get("/notes").status == 200)
        assert served.get("/notes", f"pgroute-position={foreign}").status == 200


def test_health_tells_the_roles(shared: LocalCluster) -> None:
    _, standby, _ = shared.nodes
    with FaultProxy(standby) as wire:
        app = FastAPI(lifespan=lifespan(dsn_at(f"127.0.0.1:{wire.port}", shared)))
        app.mount("/health", health_routes())
        app.mount("/internal", health_routes(["writer", "reader"], details=True))
        with Served(app) as served:
            eventually(lambda: served.get("/health/reader").status == 200)
            assert served.get("/health/live").status == 200
            reply = served.get("/health/ready")
            assert (reply.status, reply.body) == (503, {"writable": False, "readable": True})
            assert served.get("/health/writer").status == 503
            reply = served.get("/internal/ready")
            assert reply.status == 503
            assert reply.body["standbys"] == [f"127.0.0.1:{wire.port}"]
            assert reply.body["reasons"][0].startswith("no primary")
            assert served.get("/health/nothing").status == 404


def test_two_databases_and_a_lifespan_of_ones_own(shared: LocalCluster, notes: str) -> None:
    first, second = lifespan(shared.dsn), lifespan(lambda: pgroute.AsyncRouter(shared.dsn), state="reports")

    @asynccontextmanager
    async def own(app: FastAPI) -> Any:
        async with first(app) as one, second(app) as other:
            yield {**one, **other, "mine": 1}

    app = FastAPI(lifespan=own)
    app.add_middleware(ReadYourWrites, secret_key=SECRET)
    app.add_middleware(ReadYourWrites, secret_key=SECRET, state="reports")

    @app.get("/")
    async def index(here: Reader, there: Reports) -> list[bool]:
        return [here is not there, here.info.user == there.info.user]

    def cookies() -> list[str]:
        return [text.partition("=")[0] for text in served.get("/").headers.get_all("Set-Cookie", [])]

    with Served(app) as served:
        assert served.get("/").body == [True, True]
        eventually(lambda: sorted(cookies()) == ["pgroute-position", "pgroute-position-reports"])


def test_a_websocket_has_sessions(shared: LocalCluster, notes: str) -> None:
    app = FastAPI(lifespan=lifespan(shared.dsn))
    app.add_middleware(ReadYourWrites, secret_key=SECRET)
    answers = []

    @app.websocket("/ws")
    async def talk(socket: WebSocket, conn: Writer) -> None:
        [answer] = await (await conn.execute("SELECT 7")).fetchone() or [None]
        answers.append(answer)
        await socket.close()

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        answers.append(message["type"])

    async def through() -> None:
        async with app.router.lifespan_context(app) as state:
            scope = {
                "type": "websocket",
                "path": "/ws",
                "headers": [],
                "query_string": b"",
                "state": dict(state or {}),
                "subprotocols": [],
            }
            await app(scope, receive, send)

    asyncio.run(through())
    assert answers == [7, "websocket.close"]


def test_an_application_without_the_lifespan_is_told() -> None:
    request = Request({"type": "http", "state": {"reports": 1}})
    with pytest.raises(RuntimeError, match=r"no router 'pgroute': create it with lifespan=lifespan\(DSN\)"):
        router_of(request)
    with pytest.raises(RuntimeError, match=r"state\['reports'\] is no AsyncRouter"):
        causal_of(request, state="reports")
    with Served(notes_app("notes", None)) as served:
        assert served.get("/notes").status == 500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (lambda: lifespan("postgresql://u:geheim@h/d?bogus=1"), "bogus"),
        (lambda: lifespan("", acquire_timeout=-1), "acquire_timeout"),
        (lambda: lifespan(lambda: None, acquire_timeout=1), "beside a function"),  # type: ignore[arg-type, return-value]
        (lambda: ReadYourWrites(None, "geheim"), "secret_key"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, []), "secret_key"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, 5), "secret_key"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, cookie="a b"), "name"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, max_age=0), "max_age"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, samesite="Lax"), "samesite"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, samesite=Undecided()), "samesite"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, samesite="none", secure=False), "secure=True"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, path="/;a"), "path"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, path=None), "path"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, secure="false"), "secure"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, secure=""), "secure"),  # type: ignore[arg-type]
        (lambda: ReadYourWrites(None, SECRET, secure=None), "secure"),  # type: ignore[arg-type]
        (lambda: health_routes(details="false"), "details"),  # type: ignore[arg-type]
        (lambda: lifespan(coroutine_function), "no coroutine function"),  # type: ignore[arg-type]
        (lambda: health_routes([]), "roles"),
        (lambda: health_routes("writer"), "roles"),
        (lambda: health_routes(["primary"]), "roles"),
    ],
)
def test_a_mistake_is_told_when_it_is_made(arguments: Any, told: str) -> None:
    with pytest.raises(pgroute.ConfigError, match=told) as caught:
        arguments()
    assert "geheim" not in str(caught.value)
