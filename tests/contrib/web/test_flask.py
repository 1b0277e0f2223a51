"""The sessions of a Flask application: a router in each process, and users see what they wrote."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import flask
import psycopg
import pytest
from flask.testing import FlaskClient

import pgroute
from pgroute.contrib.flask import PGRoute, add_error_handlers, health_blueprint
from pgroute.testing import FaultProxy, LocalCluster
from tests.support import Background, coroutine_function, dsn_at, eventually

SECRET = "0123456789abcdef"


def notes_app(db: PGRoute, table: str, **config: Any) -> flask.Flask:
    """An application whose clients write and read notes."""
    app = flask.Flask("notes")
    app.config.update(SECRET_KEY=SECRET, **config)
    db.init_app(app)
    insert, select = f"INSERT INTO {table} VALUES (%s)", f"SELECT text FROM {table} ORDER BY text"

    @app.post("/notes/<text>")
    def write(text: str) -> dict[str, Any]:
        with db.writer() as conn:
            conn.execute(insert, (text,))
            return {"port": conn.info.port}

    @app.post("/run/<text>")
    def run(text: str) -> dict[str, Any]:
        db.run(lambda conn: conn.execute(insert, (text,)), timeout=10)
        return {}

    @app.get("/notes")
    def read() -> dict[str, Any]:
        with db.reader() as conn:
            return {"notes": [text for (text,) in conn.execute(select)], "port": conn.info.port}

    @app.post("/by-reader/<text>")
    def write_by_reader(text: str) -> dict[str, Any]:
        with db.reader() as conn:
            conn.execute(insert, (text,))
        return {}

    @app.get("/pid")
    def pid() -> dict[str, Any]:
        return {"pid": os.getpid(), "backend": db.router.fetchval("SELECT pg_backend_pid()", role="writer")}

    return app


@pytest.fixture
def db(shared: LocalCluster) -> PGRoute:
    return PGRoute(dsn=shared.dsn)


@pytest.fixture
def client(db: PGRoute, notes: str) -> Iterator[FlaskClient]:
    app = notes_app(db, notes)
    yield app.test_client()
    with app.app_context():
        db.close()


def test_an_answer_tells_what_was_committed(client: FlaskClient, shared: LocalCluster) -> None:
    written = client.post("/notes/tea")
    assert written.status_code == 200
    assert client.post("/run/coffee").status_code == 200
    assert client.post("/notes/tea").status_code == 500  # found at COMMIT
    shared.catch_up()
    told = client.get("/notes").get_json()
    assert told["notes"] == ["coffee", "tea"]
    assert told["port"] != written.get_json()["port"]
    assert client.post("/by-reader/milk").status_code == 500
    assert "Set-Cookie" not in written.headers


def test_users_see_what_they_have_written(shared: LocalCluster, held_back: str) -> None:
    db = PGRoute(dsn=shared.dsn, read_your_writes=True, secure=False, samesite="strict")
    app = notes_app(db, held_back, SECRET_KEY_FALLBACKS=["old" * 10])
    user, other = app.test_client(), app.test_client()
    try:
        written = user.post("/run/tea")
        for attribute in ("HttpOnly", "Max-Age=600", "SameSite=Strict"):
            assert attribute in written.headers["Set-Cookie"]
        assert user.get("/notes").get_json() == {"notes": ["tea"], "port": shared.primary.port}
        assert other.get("/notes").get_json()["notes"] == []
        other.set_cookie("pgroute-position", "forged")
        assert other.get("/notes").get_json()["notes"] == []
        with app.test_request_context("/"):
            assert db.causal is db.causal
    finally:
        with app.app_context():
            db.close()


def test_two_databases_have_a_cookie_each(shared: LocalCluster) -> None:
    app = flask.Flask("two")
    app.secret_key = SECRET
    databases = [
        PGRoute(app, shared.dsn, read_your_writes=True),
        PGRoute(app, shared.dsn, read_your_writes=True, config_prefix="REPORTS"),
    ]

    @app.get("/")
    def index() -> str:
        for db in databases:
            with db.writer() as conn:
                conn.execute("SELECT 1")
        return ""

    told = app.test_client().get("/").headers.getlist("Set-Cookie")
    assert sorted(text.partition("=")[0] for text in told) == ["pgroute-position", "pgroute-position-REPORTS"]
    with app.app_context():
        for db in databases:
            db.close()


@pytest.mark.parametrize("path", ["ready", "writer", "reader"])
def test_the_first_health_check_of_a_process_waits_for_the_probes(shared: LocalCluster, path: str) -> None:
    app = flask.Flask("new")
    db = PGRoute(app, shared.dsn)
    app.register_blueprint(health_blueprint(db), url_prefix="/health")
    try:
        assert app.test_client().get(f"/health/{path}").status_code == 200
    finally:
        with app.app_context():
            db.close()


def test_a_client_is_not_told_200_when_the_commit_is_unknown(shared: LocalCluster, notes: str) -> None:
    with FaultProxy(shared.primary) as wire:
        dsn = dsn_at(f"127.0.0.1:{wire.port}", shared)
        db = PGRoute(dsn=dsn, probe=pgroute.ProbeOptions(interval=0.2), acquire_timeout=0.5)
        app = notes_app(db, notes)
        add_error_handlers(app)
        app.register_blueprint(health_blueprint(db), url_prefix="/health")
        app.register_blueprint(
            health_blueprint(db, ["reader"], details=True, name="internal"), url_prefix="/internal"
        )
        client = app.test_client()
        assert client.post("/notes/tea").status_code == 200
        assert client.get("/health/ready").status_code == 200
        wire.when(b"COMMIT", action="reset")
        reply = client.post("/notes/coffee")
        assert (reply.status_code, reply.headers.get("Retry-After")) == (503, None)
        assert reply.get_json()["detail"].startswith("it is not known")
        wire.refuse(existing="reset")
        eventually(lambda: client.get("/health/ready").status_code == 503)
        reply = client.post("/notes/milk")
        assert (reply.status_code, reply.headers.get("Retry-After")) == (503, "1")
        assert client.get("/health/live").get_json() == {"live": True}
        assert client.get("/health/writer").get_json() == {"writable": False, "readable": False}
        assert client.get("/internal/ready").get_json()["reasons"][0] == "no host can be used"
        with app.app_context():
            db.close()


def test_a_writer_at_a_demoted_host_is_told_to_try_again_and_a_reader_that_writes_is_not(
    client: FlaskClient, db: PGRoute
) -> None:
    add_error_handlers(client.application)

    @client.application.post("/demoted")
    def write_where_nobody_can() -> str:
        with db.writer() as conn:
            conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            conn.commit()
            conn.execute("CREATE TABLE nowhere ()")
        return "never"

    reply = client.post("/demoted")
    assert (reply.status_code, reply.headers.get("Retry-After")) == (503, "1")
    assert client.post("/by-reader/milk").status_code == 500


def test_all_threads_share_the_router_that_the_first_one_opens(client: FlaskClient, db: PGRoute) -> None:
    app = client.application
    barrier = threading.Barrier(8)

    def ask() -> pgroute.Router[Any]:
        barrier.wait()
        with app.app_context():
            return db.router

    with Background() as background:
        found = [background.start(ask) for _ in range(8)]
        assert len({id(handle.result()) for handle in found}) == 1


def test_a_child_opens_a_router_of_its_own(client: FlaskClient) -> None:
    before = client.get("/pid").get_json()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            told = client.get("/pid").get_json()
            fine = told["pid"] == os.getpid() and told["backend"] != before["backend"]
            os.write(write, b"1" if fine else b"0")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        assert answer.read() == b"1"
    os.waitpid(child, 0)
    assert client.get("/pid").get_json() == before


def test_an_application_that_is_gone_closes_its_router(shared: LocalCluster) -> None:
    db = PGRoute(dsn=shared.dsn)
    app = flask.Flask("short")
    db.init_app(app)
    with app.app_context():
        router = db.router
    assert "open" in repr(router)
    del app
    gc.collect()
    assert "closed" in repr(router)


def test_the_configuration_comes_before_the_arguments(shared: LocalCluster) -> None:
    db = PGRoute(dsn="host=127.0.0.1 port=1", acquire_timeout=1, config_prefix="REPORTS")
    app = flask.Flask("reports")
    app.config.update(REPORTS_DSN=lambda: pgroute.Router(shared.dsn, acquire_timeout=7), REPORTS_OPTIONS={})
    with pytest.raises(pgroute.ConfigError, match="beside a function"):
        db.init_app(app)
    app.config.update(REPORTS_DSN=shared.dsn, REPORTS_OPTIONS={"acquire_timeout": 7})
    db.init_app(app)
    with app.app_context():
        assert db.router.fetchval("SELECT 1") == 1
        db.close()
        assert db.router.fetchval("SELECT 1") == 1
        db.close()
    with pytest.raises(pgroute.ConfigError, match=r"one call of init_app\(\)"):
        db.init_app(app)


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        ({"PGROUTE_DSN": "postgresql://u:geheim@h/d?bogus=1"}, {}, "bogus"),
        ({"PGROUTE_OPTIONS": {"acquire_timeout": -1}}, {}, "acquire_timeout"),
        ({}, {"acquire_tiemout": 1}, "acquire_tiemout"),
        ({}, {"read_your_writes": True}, "SECRET_KEY"),
        ({"SECRET_KEY": "geheim"}, {"read_your_writes": True}, "secret_key"),
        ({"SECRET_KEY": SECRET}, {"read_your_writes": True, "max_age": 0}, "max_age"),
        ({"SECRET_KEY": SECRET}, {"read_your_writes": "false"}, "read_your_writes 'false'"),
        ({"SECRET_KEY": SECRET}, {"read_your_writes": True, "secure": "false"}, "secure"),
        ({"SECRET_KEY": SECRET, "SECRET_KEY_FALLBACKS": 5}, {"read_your_writes": True}, "FALLBACKS"),
        ({"SECRET_KEY": SECRET, "SECRET_KEY_FALLBACKS": "geheim"}, {"read_your_writes": True}, "FALLBACKS"),
        ({"PGROUTE_OPTIONS": 5}, {}, "PGROUTE_OPTIONS 'int': expected a mapping"),
        ({"PGROUTE_DSN": coroutine_function}, {}, "no coroutine function"),
    ],
)
def test_a_mistake_is_told_when_it_is_made(config: Any, options: Any, told: str) -> None:
    app = flask.Flask("mistaken")
    app.config.update(config)
    with pytest.raises(pgroute.ConfigError, match=told) as caught:
        PGRoute(app, **options)
    assert "geheim" not in str(caught.value)


def test_options_that_are_none_are_none() -> None:
    app = flask.Flask("plain")
    app.config.update(PGROUTE_OPTIONS=None, PGROUTE_DSN="host=a")
    PGRoute(app)


def test_a_dsn_in_the_place_of_the_application_is_told() -> None:
    with pytest.raises(pgroute.ConfigError, match=r"invalid app 'str': .* a DSN belongs in dsn="):
        PGRoute("host=a")  # type: ignore[arg-type]


def test_use_without_init_app_is_told() -> None:
    db = PGRoute()
    with flask.Flask("other").app_context(), pytest.raises(RuntimeError, match="init_app"):
        db.writer()
    with pytest.raises(RuntimeError, match="application context"):
        db.reader()
    assert issubclass(pgroute.CommitUnknown, psycopg.OperationalError)
