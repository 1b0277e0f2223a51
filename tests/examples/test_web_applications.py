"""The web applications, over HTTP: what they were told to keep they keep, and they end as they should."""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import signal
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import psycopg
import pytest

from pgroute.testing import FaultProxy
from tests.examples.application import Application, leftovers
from tests.support import Background, dsn_with, eventually, password_of

WRITERS = 4
NAMES = itertools.count(1)


@pytest.fixture(params=["flask_app.py", pytest.param("fastapi_app.py", marks=pytest.mark.long)])
def start(request, temporary, tmp_path):
    """Starts the application with these arguments."""
    return functools.partial(Application, request.param, temporary, tmp_path / "log")


@pytest.fixture
def dsn(shared):
    """That of an empty database of this test's own, which the standbys have too."""
    database = f"web_{next(NAMES)}"
    shared.primary.execute(f"CREATE DATABASE {database}")
    shared.catch_up()
    yield dsn_with(shared.dsn, dbname=database)
    shared.primary.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
def proxies(shared, pgroute_proxy_factory):
    return [pgroute_proxy_factory(node) for node in shared.nodes]


@pytest.fixture
def proxied_dsn(dsn, proxies):
    """The same database, through the proxies, and with a password."""
    database = urlsplit(dsn).path.removeprefix("/")
    return dsn_with(FaultProxy.dsn(proxies, dbname=database), password=password_of(proxies[0]))


def place_orders(app, writer, acknowledged, end):
    """Place orders one after the other, each until it is acknowledged or the application is gone."""
    for number in itertools.count():
        item = f"{writer}-{number}"
        until = time.monotonic() + 60
        try:
            while (reply := app.order(item, item)).status != 201:
                assert (reply.status, reply.retry_after) == (503, "1"), reply
                assert time.monotonic() < until
        except (OSError, http.client.HTTPException):
            assert end.is_set()
            return
        acknowledged.append(item)
        if end.is_set():
            return


def orders(dsn):
    """Count the orders on the primary by item."""
    with psycopg.connect(dsn, target_session_attrs="primary") as conn:
        return Counter(item for (item,) in conn.execute("SELECT item FROM pgroute_web_order"))


def test_acknowledged_orders_survive_the_death_of_the_primary(start, temporary):
    acknowledged: list[str] = []
    end = threading.Event()
    with start() as app, Background() as background:
        healthy = app.wait_for_health(200)
        assert healthy["reasons"] == []
        try:
            writers = [background.start(place_orders, app, w, acknowledged, end) for w in range(WRITERS)]
            eventually(lambda: len(acknowledged) > 20)
            assert app.request("POST", "/demo/promote").status == 409

            killed = app.request("POST", "/demo/kill-primary").body["killed"]
            assert killed == healthy["primary"]
            told = app.wait_for_health(503)
            assert (told["writable"], told["readable"], told["primary"]) == (False, True, None)
            assert told["reasons"][0] == "no primary"
            assert any(reason.startswith(f"{killed} is down: ") for reason in told["reasons"])
            assert len(app.request("GET", "/orders").body["orders"]) == 20
            assert app.request("POST", "/demo/kill-primary").status == 409

            promoted = app.request("POST", "/demo/promote").body["promoted"]
            assert promoted in healthy["standbys"]
            assert app.wait_for_health(200)["primary"] == promoted
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 20)
        finally:
            end.set()
        for writer in writers:
            writer.result()

        assert orders(app.dsn) == Counter(acknowledged)
        last = app.order("last", "last").body
        assert f":{last['written_to']}" == promoted[-6:]
        newest = {"id": last["id"], "item": "last"}
        reply = eventually(
            lambda: (read := app.request("GET", "/orders").body)["orders"][0] == newest and read
        )
        assert reply["read_from"] != last["written_to"]
        eventually(lambda: app.wait_for_health(200)["reasons"] == [])
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output
    assert leftovers(temporary) == []


def test_ctrl_c_leaves_nothing_behind(start, temporary):
    with start() as app:
        app.wait_for_health(200)
        assert app.order("tea", "1").status == 201
        app.end(signal.SIGINT)
        assert "Traceback" not in app.output
    assert leftovers(temporary) == []


def test_sigterm_while_the_servers_start_leaves_nothing_behind(start, temporary):
    with start() as app:
        eventually(lambda: list(temporary.glob("*/node1")), 30)
        app.end(signal.SIGTERM)
        assert "KeyboardInterrupt" not in app.output
    assert leftovers(temporary) == []


def test_sigterm_amid_requests_loses_no_acknowledged_order(start, dsn):
    acknowledged: list[str] = []
    end = threading.Event()
    with start(dsn) as app, Background() as background:
        app.wait_for_health(200)
        try:
            writers = [background.start(place_orders, app, w, acknowledged, end) for w in range(WRITERS)]
            eventually(lambda: len(acknowledged) > 20)
        finally:
            end.set()
        app.end(signal.SIGTERM)
        for writer in writers:
            writer.result()
    found = orders(dsn)
    assert set(found.values()) == {1}
    assert set(acknowledged) <= set(found)


LATE = """
import pathlib, threading, time

start = threading.Thread.start

def start_late(thread):
    if getattr(thread, "_args", ())[1:] and thread._target.__name__ == "process_request_thread":
        pathlib.Path({folder!r}, "late").touch()
        until = time.monotonic() + 10
        while not pathlib.Path({folder!r}, "signalled").exists() and time.monotonic() < until:
            time.sleep(0.01)
    start(thread)

threading.Thread.start = start_late
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["flask_app.py", "own_writes_flask.py", "django_app.py"])
def test_a_request_whose_thread_has_not_started_at_the_signal_is_answered(
    dsn, name, number, temporary, tmp_path
):
    late, signalled = tmp_path / "late", tmp_path / "signalled"
    signalled.touch()
    (tmp_path / "sitecustomize.py").write_text(LATE.format(folder=str(tmp_path)))
    path = "/notes" if name == "own_writes_flask.py" else "/orders"
    log = tmp_path / "log"
    with (
        Application(name, temporary, log, dsn, secret="x" * 16, modules=tmp_path) as app,
        Background() as background,
    ):
        app.wait_for(path, 200)
        signalled.unlink()
        late.unlink()
        asking = background.start(app.request, "GET", path)
        eventually(late.exists)
        os.killpg(app.process.pid, number)
        signalled.touch()
        assert app.process.wait(30) == 0, app.output
        assert asking.result().status == 200
    assert "Traceback" not in log.read_text()


def test_a_lost_acknowledgement_is_settled_or_told(start, proxies, proxied_dsn, dsn):
    with start(proxied_dsn) as app:
        app.wait_for_health(200)
        lost = proxies[0].when(b"COMMIT", action="reset")
        reply = app.order("tea", "1")
        assert (reply.status, lost.hits) == (201, 1)
        assert orders(dsn) == {"tea": 1}

        order = f"/orders/{reply.body['id']}"
        lost = proxies[0].when(b"COMMIT", action="reset")
        reply = app.request("DELETE", order)
        assert (reply.status, reply.retry_after, lost.hits) == (503, "1", 1)
        assert reply.body["error"].startswith("it is not known")
        assert app.request("DELETE", order).status == 204
        assert orders(dsn) == {}
        app.end(signal.SIGTERM)


def test_requests_are_told_to_come_back_while_no_host_answers(start, proxies, proxied_dsn):
    with start(proxied_dsn) as app:
        app.wait_for_health(200)
        for proxy in proxies:
            proxy.refuse(existing="reset")
        told = app.wait_for_health(503)
        eventually(lambda: not app.request("GET", "/health").body["readable"])
        replies = [app.order("tea", "1"), told]
        assert (replies[0].status, replies[0].retry_after) == (503, "1")
        for proxy in proxies:
            proxy.clear_faults()
        replies += [app.wait_for_health(200), app.order("tea", "1")]
        assert replies[-1].status == 201
        app.end(signal.SIGTERM)
        assert "Connection refused" in app.output
        assert password_of(proxies[0]) not in f"{replies} {app.output}"


def test_requests_that_make_no_sense_are_refused(start, dsn):
    with start(dsn) as app:
        app.wait_for_health(200)
        assert app.order("tea", "1").status == 201
        assert app.order("coffee", "1").status == 422  # the key of another order
        refused = {400, 422}
        assert app.request("POST", "/orders", {"item": "tea"}).status in refused
        assert app.order("tea", "1" * 201).status in refused
        for body in ([], {}, *({"item": item} for item in (1, "", "a\0b", "x" * 201))):
            assert app.request("POST", "/orders", body, "2").status in refused
        # Whoever can reach the application must not be able to kill its database.
        assert app.request("POST", "/demo/kill-primary").status == 404
        assert app.request("POST", "/demo/promote").status == 404
        assert orders(dsn) == {"tea": 1}
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output


def test_no_host_is_told_at_the_start_without_a_traceback(start):
    with start("postgresql://app:geheim@127.0.0.1:1/shop") as app:
        assert app.process.wait(30) == 1
        assert "cannot begin: no writer session" in app.output
        assert "127.0.0.1:1: down for" in app.output
        assert "Traceback" not in app.output
        assert "geheim" not in app.output
