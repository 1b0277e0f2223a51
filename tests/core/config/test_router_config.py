"""From a router's arguments to what each pool and each probe connects with."""

from __future__ import annotations

from typing import Any

import dns.resolver
import pytest
from psycopg.rows import dict_row

from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.router_config import RouterConfig, check_router_name, make_config
from pgroute.core.model.roles import HostKey, Role, SessionAttrs
from pgroute.core.model.stats import MEASURES, total
from pgroute.core.topology.observations import Listing
from pgroute.errors import ConfigError
from tests.core.incomparable import INCOMPARABLE

DSN = "postgresql://app:secret@a:1,b:2/shop"
A, B = HostKey("a", 1), HostKey("b", 2)


def plan(dsn: str = DSN, **given: Any) -> RouterConfig:
    arguments: dict[str, Any] = {
        "writer": PoolOptions(),
        "reader": PoolOptions(),
        "balance": None,
        "reader_attrs": "prefer-standby",
        "host_options": None,
        "probe": ProbeOptions(),
        "resolver": "system",
        "addresses": "one-host",
        "retry": None,
        "acquire_timeout": 30.0,
        "schema": "pgroute",
        "schema_owner": None,
        "kwargs": None,
        "configure": None,
        "reset": None,
    }
    return make_config(dsn, **{**arguments, **given})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"writer": {}}, "writer"),
        ({"reader": 3}, "reader"),
        ({"writer": PoolOptions(read_only=True)}, "writer.read_only"),
        ({"probe": {}}, "probe"),
        ({"retry": 3}, "retry"),
        ({"acquire_timeout": 0}, "acquire_timeout"),
        ({"kwargs": []}, "kwargs"),
        ({"kwargs": {"autocommit": "false"}}, "autocommit"),
        ({"writer": PoolOptions(kwargs={"prepare_threshold": "5"})}, "prepare_threshold"),
        ({"reader": PoolOptions(kwargs={"cursor_factory": 5})}, "cursor_factory"),
        ({"row_factory": dict_row, "kwargs": {"row_factory": INCOMPARABLE}}, "kwargs has another"),
        ({"configure": 1}, "configure"),
        ({"reset": "x"}, "reset"),
        ({"balance": "nearest"}, "balance"),
        ({"reader_attrs": "replica"}, "reader_attrs"),
        ({"host_options": []}, "host_options"),
        ({"host_options": {"a": 1}}, "host_options"),
        ({"host_options": {"c": HostOptions()}}, "host_options"),
        ({"host_options": {10**5000: 5}}, "host_options"),
        ({"resolver": "hosts"}, "resolver"),
        ({"resolver": 53}, "resolver"),
        ({"addresses": "any"}, "addresses"),
        ({"schema": ""}, "schema"),
        ({"schema": None}, "schema"),
        ({"schema": b"shop"}, "schema"),
        ({"schema": "x" * 64}, "schema"),
        ({"schema": "ü" * 32}, "schema"),
        ({"schema": "a\0b"}, "schema"),
        ({"schema": "\ud800"}, "schema"),
        ({"schema": "pg_temp"}, "schema"),
        ({"schema": "pg_catalog"}, "schema"),
        ({"schema": "information_schema"}, "schema"),
        ({"schema_owner": ""}, "schema_owner"),
        ({"schema_owner": 7}, "schema_owner"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(**given)


@pytest.mark.parametrize(
    "named",
    [
        "writer",
        "probe",
        "retry",
        "acquire_timeout",
        "max_lag",
        "kwargs",
        "row_factory",
        "configure",
        "credentials",
        "balance",
        "reader_attrs",
        "host_options",
        "resolver",
        "addresses",
        "srv_domains",
        "zone",
        "discovery",
        "schema",
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(named: str) -> None:
    with pytest.raises(ConfigError, match=f"invalid {named} "):
        plan(**{named: INCOMPARABLE})


def test_what_is_in_a_list_and_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="invalid srv_domains "):
        plan(srv_domains=[INCOMPARABLE])
    with pytest.raises(ConfigError, match="invalid host_options"):
        plan(host_options={"a": INCOMPARABLE})


@pytest.mark.parametrize(
    "name",
    [
        "postgresql://app:hunter2@db1",
        "app:hunter2@db1/shop",
        "a\0b",
        "\udc80",
        "ü" * 257,
        None,
        5,
        ["a"],
        b"a",
        10**5000,
        INCOMPARABLE,
    ],
    ids=[*"abcdefghijk"],
)
def test_a_name_that_metrics_could_not_show_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="invalid name ") as caught:
        check_router_name(name)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "shop",
        "eu-1:a",
        "db1:5432,db2:5432",
        "ü" * 256,
        "a b",
        "svc:orders@eu-west",
        "reset-password:worker",
    ],
)
def test_any_other_name_is_taken(name: str) -> None:
    check_router_name(name)


class Unsure:
    """A callback that is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def __call__(self, conn: object) -> None: ...


def test_the_callbacks_of_a_role_go_before_those_of_the_router() -> None:
    own = Unsure()
    made = plan(configure=print, reset=print, reader=PoolOptions(configure=own, reset=own))
    assert (made.writer.options.configure, made.writer.options.reset) == (print, print)
    assert made.reader.options.configure is made.reader.options.reset is own


def test_roles_connect_with_the_parameters_of_the_dsn_and_a_timeout_of_their_own() -> None:
    made = plan()
    assert made.writer.role is Role.WRITER
    assert made.writer.params(B)["password"] == "secret"
    assert made.writer.params(B)["connect_timeout"] == "5"
    assert made.default_attrs is SessionAttrs.ANY
    assert "secret" not in repr(made)


def test_a_connect_timeout_of_the_dsn_is_kept_in_pools() -> None:
    assert plan(DSN + "?connect_timeout=9").reader.params(A)["connect_timeout"] == "9"


@pytest.mark.parametrize(
    ("reader", "settings", "read_only"),
    [
        (PoolOptions(), "-c default_transaction_read_only=on", True),
        (PoolOptions(read_only=False), "", False),
        (
            PoolOptions(settings={"jit": False, "search_path": "a b"}),
            "-c jit=off -c search_path=a\\ b -c default_transaction_read_only=on",
            True,
        ),
    ],
)
def test_readers_are_read_only_on_the_server_too(reader: PoolOptions, settings: str, read_only: bool) -> None:
    made = plan(reader=reader)
    assert (made.reader.settings, made.reader.read_only) == (settings, read_only)
    assert not made.writer.read_only


@pytest.mark.parametrize(
    ("writer", "as_probe"),
    [
        (PoolOptions(), True),
        (PoolOptions(kwargs={"application_name": "x"}), True),
        (PoolOptions(kwargs={"user": "other"}), False),
        (PoolOptions(settings={"jit": False}), False),
        (PoolOptions(configure=print), False),
    ],
)
def test_a_refusal_tells_of_the_host_only_where_the_role_logs_in_as_the_probes_do(
    writer: PoolOptions, as_probe: bool
) -> None:
    assert plan(writer=writer).writer.as_probe is as_probe


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "pgroute-monitor"),
        ("?application_name=shop", "shop pgroute-monitor"),
        ("?fallback_application_name=shop", "shop pgroute-monitor"),
        (f"?application_name={'x' * 63}", "x" * 47 + " pgroute-monitor"),
    ],
)
def test_probes_are_named_after_the_application(query: str, name: str) -> None:
    assert plan(DSN + query).probe_params(A)["application_name"] == name


WATCH = ProbeOptions(kwargs={"user": "watch", "password": "hunter2", "application_name": "eye"})


def test_the_watch_may_log_in_as_another_user() -> None:
    made = plan(probe=WATCH, kwargs={"application_name": "shop", "sslmode": "disable"})
    params = made.probe_params(B)
    assert (params["user"], params["password"], params["dbname"]) == ("watch", "hunter2", "shop")
    assert params["application_name"] == "eye pgroute-monitor"
    assert params["sslmode"] == "disable"
    assert params["connect_timeout"] == "60"
    for role in (made.writer, made.reader):
        assert (role.params(B)["user"], role.params(B)["application_name"]) == ("app", "shop")
    assert "hunter2" not in repr(made)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"host": "c"}, "invalid host 'c': expected in the DSN, not among the keyword arguments"),
        ({"hostaddr": "10.0.0.1"}, "invalid hostaddr '10.0.0.1': expected in the DSN"),
        ({"port": 5}, "invalid port 5: expected in the DSN"),
        ({"target_session_attrs": "any"}, "invalid target_session_attrs 'any': expected in the DSN"),
        ({"load_balance_hosts": "random"}, "invalid load_balance_hosts 'random': expected in the DSN"),
        ({"usr": "x"}, "invalid keyword argument 'usr': expected"),
        (
            {"autocommit": True},
            "invalid keyword argument of the probe 'autocommit': expected a libpq parameter",
        ),
        ({"connect_timeout": 3}, "invalid connect_timeout '3': use ProbeOptions(timeout=) instead"),
        ({"sslmode": "never"}, "invalid sslmode 'never': expected 'disable'"),
        ({"password": b"hunter2"}, "invalid password '***': expected a str"),
        ({"user": "a\0"}, "invalid user 'a\\x00': expected no NUL character"),
    ],
)
def test_parameters_of_the_watch_are_checked_as_those_of_pools_are(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(probe=ProbeOptions(kwargs=kwargs))
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("given", "same_login", "as_probe"),
    [
        ({}, True, True),
        ({"probe": WATCH}, True, False),
        ({"probe": ProbeOptions(kwargs={"application_name": "eye"})}, True, True),
        (
            {"probe": WATCH, "reader": PoolOptions(kwargs={"user": "watch", "password": "hunter2"})},
            False,
            True,
        ),
        ({"reader": PoolOptions(kwargs={"user": "other"})}, False, False),
        ({"reader": PoolOptions(settings={"jit": False})}, False, False),
        ({"configure": print}, False, False),
    ],
)
def test_whose_refused_logins_tell_of_whom(given: dict[str, Any], same_login: bool, as_probe: bool) -> None:
    made = plan(**given)
    assert (made.same_login, made.reader.as_probe) == (same_login, as_probe)


@pytest.mark.parametrize("name", ["a", "a:1"])
def test_weights_are_given_by_host_or_host_and_port(name: str) -> None:
    rules = plan(host_options={name: HostOptions(weight=0)}).rules
    assert [rules.weight(key, Listing()) for key in (A, B)] == [0, 1.0]


def test_any_name_may_have_a_weight_where_the_hosts_are_not_known_yet() -> None:
    for dsn, given in ((DSN, {"addresses": "expand"}), ("postgresql://_pg._tcp.a/", {})):
        rules = plan(dsn, host_options={"10.0.0.1": HostOptions(weight=3)}, **given).rules
        assert rules.weight(HostKey("a", 1, "10.0.0.1"), Listing()) == 3


def test_callbacks_of_a_role_win_over_those_of_the_router() -> None:
    made = plan(reader=PoolOptions(reset=repr), configure=print, reset=str)
    assert (made.reader.options.configure, made.reader.options.reset) == (print, repr)
    assert made.writer.options.reset is str


def test_counters_add_up_under_every_key() -> None:
    assert total([{"a": 1, "b": 2}, {"a": 3}]) == {"a": 4, "b": 2}
    assert MEASURES


def test_a_resolver_of_dnspython_is_taken_as_it_is() -> None:
    resolver = dns.resolver.Resolver(configure=False)
    assert plan(resolver=resolver).resolver is resolver
    assert plan(resolver="dns").resolver == "dns"


def test_zone_of_the_router_is_one_of_its_hosts() -> None:
    rules = plan(host_options={"a": HostOptions(zone="east"), "b": HostOptions()}, zone="east").rules
    assert (rules.zone, rules.zone_of(A), rules.zone_of(B)) == ("east", "east", "")
    assert (rules.away("east"), rules.away("west"), rules.away("")) == (False, True, True)


@pytest.mark.parametrize(
    ("zone", "options", "said"),
    [
        ("north", {"a": "east", "b": "west"}, r"invalid zone 'north'.*host_options \('east', 'west'\)"),
        ("north", {"a": ""}, r"invalid zone 'north'.*host_options \(none\)"),
        ("east", None, r"invalid zone 'east'.*host_options \(none\)"),
        (5, {"a": "east"}, "invalid zone 5: expected a str"),
        (None, {"a": "east"}, "invalid zone None: expected a str"),
    ],
)
def test_zone_of_no_host_is_refused(zone: object, options: dict[str, str] | None, said: str) -> None:
    made = None if options is None else {name: HostOptions(zone=z) for name, z in options.items()}
    with pytest.raises(ConfigError, match=said) as caught:
        plan(host_options=made, zone=zone)
    assert caught.value.parameter == "zone"


def test_a_dsn_is_parsed_once_for_the_same_parameters() -> None:
    config = plan(reader=PoolOptions(kwargs={"application_name": "reports"}))
    assert config.watch is config.dsn
    assert config.writer.dsn is config.dsn
    assert (config.dsn.params.get("application_name"), config.reader.dsn.params["application_name"]) == (
        None,
        "reports",
    )
