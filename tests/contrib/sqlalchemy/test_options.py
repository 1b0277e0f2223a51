"""What may be said in the URL and the connect_args of an engine, and how mistakes are told."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.pool import NullPool, QueuePool

from pgroute import ConfigError, PoolOptions, ProbeOptions, Router
from pgroute.contrib.sqlalchemy import router_engine
from pgroute.contrib.sqlalchemy.dialect import PgrouteDialect
from pgroute.contrib.sqlalchemy.options import read_options
from pgroute.core.model.roles import Role, SessionAttrs

HOSTS = "postgresql+pgroute://app:hush-hush@/shop?host=db1:5432&host=db2:5433"


def options(query=""):
    url = make_url(HOSTS + query)
    return read_options(create_engine(url).dialect.create_connect_args(url)[1])


def test_hosts_are_written_in_the_style_of_sqlalchemy():
    found = options()
    assert "host=db1,db2" in found.dsn
    assert "port=5432,5433" in found.dsn
    assert "dbname=shop" in found.dsn
    assert found.role is Role.WRITER
    assert found.router is None


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("&max_lag=2.5", {"max_lag": 2.5}),
        ("&max_lag=none", {"max_lag": None}),
        ("&balance=round-robin&acquire_timeout=3", {"balance": "round-robin", "acquire_timeout": 3}),
        ("&max_size=7", {"writer": PoolOptions(max_size=7), "reader": PoolOptions(max_size=7)}),
        (
            "&max_size=7&reader.max_size=9",
            {"writer": PoolOptions(max_size=7), "reader": PoolOptions(max_size=9)},
        ),
        ("&reader.max_uses=none", {"reader": PoolOptions(max_uses=None)}),
        (
            "&probe.interval=0.5&probe.abort_stale=true",
            {"probe": ProbeOptions(interval=0.5, abort_stale=True)},
        ),
        ("&prepare_threshold=none", {"kwargs": {"prepare_threshold": None}}),
        ("&autocommit=true", {"kwargs": {"autocommit": True}}),
        ("&cursor_factory=none", {"kwargs": {"cursor_factory": None}}),
        ("&srv_domains=a.example&srv_domains=b.example", {"srv_domains": ("a.example", "b.example")}),
    ],
)
def test_options_of_the_router_are_written_in_the_query(query, arguments):
    assert dict(options(query).arguments) == arguments


@pytest.mark.parametrize(
    ("query", "role", "attrs"),
    [
        ("&role=reader", Role.READER, None),
        ("&target_session_attrs=read-write", Role.WRITER, SessionAttrs.READ_WRITE),
        ("&target_session_attrs=standby", Role.READER, SessionAttrs.STANDBY),
        ("&target_session_attrs=standby&role=reader", Role.READER, SessionAttrs.STANDBY),
    ],
)
def test_the_role_is_said_by_itself_or_by_target_session_attrs(query, role, attrs):
    found = options(query)
    assert (found.role, found.attrs) == (role, attrs)


@pytest.mark.parametrize(
    ("query", "parameter", "words"),
    [
        ("&max_sise=7", "max_sise", "'7': an engine has no such parameter; did you mean max_size?"),
        ("&reader.max_sise=7", "reader.max_sise", "did you mean reader.max_size?"),
        ("&interval=1", "interval", "did you mean"),
        ("&rolle=reader", "rolle", "did you mean role?"),
        ("&sslmod=require", "sslmod", "'require': an engine has no such parameter; did you mean sslmode?"),
        ("&role=standby", "role", "expected 'writer' or 'reader'"),
        (
            "&role=writer&target_session_attrs=standby",
            "role",
            "goes with target_session_attrs=standby: 'reader'",
        ),
        ("&max_size=many", "max_size", "'many': expected a number, true or false"),
        ("&max_size=0", "max_size", "expected a whole number of at least 1"),
        ("&max_size=1%0Aa%3D2", "max_size", "expected a number, true or false"),
        ("&max_size=1%20%23%20spare", "max_size", "expected a number, true or false"),
        ("&cursor_factory=5", "cursor_factory", "a URL cannot hold one"),
        ("&max_lag=0.001", "max_lag", "expected a number of seconds from 0.1"),
        ("&balance=fair", "balance", "expected"),
        ("&sslmode=require&sslmode=disable", "sslmode", "given more than once"),
        ("&configure=x", "configure", "a URL cannot hold one"),
        ("&kwargs=x", "kwargs", "a URL cannot hold one"),
        ("&sslmode=sometimes", "sslmode", "expected 'disable'"),
    ],
)
def test_a_mistake_in_the_url_is_told_when_the_engine_is_made(query, parameter, words):
    with pytest.raises(ConfigError) as caught:
        create_engine(HOSTS + query)
    assert caught.value.parameter == parameter
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_misspelt_password_is_not_shown():
    with pytest.raises(ConfigError, match=r"invalid pasword '\*\*\*'.* did you mean password\?"):
        create_engine(HOSTS + "&pasword=hush")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            {"pool_size": 20},
            "invalid pool_size 20: the router has the pools, expected max_size=20 in the URL",
        ),
        ({"max_overflow": 5}, "invalid max_overflow 5"),
        ({"pool_timeout": 3}, "expected acquire_timeout=3 in the URL"),
        ({"pool_use_lifo": True}, "invalid pool_use_lifo"),
        ({"pool_timeout": 10**5000}, "invalid pool_timeout"),
        ({"pool_size": {"password": "hush"}}, "expected max_size=... in the URL"),
        ({"poolclass": QueuePool}, "invalid poolclass 'QueuePool': expected none, or NullPool"),
    ],
)
def test_options_of_pools_of_sqlalchemy_are_refused_with_ours(argument, words):
    with pytest.raises(ConfigError) as caught:
        create_engine(HOSTS, **argument)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_arguments_that_are_none_are_left_out():
    found = read_options({"host": "db1", "password": None, "application_name": None, "port": 5433})
    assert sorted(found.dsn.split()) == ["host=db1", "port=5433"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"application_name": b"x"}, "invalid application_name b'x': expected a str, a number or a path"),
        ({"password": b"hush"}, "invalid password '***': expected a str"),
        ({"password": "hush\0"}, "invalid password '***': expected no NUL"),
        (
            {"password": "hush", "application_name": "\udc80"},
            "expected no NUL character and no lone surrogate",
        ),
    ],
)
def test_arguments_that_are_no_texts_are_refused(arguments, words):
    with pytest.raises(ConfigError) as caught:
        read_options({"host": "a", **arguments})
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_an_engine_of_a_router_takes_no_other_arguments_than_a_mapping():
    router = Router("host=a")
    router_engine(router, connect_args=None).dispose()
    with pytest.raises(ConfigError, match="invalid connect_args 'int'"):
        router_engine(router, connect_args=5)


def test_options_without_a_meaning_here_do_no_harm():
    engine = create_engine(HOSTS, pool_pre_ping=True, pool_recycle=1800, poolclass=NullPool)
    engine.dispose()


def test_options_of_one_kind_are_given_in_one_way():
    with pytest.raises(ConfigError, match="invalid max_size 5: expected within writer=, which is given too"):
        read_options({"writer": PoolOptions(), "max_size": 5})


def test_a_router_that_is_handed_over_has_all_options():
    with pytest.raises(ConfigError, match="invalid password '\\*\\*\\*': expected in the router"):
        read_options({"router": object(), "password": "hush"})


def test_nothing_of_a_router_is_made_to_compile_a_statement():
    dialect = URL.create("postgresql+pgroute").get_dialect()()
    assert isinstance(dialect, PgrouteDialect)
    assert dialect.owner.held is None
