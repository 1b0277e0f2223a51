"""Mistakes in the settings: what is told, on connecting and by the checks."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, router
from django.test import override_settings

from pgroute import HostOptions, PoolOptions, ProbeOptions
from pgroute.contrib.django import get_router
from pgroute.contrib.django.checks import check_settings
from pgroute.contrib.django.client import DatabaseClient
from pgroute.contrib.django.options import read_options
from tests.contrib.django.conftest import use, with_params

ENTRY = {
    "ENGINE": "pgroute.contrib.django",
    "HOST": "db1,db2",
    "NAME": "shop",
    "USER": "app",
    "PASSWORD": "geheim",
}


@pytest.fixture(autouse=True)
def forget():
    yield
    use({})


def databases(reader=(), /, **changes):
    entries = {"default": ENTRY | changes}
    if reader:
        entries["reader"] = ENTRY | dict(reader)
    use(entries)


def told(**options):
    databases(OPTIONS=options)
    with pytest.raises(ImproperlyConfigured) as caught:
        get_router()
    text = str(caught.value)
    assert text.startswith("DATABASES['default']: invalid ")
    assert "geheim" not in text
    assert caught.value.__cause__ is None
    return text.removeprefix("DATABASES['default']: invalid ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"acquire_timeot": 3},
            "acquire_timeot '***': the router has no such parameter, did you mean acquire_timeout?",
        ),
        ({"rol": "reader"}, "rol '***': the router has no such parameter, did you mean role?"),
        ({"sslmod": "require"}, "sslmod '***': the router has no such parameter, did you mean sslmode?"),
        ({"role": "redaer"}, "role 'redaer': expected"),
        (
            {"max_size": 4},
            "max_size 4: each role has its own: expected writer=PoolOptions(max_size=4), or reader=",
        ),
        (
            {"writer": {"max_sise": 4}},
            "writer['max_sise'] '***': there is no such option, did you mean max_size?",
        ),
        ({"writer": {"max_size": 0}}, "max_size 0: expected"),
        (
            {"pool": True},
            "pool '***': the router has pools: expected 'writer' and 'reader' with options such as max_size",
        ),
        ({"pool": {"min_size": 2}}, "pool '***': the router has pools"),
        (
            {"target_session_attrs": "read-write"},
            "target_session_attrs 'read-write': expected 'role': 'writer' or",
        ),
        ({"hosts": "db1"}, "hosts 'db1': expected in HOST, a list: 'db1,db2'"),
        ({"dsn": "postgresql://app:geheim@db1/shop"}, "dsn '***': expected as HOST"),
        ({"password": "geheim"}, "password '***': expected in PASSWORD"),
        ({"passwrd": "geheim"}, "passwrd '***': the router has no such parameter, did you mean password?"),
        ({"autocommit": True}, "autocommit True: expected in AUTOCOMMIT"),
        ({"balance": "fair"}, "balance 'fair': expected"),
        ({"acquire_timeout": 0}, "acquire_timeout 0: expected"),
        (
            {"host_options": {"db9": {"weight": 0}}},
            "host_options 'db9': expected one of the hosts of the DSN",
        ),
        ({"sslmode": "sometimes"}, "sslmode"),
        ({"assume_role": True}, "assume_role True: expected the name of a role, or None"),
        ({"connect_timeout": "soon"}, "connect_timeout 'soon': expected an integer"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_accepted(options, text):
    assert text in told(**options)


def test_a_host_that_is_no_text_is_refused():
    databases(HOST=b"db1")
    with pytest.raises(ImproperlyConfigured, match="invalid host b'db1': expected a str"):
        get_router()


def test_options_may_be_mappings_so_that_settings_need_no_import():
    given = {
        "role": "reader",
        "reader": {"max_size": 4},
        "probe": {"interval": 2},
        "host_options": {"db1": {"weight": 2}},
        "pool": False,
        "isolation_level": 3,
        "sslmode": "require",
    }
    found = read_options(given)
    assert found.role.value == "reader"
    assert found.router == {
        "reader": PoolOptions(max_size=4),
        "probe": ProbeOptions(interval=2),
        "host_options": {"db1": HostOptions(weight=2)},
    }
    assert found.django == {"isolation_level": 3, "sslmode": "require"}


def test_a_connection_is_not_kept_from_request_to_request():
    databases(CONN_MAX_AGE=60)
    with pytest.raises(ImproperlyConfigured, match="invalid CONN_MAX_AGE 60: expected 0"):
        get_router()


def test_a_port_that_is_wrong_is_told():
    databases(PORT="5432,5433,5434")
    with pytest.raises(ImproperlyConfigured, match="expected one port, or as many as hosts"):
        get_router()


def test_an_alias_of_another_backend_has_no_router():
    databases(ENGINE="django.db.backends.sqlite3", NAME=":memory:")
    with pytest.raises(ImproperlyConfigured, match="the ENGINE of the alias 'default' is not"):
        get_router()


MIRRORED = {"OPTIONS": {"role": "reader"}, "TEST": {"MIRROR": "default"}}


def ids(reader=(), /, **changes):
    databases(reader, **changes)
    return {message.id: message.msg for message in check_settings()}


def test_good_settings_are_left_alone():
    assert ids(MIRRORED) == {}


def test_the_checks_tell_mistakes():
    assert "did you mean acquire_timeout" in ids(OPTIONS={"acquire_timeot": 3})["pgroute.E001"]
    assert "invalid CONN_MAX_AGE 60" in ids(CONN_MAX_AGE=60)["pgroute.E001"]
    assert "Django writes there" in ids(OPTIONS={"role": "reader"})["pgroute.E002"]
    assert "DATABASES['default'] has one host" in ids(HOST="db1")["pgroute.W001"]
    assert "no TEST MIRROR" in ids({"OPTIONS": {"role": "reader"}})["pgroute.W002"]
    assert "ATOMIC_REQUESTS" in ids(MIRRORED | {"ATOMIC_REQUESTS": True})["pgroute.W005"]


def test_the_checks_tell_which_settings_keep_aliases_apart():
    apart = ids(MIRRORED | {"USER": "reporter", "PASSWORD": "verschwiegen"}, OPTIONS={"max_lag": 3})[
        "pgroute.W003"
    ]
    assert apart.endswith("differ from those of 'default': max_lag, password, user.")
    assert "verschwiegen" not in apart
    assert connections["reader"].spec != connections["default"].spec


def test_the_checks_tell_that_nothing_sends_reads_to_the_reader():
    with override_settings(DATABASE_ROUTERS=[]):
        assert "DATABASE_ROUTERS sends nothing there" in ids(MIRRORED)["pgroute.W004"]


def test_the_checks_tell_that_the_middleware_comes_too_late():
    sessions = "django.contrib.sessions.middleware.SessionMiddleware"
    with override_settings(MIDDLEWARE=[sessions, "pgroute.contrib.django.PositionMiddleware"]):
        assert "behind SessionMiddleware" in ids(MIRRORED)["pgroute.W006"]
    with override_settings(MIDDLEWARE=["pgroute.contrib.django.PositionMiddleware", sessions]):
        assert ids(MIRRORED) == {}


def test_psql_is_sent_to_a_host_of_the_role():
    databases(MIRRORED)
    for alias, attrs in (("default", "read-write"), ("reader", "prefer-standby")):
        args, env = DatabaseClient.settings_to_cmd_args_env(
            connections[alias].settings_dict, ["-c", "SELECT 1"]
        )
        assert args == ["psql", "-U", "app", "-h", "db1,db2", "-c", "SELECT 1", "shop"]
        assert env == {"PGPASSWORD": "geheim", "PGTARGETSESSIONATTRS": attrs}


def test_a_subclass_of_the_backend_is_checked_and_read_from_as_the_backend_itself(make_backend):
    engine = make_backend()
    found = ids({"ENGINE": engine, "OPTIONS": {"role": "reader"}}, ENGINE=engine, HOST="db1")
    assert {"pgroute.W001", "pgroute.W002", "pgroute.W003"} == {*found}
    assert router.db_for_read(object) == "reader"
    assert router.allow_migrate("reader", "auth") is False


def test_an_alias_of_a_backend_that_cannot_be_loaded_is_left_to_django():
    use({"default": ENTRY, "archive": ENTRY | {"ENGINE": "nowhere"}})
    assert check_settings() == []


@pytest.mark.parametrize(
    "use_it",
    [get_router, lambda: connection.spec, lambda: connection.cursor().close()],
    ids=["router", "spec", "connection"],
)
def test_a_subclass_that_changes_what_is_connected_with_is_told(make_backend, use_it):
    override = with_params(password="heute", application_name="web", cursor_factory=object)
    databases(ENGINE=make_backend(get_connection_params=override))
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured) as caught:
            use_it()
        assert "changes application_name, password" in str(caught.value)
        assert "OPTIONS['credentials']" in str(caught.value)
        assert "heute" not in str(caught.value)
    assert [message.id for message in check_settings()] == ["pgroute.E001"]


def test_a_subclass_that_asks_no_base_for_its_parameters_is_told(make_backend):
    databases(ENGINE=make_backend(get_connection_params=lambda _: {"dbname": "mine"}))
    with pytest.raises(
        ImproperlyConfigured, match="changes client_encoding, context, cursor_factory, dbname"
    ):
        connection.ensure_connection()
