"""The web applications that carry a position in a cookie, over HTTP: their users see what they have written."""

from __future__ import annotations

import functools
import itertools
import signal
from dataclasses import replace

import pytest
from itsdangerous import TimestampSigner

from pgroute import Position
from tests.examples.application import Application, Reply, leftovers
from tests.support import dsn_with, eventually

SECRET = "a secret of the tests alone"
NAMES = itertools.count(1)


class User:
    """One who keeps the cookies that he is given."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.cookie: str | None = None

    def request(self, method: str, path: str, body: object = None) -> Reply:
        reply = self._app.request(method, path, body, cookie=self.cookie)
        if reply.set_cookie is not None:
            self.cookie = None if "Max-Age=0;" in reply.set_cookie else reply.set_cookie.partition(";")[0]
        return reply

    def write(self, text: str) -> Reply:
        return self.request("POST", "/notes", {"text": text})

    def read(self) -> Reply:
        return self.request("GET", "/notes")


@pytest.fixture(params=[pytest.param("own_writes_flask.py", marks=pytest.mark.long), "own_writes_fastapi.py"])
def start(request, temporary, tmp_path):
    """Starts the application with these arguments."""
    return functools.partial(Application, request.param, temporary, tmp_path / "log", secret=SECRET)


@pytest.fixture
def dsn(shared):
    """That of an empty database of this test's own, which the standbys have too."""
    database = f"own_writes_{next(NAMES)}"
    shared.primary.execute(f"CREATE DATABASE {database}")
    shared.catch_up()
    yield dsn_with(shared.dsn, dbname=database)
    shared.primary.execute(f"DROP DATABASE {database} WITH (FORCE)")


def test_a_user_sees_his_note_and_others_see_what_a_late_standby_has(start, any_cluster):
    with start(any_cluster.dsn) as app:
        app.wait_for("/notes", 200)
        any_cluster.catch_up()
        for node in any_cluster.standbys:
            node.pause_replay()
        user = User(app)
        written = user.write("tea")
        assert written.status == 201
        assert user.read().body == {"notes": ["tea"], "read_from": written.body["written_to"]}
        other = User(app).read().body
        assert other["notes"] == []
        assert other["read_from"] != written.body["written_to"]

        def from_a_standby() -> bool:
            told = user.read().body
            assert told["notes"] == ["tea"]
            return bool(told["read_from"] != written.body["written_to"])

        for node in any_cluster.standbys:
            node.resume_replay()
        eventually(from_a_standby)
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output


def test_a_cluster_of_its_own_is_gone_at_the_end(start, temporary):
    with start() as app:
        app.wait_for("/notes", 200)
        user = User(app)
        assert user.write("tea").status == 201
        assert user.read().body["notes"] == ["tea"]
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output
    assert leftovers(temporary) == []


def test_a_forged_or_foreign_cookie_is_ignored(start, shared, dsn):
    with start(dsn) as app:
        app.wait_for("/notes", 200)
        user = User(app)
        user.write("tea")
        assert user.cookie is not None
        own = user.cookie
        name, _, value = own.partition("=")
        position = Position.parse(value.partition(".")[0])
        future = str(replace(position, timeline=position.timeline + 1))  # it would be waited for
        forger = TimestampSigner("?", salt="pgroute.position")
        for forged in ("", "?", future, forger.sign(future).decode(), future + value[value.index(".") :]):
            user.cookie = f"{name}={forged}"
            assert user.read().status == 200
        ours = TimestampSigner(SECRET, salt="pgroute.position")
        for signed in (str(Position(1, 1, 1)), "no position"):
            user.cookie = f"{name}={ours.sign(signed).decode()}"
            assert user.read().status == 200
        user.cookie = own
        assert user.read().body["notes"] == ["tea"]
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output


def test_a_lost_position_is_told_once(start, any_cluster):
    first, *standbys = any_cluster.nodes
    with start(any_cluster.dsn) as app:
        app.wait_for("/notes", 200)
        user = User(app)
        assert user.write("tea").status == 201
        any_cluster.catch_up()
        for node in standbys:
            node.execute("ALTER SYSTEM SET primary_conninfo TO ''")
            node.execute("SELECT pg_reload_conf()")
        eventually(lambda: first.execute("SELECT count(*) FROM pg_stat_replication") == [(0,)])
        assert user.write("coffee").status == 201
        first.kill()
        any_cluster.promote()
        eventually(lambda: User(app).write("water").status == 201)

        lost = user.read()
        assert (lost.status, user.cookie) == (409, None)
        assert lost.body["detail"].startswith("your last change may be lost")
        eventually(lambda: user.read().body.get("notes") == ["water", "tea"])
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output
