"""Django, set up once for all tests of this folder; each test has its own DATABASES."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import django
import pytest
from asgiref.local import Local
from django.conf import settings
from django.db import connections, router
from psycopg.conninfo import conninfo_to_dict

from pgroute.contrib.django.routers import close_all
from pgroute.testing import LocalCluster

NAMES = itertools.count(1)

if not settings.configured:
    settings.configure(
        SECRET_KEY="the tests' own",
        USE_TZ=True,
        TIME_ZONE="Europe/Berlin",
        ALLOWED_HOSTS=["*"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["pgroute.contrib.django"],
        DATABASE_ROUTERS=["pgroute.contrib.django.ReadReplicaRouter"],
        DATABASES={},
        MIDDLEWARE=["pgroute.contrib.django.PositionMiddleware"],
        ROOT_URLCONF="tests.contrib.django.urls",
    )
    django.setup()

Configure = Callable[..., dict[str, Any]]


def entry(dsn: str, **options: Any) -> dict[str, Any]:
    """Return an entry of DATABASES that leads where a DSN does."""
    told = conninfo_to_dict(dsn)
    names = {"host": "HOST", "port": "PORT", "dbname": "NAME", "user": "USER", "password": "PASSWORD"}
    return {
        "ENGINE": "pgroute.contrib.django",
        **{setting: told.get(name, "") for name, setting in names.items()},
        "OPTIONS": {name: value for name, value in told.items() if name not in names} | options,
    }


def use(databases: dict[str, Any]) -> None:
    """Make these DATABASES, and forget all connections."""
    connections.close_all()
    close_all()
    connections.settings = connections.configure_settings(databases)
    connections._connections = Local(connections.thread_critical)
    router.__dict__.pop("routers", None)


@pytest.fixture
def make_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that makes a project's own subclass of the backend, and returns its ENGINE."""

    def make(**members: Any) -> str:
        # Not before the settings are made.
        from pgroute.contrib.django.base import DatabaseWrapper

        engine = f"own_backend_{next(NAMES)}"
        for name in (engine, f"{engine}.base"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        members["__module__"] = f"{engine}.base"
        made: Any = sys.modules[f"{engine}.base"]
        made.DatabaseWrapper = type("DatabaseWrapper", (DatabaseWrapper,), members)
        return engine

    return make


def with_params(**changes: Any) -> Callable[[Any], dict[str, Any]]:
    """Return an override of get_connection_params."""
    return lambda self: super(type(self), self).get_connection_params() | changes


@pytest.fixture
def configure(shared: LocalCluster) -> Iterator[Configure]:
    """Return a function that makes DATABASES of a DSN, with an alias for reading; its arguments are OPTIONS."""

    def configure(dsn: str, **options: Any) -> dict[str, Any]:
        databases = {"default": entry(dsn, **options), "reader": entry(dsn, **options, role="reader")}
        databases["reader"]["TEST"] = {"MIRROR": "default"}
        use(databases)
        return databases

    yield configure
    use({})


@pytest.fixture(scope="session")
def database(inspector: Any) -> Iterator[str]:
    """The name of a database with the tables of the models, for all tests of this folder."""
    cluster = inspector.cluster
    name = "django_tests"
    inspector.execute(cluster.nodes[0], f"CREATE DATABASE {name}")
    make_tables(cluster, name)
    inspector.catch_up()
    yield name
    inspector.execute(cluster.nodes[0], f"DROP DATABASE {name} WITH (FORCE)")


def make_tables(cluster: LocalCluster, database: str) -> None:
    """Make the tables of the models in a database."""
    use({"default": entry(cluster.dsn) | {"NAME": database}})
    make_models()
    use({})


def make_models() -> None:
    """Make the tables of the models where "default" leads."""
    from tests.contrib.django.models import Comment, Note

    with connections["default"].schema_editor() as editor:
        editor.create_model(Note)
        editor.create_model(Comment)


@pytest.fixture
def dsn(shared: LocalCluster, database: str) -> str:
    """That of the shared cluster's database with the tables of the models."""
    from tests.support import dsn_with

    return dsn_with(shared.dsn, dbname=database)


@pytest.fixture
def databases(configure: Configure, dsn: str, inspector: Any) -> dict[str, Any]:
    """DATABASES with "default" and "reader" on the shared cluster, whose tables are empty."""
    import psycopg

    with psycopg.connect(dsn, target_session_attrs="primary") as conn:
        conn.execute("TRUNCATE notes_note, notes_comment RESTART IDENTITY")
    inspector.catch_up()
    return configure(dsn)
