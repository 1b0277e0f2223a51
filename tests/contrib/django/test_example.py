"""The example project, over HTTP through a failover, and Django's commands on it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.examples.application import Application, leftovers
from tests.examples.test_web_applications import WRITERS, orders, place_orders
from tests.support import Background, dsn_with, eventually

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[3]


def test_acknowledged_orders_survive_the_death_of_the_primary(temporary, tmp_path):
    acknowledged: list[str] = []
    end = threading.Event()
    with Application("django_app.py", temporary, tmp_path / "log") as app, Background() as background:
        healthy = app.wait_for_health(200)
        try:
            writers = [background.start(place_orders, app, w, acknowledged, end) for w in range(WRITERS)]
            eventually(lambda: len(acknowledged) > 20, 30)
            killed = app.request("POST", "/demo/kill-primary").body["killed"]
            assert killed == healthy["primary"]
            told = app.wait_for_health(503)
            assert any(reason.startswith(f"{killed} is down: ") for reason in told["reasons"])
            assert len(app.request("GET", "/orders").body["orders"]) == 20
            promoted = app.request("POST", "/demo/promote").body["promoted"]
            assert app.wait_for_health(200)["primary"] == promoted
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 20, 30)
        finally:
            end.set()
        for writer in writers:
            writer.result()
        assert orders(app.dsn) == Counter(acknowledged)
        last = app.order("last", "last").body
        assert f":{last['written_to']}" == promoted[-6:]
        app.end(signal.SIGTERM)
        assert "Traceback" not in app.output
    assert leftovers(temporary) == []


@pytest.fixture
def manage(shared):
    """Runs `manage.py` of the example on the shared cluster, in a database of this test's own."""
    shared.primary.execute("CREATE DATABASE django_example")
    shared.catch_up()
    told = {name: str(value) for name, value in conninfo_to_dict(shared.dsn).items()}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": str(ROOT),
        "DB_HOST": told["host"],
        "DB_PORT": told["port"],
        "DB_NAME": "django_example",
        "DB_USER": told["user"],
        "PGPASSFILE": str(shared.passfile),
    }

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "error", "examples/django_project/manage.py", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    shared.primary.execute("DROP DATABASE django_example WITH (FORCE)")


@pytest.mark.long
def test_commands_work_on_the_primary(manage, shared):
    assert "System check identified no issues" in manage("check", "--database", "default")
    assert "Applying shop.0001_initial... OK" in manage("migrate")
    assert "class PgrouteWebOrder(models.Model):" in manage("inspectdb")
    with psycopg.connect(
        dsn_with(shared.dsn, dbname="django_example"), target_session_attrs="primary"
    ) as conn:
        conn.execute("INSERT INTO pgroute_web_order (key, item) VALUES ('1', 'tea')")
    manage("flush", "--noinput")
    manage("migrate", "shop", "zero", "--verbosity", "0")


def test_the_first_health_check_of_a_process_waits_for_the_probes(manage):
    check = "from shop.views import health; print('told', health(None).status_code)"
    assert "told 200" in manage("shell", "--no-imports", "-c", check)


@pytest.mark.long
@pytest.mark.parametrize("arguments", [(), ("--parallel", "2"), ("--keepdb",)])
def test_the_tests_of_a_project_have_their_database_on_the_primary(manage, shared, arguments):
    told = manage("test", "shop", "--noinput", *arguments)
    assert re.search(r"Ran 3 tests in .*\n\nOK", told), told
    shared.primary.execute("DROP DATABASE IF EXISTS test_django_example WITH (FORCE)")
