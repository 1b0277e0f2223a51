"""The examples behind servers that fork their workers: each worker has its own router, and none is left behind."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute.testing import LocalCluster
from pgroute.testing.ports import HOST, Port
from tests.support import dsn_with, eventually

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "prefork"
GUNICORN = ["-m", "gunicorn", "--workers", "2", "--bind", "{at}"]
CONFIG = [*GUNICORN, "--config", "gunicorn_conf.py"]
UWSGI = ["uwsgi", "--ini", "uwsgi.ini", "--http-socket", "{at}"]
SERVERS = {
    "gunicorn sync, hooks": [*CONFIG, "plain:application"],
    "gunicorn gthread, hooks, preload": [*CONFIG, "--threads", "2", "--preload", "plain:application"],
    "gunicorn sync, Flask, preload": [*GUNICORN, "--preload", "flask_shop:app"],
    "gunicorn gthread, Flask": [*GUNICORN, "--threads", "2", "flask_shop:app"],
    "gunicorn uvicorn worker, FastAPI": [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "fastapi_shop:app"],
    "uvicorn, FastAPI": ["-m", "uvicorn", "--workers", "2", "--port", "{port}", "fastapi_shop:app"],
    "uwsgi": UWSGI,
    "uwsgi, Flask": [*UWSGI, "--module", "flask_shop:app"],
    "uwsgi lazy, Flask": [*UWSGI, "--lazy-apps", "--module", "flask_shop:app"],
}
USUAL = ("gunicorn gthread, hooks, preload", "uwsgi")
"""Those that the short run tries; together they fork in Python and in C."""


def needs(*modules: str) -> None:
    """Skip where a server is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the folder of the examples; it must end well when it is asked to."""
    program = [sys.executable, "-W", "error::ResourceWarning"]
    if command[0] == "uwsgi":
        program, command = [str(Path(sys.executable).with_name("uwsgi"))], command[1:]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*program, *command],
            cwd=FOLDER,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def answer(port: int) -> dict[str, Any] | None:
    """Return what the server answers; None: nothing yet."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        told: dict[str, Any] = json.loads(text)
    except (ConnectionError, http.client.BadStatusLine):
        return None
    finally:
        connection.close()
    return told


def assert_ended_well(log: Path) -> None:
    """Look for what a server prints when it ends badly. gunicorn leaves sockets of its own open."""
    text = log.read_text()
    assert "Traceback" not in text
    assert not [line for line in text.splitlines() if "ResourceWarning" in line and "socket" not in line], (
        text
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in USUAL else [pytest.mark.long]) for name in SERVERS]
)
def test_each_worker_opens_and_closes_a_router(name: str, shared: LocalCluster, tmp_path: Path) -> None:
    needs("uwsgidecorators" if name.startswith("uwsgi") else "gunicorn", "uvicorn_worker")
    port, log = Port(), tmp_path / "log"
    command = [part.format(at=f"{HOST}:{port.number}", port=port.number) for part in SERVERS[name]]
    workers: dict[int, int] = {}

    def seen() -> bool:
        told = answer(port.number)
        if told is not None:
            assert workers.setdefault(told["pid"], told["backend"]) == told["backend"]
        return len(workers) == 2

    port.release()
    with running(command, log, DATABASE_URL=shared.dsn) as server:
        try:
            eventually(lambda: server.poll() is not None or seen(), 60)
        except AssertionError:
            print(log.read_text())
            raise
    assert len(set(workers.values())) == 2, log.read_text()
    assert server.pid not in workers
    assert_ended_well(log)


@pytest.fixture
def celery_settings(shared: LocalCluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A database of this test's own, and a broker of files."""
    shared.primary.execute("CREATE DATABASE celery_shop")
    with psycopg.connect(dsn_with(shared.dsn, dbname="celery_shop"), target_session_attrs="primary") as conn:
        conn.execute("CREATE TABLE pgroute_paid (order_name text)")
    shared.catch_up()
    for folder in ("queue", "results"):
        (tmp_path / folder).mkdir()
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(tmp_path / "queue"))
    (tmp_path / "celery_settings.py").write_text(
        f"broker_url = 'filesystem://'\nbroker_transport_options = {folders}\n"
        f"result_backend = {(tmp_path / 'results').as_uri()!r}\n"
    )
    yield {
        "DATABASE_URL": dsn_with(shared.dsn, dbname="celery_shop"),
        "CELERY_CONFIG_MODULE": "celery_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    shared.primary.execute("DROP DATABASE celery_shop WITH (FORCE)")


@pytest.mark.long
def test_celery_workers_pay_each_order_once(
    shared: LocalCluster, celery_settings: dict[str, str], tmp_path: Path
) -> None:
    needs("celery")
    log = tmp_path / "log"
    orders = [str(number) for number in range(12)]
    send = (
        "from celery_shop import pay_order, router\n"
        "with router: router.install()\n"
        f"sent = [pay_order.delay(order) for order in {orders} * 2]\n"
        "import json; print(json.dumps([result.get(timeout=60) for result in sent]))"
    )
    worker = ["-m", "celery", "--app", "celery_shop", "worker", "--concurrency", "2", "--loglevel", "INFO"]
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with running([*worker, *options], log, **celery_settings):
        sent = subprocess.run(
            [sys.executable, "-c", send],
            cwd=FOLDER,
            env={**os.environ, **celery_settings},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert sent.returncode == 0, sent.stderr + log.read_text()
        told = json.loads(sent.stdout)
    backends = dict(told)
    assert told[: len(orders)] == told[len(orders) :]  # the result of the first time
    assert len(set(backends.values())) == len(backends) <= 2
    with psycopg.connect(celery_settings["DATABASE_URL"], target_session_attrs="primary") as conn:
        paid = conn.execute("SELECT order_name FROM pgroute_paid").fetchall()
    assert sorted(paid) == sorted((order,) for order in orders)
    assert_ended_well(log)
