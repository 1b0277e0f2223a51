# Generated from tests/aio/test_bad_input.py by .ci/unasync.py: edit that file, not this one.
"""What a user gets wrong, and what is told about it, and what is not: the password."""

from __future__ import annotations

import logging
import time
import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, tuple_row

from pgroute import (
    Router,
    ConfigError,
    Event,
    HostOptions,
    HostState,
    NoHostAvailable,
    PoolOptions,
    Position,
    ProbeOptions,
)
from pgroute.testing import LocalCluster, Node
from tests.support import Background, Undecided, call, eventually, within

SECRET = "hunter2-Tr0ub4dor"
USER = f"postgresql://shop:{SECRET}@"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the machine's own settings out."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("dsn", "names"),
    [
        # Empty lists of hosts.
        ("host=,", "host"),
        ("postgresql://,/shop", "host"),
        # Counts that do not match.
        ("host=a,b,c port=1,2", "port"),
        ("host=a port=1,2", "port"),
        ("host=a,b hostaddr=127.0.0.1", "hostaddr"),
        (f"{USER}a:1,b:2,c/shop?hostaddr=127.0.0.1", "hostaddr"),
        # Unknown attributes.
        (f"{USER}a/shop?target_session_attrs=Primary", "target_session_attrs"),
        (f"{USER}a/shop?target_session_attrs=prefer-primary", "target_session_attrs"),
        ("host=a load_balance_hosts=yes", "load_balance_hosts"),
        # Ports.
        ("host=a port=0", "port"),
        ("host=a port=99999", "port"),
        ("host=a port=abc", "port"),
        (f"{USER}a:0/shop", "port"),
        (f"{USER}a:1,b:99999/shop", "port"),
        (f"{USER}a:abc/shop", "port"),
        # Unknown keywords.
        ("host=a colour=blue", "keyword"),
        (f"host=a password={SECRET} colour=blue", "keyword"),
        (f"{USER}a/shop?colour=blue", "colour"),
        # A broken escape.
        ("postgresql://a/%zz", "dsn"),
        (f"{USER}a/%zz", "dsn"),
        (f"postgresql://shop:{SECRET}%2@a/shop", "dsn"),
        # Broken otherwise.
        (f"host=a password='{SECRET}", "dsn"),
        ("nonsense", "dsn"),
        # A service that is not there.
        ("service=missing", "service"),
        (f"{USER}a/shop?service=missing", "service"),
        # Values.
        ("host=a connect_timeout=soon", "connect_timeout"),
        ("host=a sslmode=maybe", "sslmode"),
    ],
)
def test_a_dsn_that_cannot_be_used_is_refused_before_any_connection(dsn: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Router(dsn)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, psycopg.ProgrammingError)
    assert names in str(caught.value)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize("name", ["PGPORT", "PGTARGETSESSIONATTRS", "PGSERVICE", "PGLOADBALANCEHOSTS"])
def test_an_environment_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        Router("host=a")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"dsn": 5432}, "dsn"),
        ({"dsn": None}, "dsn"),
        ({"name": ["a"]}, "name"),
        ({"name": USER}, "name"),
        ({"name": "\udc80"}, "name"),
        ({"balance": "fastest"}, "balance"),
        ({"balance": int}, "balance"),
        ({"reader_attrs": "Standby"}, "reader_attrs"),
        ({"acquire_timeout": 0}, "acquire_timeout"),
        ({"acquire_timeout": "30"}, "acquire_timeout"),
        ({"acquire_timeout": float("nan")}, "acquire_timeout"),
        ({"connection_class": dict}, "connection_class"),
        ({"connection_class": psycopg.Cursor}, "connection_class"),
        ({"connection_class": list[int]}, "connection_class"),
        ({"row_factory": "dict_row"}, "row_factory"),
        ({"row_factory": dict_row, "kwargs": {"row_factory": tuple_row}}, "kwargs has another"),
        (
            {"row_factory": dict_row, "reader": PoolOptions(kwargs={"row_factory": tuple_row})},
            "reader.kwargs has another",
        ),
        ({"writer": 5}, "writer"),
        ({"writer": PoolOptions(read_only=True)}, "writer.read_only"),
        ({"reader": None, "probe": 1.0}, "probe"),
        ({"configure": "SET"}, "configure"),
        ({"reset": "RESET"}, "reset"),
        ({"reset": Undecided()}, "reset"),
        ({"host_options": [1]}, "host_options"),
        ({"host_options": {"a": 1}}, "host_options"),
        ({"host_options": {"elsewhere": HostOptions()}}, "elsewhere"),
        ({"kwargs": "password=" + SECRET}, "kwargs"),
        ({"kwargs": {"password": SECRET, "colour": "blue"}}, "colour"),
        ({"kwargs": {"password": b"x" + SECRET.encode()}}, "password"),
        ({"kwargs": {"password": SECRET + "\0"}}, "password"),
        ({"kwargs": {"host": "b"}}, "host"),
        ({"kwargs": {"port": 1}}, "port"),
        ({"kwargs": {"target_session_attrs": "any"}}, "target_session_attrs"),
        ({"kwargs": {"load_balance_hosts": "random"}}, "load_balance_hosts"),
        ({"writer": PoolOptions(kwargs={"hostaddr": "127.0.0.1"})}, "hostaddr"),
        ({"reader": PoolOptions(kwargs={"colour": "blue"})}, "colour"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Router(**{"dsn": f"{USER}a/shop", **arguments})
    assert names in str(caught.value)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize(
    ("options", "arguments", "names"),
    [
        (PoolOptions, {"min_size": -1}, "min_size"),
        (PoolOptions, {"max_size": 0}, "max_size"),
        (PoolOptions, {"min_size": 5, "max_size": 4}, "max_size"),
        (PoolOptions, {"max_size": 2.5}, "max_size"),
        (PoolOptions, {"max_size": True}, "max_size"),
        (PoolOptions, {"max_idle": 0}, "max_idle"),
        (PoolOptions, {"max_lifetime": "1h"}, "max_lifetime"),
        (PoolOptions, {"max_waiting": -1}, "max_waiting"),
        (PoolOptions, {"read_only": 1}, "read_only"),
        (PoolOptions, {"kwargs": [("password", SECRET)]}, "kwargs"),
        (PoolOptions, {"settings": {"work mem": 1}}, "settings"),
        (PoolOptions, {"configure": 1}, "configure"),
        (ProbeOptions, {"interval": 0}, "interval"),
        (ProbeOptions, {"timeout": float("inf")}, "timeout"),
        (ProbeOptions, {"abort_after": -1}, "abort_after"),
        (ProbeOptions, {"abort_stale": "yes"}, "abort_stale"),
        (ProbeOptions, {"system_id": "7"}, "system_id"),
        (HostOptions, {"weight": -1}, "weight"),
        (HostOptions, {"weight": None}, "weight"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(
    options: type[Any], arguments: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        options(**arguments)
    assert caught.value.parameter == names
    assert SECRET not in everything(caught.value)


def test_a_timeout_that_cannot_be_used_is_refused() -> None:
    with Router("host=127.0.0.1 port=1") as router:
        for timeout in (-1, "5", True, float("nan")):
            with pytest.raises(ConfigError, match="timeout"):
                with router.writer(timeout):  # type: ignore[arg-type]
                    pass
        for wait in (Decimal("sNaN"), "0.1", -1, Undecided()):
            with pytest.raises(ConfigError, match="invalid wait"):
                router.reader(wait=wait)  # type: ignore[arg-type]
        assert router.reader(wait=float("0.1")) is not None
        with pytest.raises(ConfigError, match="invalid format"):
            router.copy_rows("t", format=Undecided())  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="target_session_attrs 'Primary'"):
            router.connection("Primary")


@pytest.mark.parametrize("value", ["Primary", "prefer-primary", "", 1, None])
def test_the_refusal_of_an_attribute_lists_the_six(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Router("host=a", reader_attrs=value)
    for attribute in ("any", "read-write", "primary", "read-only", "standby", "prefer-standby"):
        assert repr(attribute) in str(caught.value)


# Logins that are refused.


def test_a_position_of_another_cluster_is_refused_before_any_session(shared: LocalCluster) -> None:
    foreign = Position(1, 1, 1)
    with Router(shared.dsn) as router:
        router.wait()
        for after in (foreign, str(foreign)):
            with pytest.raises(
                ConfigError, match=r"^invalid after '1-1-1': expected a position of this cluster"
            ):
                router.causal(after=after)


def everything(error: BaseException) -> str:
    """Return all that an exception and those it came from could show."""
    found, todo, seen = [], [error], set()
    while todo:
        exc = todo.pop()
        if id(exc) in seen:
            continue
        seen.add(id(exc))
        found += [str(exc), repr(exc), repr(exc.args), repr(vars(exc)), repr(getattr(exc, "pgconn", None))]
        found += [repr(getattr(exc, "topology", None)), str(getattr(exc, "topology", None))]
        found += getattr(exc, "__notes__", [])
        todo += [other for other in (exc.__cause__, exc.__context__) if other is not None]
    return "\n".join([*found, *traceback.format_exception(error)])


@pytest.fixture
def guarded(any_cluster: LocalCluster) -> LocalCluster:
    """A cluster where the role `shop` needs its password and connections are logged."""
    primary = any_cluster.primary
    primary.execute("CREATE ROLE shop LOGIN PASSWORD 'the right one'")
    any_cluster.catch_up()
    for node in any_cluster.nodes:
        hba = node.data_dir / "pg_hba.conf"
        hba.write_text("host all shop all scram-sha-256\n" + hba.read_text())
        node.execute("ALTER SYSTEM SET log_connections = on")
        node.execute("SELECT pg_reload_conf()")
    return any_cluster


def attempts(node: Node) -> int:
    """Return the number of logins as `shop` that a server refused."""
    log = node.log()
    return log.count('FATAL:  password authentication failed for user "shop"') + log.count(
        'FATAL:  database "elsewhere" does not exist'
    )


def dsn_of(cluster: LocalCluster, password: str, database: str = "postgres") -> str:
    hosts = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
    return f"postgresql://shop:{password}@{hosts}/{database}"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("password", "database", "reason"),
    [
        (SECRET, "postgres", 'password authentication failed for user "shop"'),
        ("the%20right%20one", "elsewhere", 'database "elsewhere" does not exist'),
    ],
    ids=["password", "database"],
)
def test_a_refused_login_is_told_for_each_host_in_time_and_rarely_tried(
    guarded: LocalCluster,
    caplog: pytest.LogCaptureFixture,
    password: str,
    database: str,
    reason: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    shown: list[str] = []

    def refused(role: str) -> NoHostAvailable:
        asked_at = time.monotonic()
        with pytest.raises(NoHostAvailable) as caught:
            router.getconn(role, timeout=1.0)  # type: ignore[arg-type]
        assert time.monotonic() - asked_at < within(1.1)
        return caught.value

    router = Router(dsn_of(guarded, password, database))
    router.subscribe(events.append)
    opened_at = time.monotonic()
    with router:
        # The callers have a second, which a login may take on a busy machine.
        eventually(
            lambda: all(host.state is HostState.REJECTED for host in router.topology.hosts)
        )
        with Background() as background:
            callers = [background.start(refused, role) for role in ("writer", "reader") * 5]
            errors = [caller.result() for caller in callers]
        for error in errors:
            for node in guarded.nodes:
                [line] = [line for line in str(error).splitlines() if f":{node.port}:" in line]
                assert reason in line
                assert "rejected" in line
        counted = [call(attempts, node) for node in guarded.nodes]
        assert time.monotonic() - opened_at < within(4.5)
        assert counted == [1, 1, 1], "at most one attempt in 5 s at each host, probe and pools together"
        shown += [repr(router), str(router.topology), repr(router.topology)]
        shown += [
            repr(router.stats()),
            repr(router.get_stats()),
            repr(router._manager.config),
            repr(vars(router)),
            repr(vars(router._manager)),
            repr(vars(router._manager.lifecycle.reconciler)),
        ]
    shown += [everything(error) for error in errors]
    shown += [str(event) + repr(event) for event in events]
    shown += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    assert events
    assert caplog.records
    assert SECRET not in "\n".join(shown)
    assert "the right one" not in "\n".join(shown)


@pytest.mark.cluster
def test_a_password_refused_to_a_pool_only_is_rarely_tried_and_not_shown(
    guarded: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = PoolOptions(kwargs={"password": SECRET})

    def refused() -> NoHostAvailable:
        with pytest.raises(NoHostAvailable) as caught:
            router.getconn("writer", timeout=1.5)
        return caught.value

    router = Router(dsn_of(guarded, "the%20right%20one"), writer=options)
    with router:
        with Background() as background:
            callers = [background.start(refused) for _ in range(10)]
            errors = [caller.result() for caller in callers]
        counted = call(attempts, guarded.primary)
        shown = [everything(error) for error in errors]
        shown += [repr(router), repr(router._manager.config), repr(router.topology)]
    shown += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    assert all("password authentication failed" in everything(error) for error in errors)
    assert counted == 1
    assert SECRET not in "\n".join(shown)


@pytest.mark.cluster
def test_the_right_password_serves_and_is_shown_nowhere(
    guarded: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = dsn_of(guarded, "the%20right%20one")
    with Router(dsn, writer=PoolOptions(max_size=1)) as router:
        with router.writer() as conn:
            cursor = conn.execute("SELECT current_user")
            assert cursor.fetchone() == ("shop",)
            with pytest.raises(psycopg.OperationalError) as full:
                router.getconn("writer", timeout=0.05)
        eventually(lambda: all(host.state is HostState.UP for host in router.topology.hosts))
        shown = [repr(router), str(router.topology), repr(router.stats()), everything(full.value)]
    shown += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    assert "the right one" not in "\n".join(shown)
    assert "the%20right%20one" not in "\n".join(shown)
