"""A DSN is parsed, merged and checked as libpq would; nobody is contacted, no secret told."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import re
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from pgroute.core.config import libpq
from pgroute.core.config.dsn import PSYCOPG_ARGUMENTS, Params, parse_dsn, split_kwargs
from pgroute.core.config.srv import is_address
from pgroute.core.model.roles import HostKey, SessionAttrs
from pgroute.errors import ConfigError

SECRET = "s3cr3tPW"
CASES = json.loads((Path(__file__).parent / "data" / "libpq_uri_cases.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def no_ambient_environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patch.delenv(name)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("PGSYSCONFDIR", str(home))
        yield


@pytest.fixture
def service_file(monkeypatch, tmp_path):
    path = tmp_path / "pg_service.conf"
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    return path


@pytest.fixture(scope="module")
def socket_dir():
    conn = pq.PGconn.connect_start(b"host='' port=',,' user=x")
    try:
        return conn.host.decode()
    finally:
        conn.finish()


def knows(keyword):
    return pytest.mark.skipif(keyword not in libpq.keywords(), reason=f"this libpq has no {keyword}")


def refused(dsn, **kwargs):
    with pytest.raises(ConfigError) as info:
        parse_dsn(dsn, **kwargs)
    return info.value


def keys(dsn):
    return [tuple(key) for key in parse_dsn(dsn).hosts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["uri"])
def test_libpq_regression_uris(case, socket_dir):
    if " " in case["uri"] and pq.version() < 180000:
        pytest.skip("this libpq takes spaces in a URI as they are")
    if case["error"]:
        assert refused(case["uri"]).parameter in ("dsn", "keyword")
        return
    expected = dict(case["expect"])
    host, port, hostaddr = (expected.pop(name, "") for name in ("host", "port", "hostaddr"))
    host = host or ("" if hostaddr else socket_dir)
    if ":" in host and not is_address(host):
        assert refused(case["uri"]).value == host  # libpq would ask the resolver
        return
    dsn = parse_dsn(case["uri"])
    assert dsn.hosts == (HostKey(host, int(port or 5432), hostaddr or None),)
    if "sslmode=" in case["uri"]:
        expected["sslmode"] = case["uri"].rpartition("=")[2]  # libpq's own test leaves it out
    assert dsn.params == expected
    assert dsn.hosts[0].is_socket == (case["kind"] == "local")


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("host=h1,h2,h3", [("h1", 5432), ("h2", 5432), ("h3", 5432)]),
        ("host=h1,h2 port=6000", [("h1", 6000), ("h2", 6000)]),
        ("host=h1,h2 port=6000,6001", [("h1", 6000), ("h2", 6001)]),
        ("host=h1,h2 port=,6001", [("h1", 5432), ("h2", 6001)]),
        ("host=h1,h2 port=''", [("h1", 5432), ("h2", 5432)]),
        ("postgresql://h1,h2:5433/db", [("h1", 5432), ("h2", 5433)]),
        ("postgresql://h1:5433,h2/db", [("h1", 5433), ("h2", 5432)]),
        ("postgresql://h1,h2/db?port=7", [("h1", 7), ("h2", 7)]),
        ("postgresql://[::1]:1,[::2]", [("::1", 1), ("::2", 5432)]),
        ("postgresql://%2Ftmp", [("/tmp", 5432)]),
        ("postgresql://%2Ftmp:6,h2", [("/tmp", 6), ("h2", 5432)]),
        ("host=@abstract,/a@b", [("@abstract", 5432), ("/a@b", 5432)]),
        ("host=h1 port=' 6000\t'", [("h1", 6000)]),
        ("host=h1 port=+06000", [("h1", 6000)]),
        ("host=h1 port=65535", [("h1", 65535)]),
        ("host=h1,h2,h1,h1 port=5432,1,5432,2", [("h1", 5432), ("h2", 1), ("h1", 2)]),
    ],
)
def test_host_and_port_lists(dsn, expected):
    assert keys(dsn) == [(*key, None) for key in expected]


@pytest.mark.parametrize(
    "host",
    [
        "::1",
        "fe80::1%eth0",
        "fe80::1%eth0:1",
        "::ffff:10.0.0.1",
        "my_host",
        "db-1.test.",
        "a%b",
        "a\\b",
        "ü",
        "127.1",
        "/run/a:b",
        "@a:b",
        "_postgresql._tcp.db.test",
    ],
)
def test_names_that_a_resolver_may_know_are_taken(host):
    assert keys(make_conninfo(host=host)) == [(host, 5432, None)]


@pytest.mark.parametrize("host", ["db1:5432", "a/b"])
def test_a_name_that_is_never_looked_up_is_left_to_libpq(host):
    assert keys(f"host={host} hostaddr=10.0.0.1") == [(host, 5432, "10.0.0.1")]


@pytest.mark.parametrize("dsn", ["", "dbname=x", "host=''", "postgresql://", "host='' hostaddr='' port=5432"])
def test_no_host_is_the_default_socket(dsn, socket_dir):
    assert keys(dsn) == [(socket_dir, 5432, None)]


def test_empty_elements_are_the_default_socket(socket_dir):
    assert keys("host=h1,") == [("h1", 5432, None), (socket_dir, 5432, None)]
    assert keys("postgresql://:1,:2/db") == [(socket_dir, 1, None), (socket_dir, 2, None)]


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("hostaddr=10.0.0.1", [("", 5432, "10.0.0.1")]),
        ("hostaddr=10.0.0.1,::1 port=1,2", [("", 1, "10.0.0.1"), ("", 2, "::1")]),
        ("host=h1,h2 hostaddr=10.0.0.1,", [("h1", 5432, "10.0.0.1"), ("h2", 5432, None)]),
        ("host=,h2 hostaddr=10.0.0.1,10.0.0.2", [("", 5432, "10.0.0.1"), ("h2", 5432, "10.0.0.2")]),
        ("host=h1,h1 hostaddr=10.0.0.1,10.0.0.2", [("h1", 5432, "10.0.0.1"), ("h1", 5432, "10.0.0.2")]),
        # One host under two spellings; TLS can verify the one that has a name.
        ("host=10.0.0.1, hostaddr=,10.0.0.1", [("10.0.0.1", 5432, None)]),
        ("host=,10.0.0.1 hostaddr=10.0.0.1,", [("10.0.0.1", 5432, None)]),
        ("host=::1,::1 hostaddr=::1,", [("::1", 5432, "::1")]),
        ("host=h1 hostaddr=fe80::1%eth0", [("h1", 5432, "fe80::1%eth0")]),
        ("host=h1 hostaddr=''", [("h1", 5432, None)]),
    ],
)
def test_hostaddr_lists(dsn, expected):
    assert keys(dsn) == expected


@pytest.mark.parametrize(
    ("dsn", "parameter", "value"),
    [
        ("host=h1,h2,h3 port=1,2", "port", "1,2"),
        ("host=h1 port=1,2", "port", "1,2"),
        ("port=1,2", "port", "1,2"),
        ("host=h1,h2 hostaddr=10.0.0.1", "hostaddr", "10.0.0.1"),
        ("host=h1 hostaddr=10.0.0.1,10.0.0.2", "hostaddr", "10.0.0.1,10.0.0.2"),
        ("host=h1 hostaddr=nowhere", "hostaddr", "nowhere"),
        ("host=h1 hostaddr=10.0.0.256", "hostaddr", "10.0.0.256"),
        ("host=h1 port=0", "port", "0"),
        ("host=h1 port=65536", "port", "65536"),
        ("host=h1,h2 port=1,99999", "port", "99999"),
        ("host=h1 port=-1", "port", "-1"),
        ("host=h1 port=abc", "port", "abc"),
        ("host=h1 port=5432x", "port", "5432x"),
        ("host=h1 port='54 32'", "port", "54 32"),
        ("host=h1 port=' '", "port", " "),
        ("host=h1 port=\u0661", "port", "\u0661"),
        ("host=h1 port=" + "9" * 9999, "port", "9" * 9999),
        ("postgresql://u:pw@h1:abc/db", "port", "abc"),
        ("host=,", "host", ","),
        ("postgresql://,/db", "host", ","),
        ("postgresql://:1,:1,:1/db", "host", ",,"),
        ("hostaddr=,", "host", ","),
        ("host=user@h1", "host", "***"),
        ("host=db1:5432,db2:5432", "host", "db1:5432"),
        ("host=db1,db2:5432", "host", "db2:5432"),
        ("host=[::1]", "host", "[::1]"),
        ("host=fe80::1::2", "host", "fe80::1::2"),
        ("host=http://a", "host", "http://a"),
        ("host=a;b", "host", "a;b"),
        ("host=a/b", "host", "a/b"),
        ("postgresql://a%3A5432/db", "host", "a:5432"),
        ("postgresql://u:pw@a%3A5432/db", "host", "***"),
    ],
)
def test_wrong_lists_are_refused(dsn, parameter, value):
    error = refused(dsn)
    assert (error.parameter, error.value) == (parameter, value)
    assert error.accepted.startswith("expected ")


@pytest.mark.parametrize(
    ("dsn", "parameter", "value"),
    [
        ("host=h target_session_attrs=Primary", "target_session_attrs", "Primary"),
        ("postgresql://h/?target_session_attrs=prefer-primary", "target_session_attrs", "prefer-primary"),
        ("host=h target_session_attrs=''", "target_session_attrs", ""),
        ("host=h sslmode=bogus", "sslmode", "bogus"),
        ("host=h channel_binding=bogus", "channel_binding", "bogus"),
        ("host=h gssencmode=Require", "gssencmode", "Require"),
        ("host=h ssl_min_protocol_version=2", "ssl_min_protocol_version", "2"),
        ("host=h connect_timeout=abc", "connect_timeout", "abc"),
        ("host=h connect_timeout=2.5", "connect_timeout", "2.5"),
        ("host=h connect_timeout=''", "connect_timeout", ""),
        ("host=h keepalives=yes", "keepalives", "yes"),
        ("host=h keepalives_idle=2147483648", "keepalives_idle", "2147483648"),
        ("host=h tcp_user_timeout=1s", "tcp_user_timeout", "1s"),
        ("host=h bogus=1", "keyword", "bogus"),
        ("postgresql://u:pw@h/db?uzer=1", "keyword", "uzer"),
        ("host=h service=missing", "service", "missing"),
        pytest.param(
            "host=h load_balance_hosts=Random",
            "load_balance_hosts",
            "Random",
            marks=knows("load_balance_hosts"),
        ),
        pytest.param("host=h require_auth=md5,!gss", "require_auth", "md5,!gss", marks=knows("require_auth")),
        pytest.param("host=h sslcertmode=x", "sslcertmode", "x", marks=knows("sslcertmode")),
        pytest.param(
            "host=h sslnegotiation=direct", "sslnegotiation", "direct", marks=knows("sslnegotiation")
        ),
        pytest.param(
            "host=h scram_client_key=abcd", "scram_client_key", "***", marks=knows("scram_client_key")
        ),
        pytest.param(
            "host=h min_protocol_version=4", "min_protocol_version", "4", marks=knows("min_protocol_version")
        ),
        pytest.param(
            "host=h max_protocol_version=4", "max_protocol_version", "4", marks=knows("max_protocol_version")
        ),
    ],
)
def test_wrong_values_are_refused(dsn, parameter, value):
    error = refused(dsn)
    assert (error.parameter, error.value) == (parameter, value)
    assert parameter in str(error)
    assert error.accepted.startswith("expected ")


@knows("sslnegotiation")
def test_values_that_do_not_go_together_are_refused():
    error = refused("host=h sslrootcert=system sslmode=require")
    assert (error.parameter, error.accepted) == ("sslmode", "expected a value that goes with sslrootcert")


@knows("max_protocol_version")
@pytest.mark.parametrize("low", ["3.2", "latest"])
def test_a_lowest_protocol_version_above_the_highest_is_refused(low, monkeypatch):
    monkeypatch.setenv("PGMAXPROTOCOLVERSION", "3.0")
    for dsn in (f"host=h min_protocol_version={low} max_protocol_version=3.0", f"min_protocol_version={low}"):
        error = refused(dsn)
        assert (error.parameter, error.value) == ("min_protocol_version", low)
        assert error.accepted == "expected a value that goes with max_protocol_version"


@knows("max_protocol_version")
@pytest.mark.parametrize(("low", "high"), [("3.0", "3.0"), ("3.0", "3.2"), ("3.2", "3.2"), ("3.2", "latest")])
def test_a_range_of_protocol_versions_is_accepted(low, high):
    params = {"min_protocol_version": low, "max_protocol_version": high}
    assert parse_dsn(make_conninfo("host=h", **params)).params == params


def test_a_refusal_without_a_name_lists_the_parameters():
    error = refused("host=h ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2")
    assert error.value == ["ssl_max_protocol_version", "ssl_min_protocol_version"]


@knows("max_protocol_version")
def test_a_good_protocol_version_is_accepted():
    assert parse_dsn("host=h max_protocol_version=latest").params == {"max_protocol_version": "latest"}


def test_an_older_libpq_is_named_for_load_balance_hosts(monkeypatch):
    def refuse(dsn):
        raise psycopg.ProgrammingError('invalid connection option "load_balance_hosts"')

    monkeypatch.setattr(libpq, "conninfo_to_dict", refuse)
    error = refused("load_balance_hosts=random")
    assert (error.parameter, error.value) == ("keyword", "load_balance_hosts")
    assert "libpq 16 or later" in error.accepted


def test_an_older_libpq_has_an_earlier_last_check(monkeypatch):
    older = {k: v for k, v in libpq.keywords().items() if not k.startswith(("max_", "min_", "load_"))}
    monkeypatch.setattr(libpq, "keywords", lambda: older)
    assert refused("host=h gssencmode=bogus").parameter == "gssencmode"
    dsn = parse_dsn("host=h sslmode=require")
    assert "load_balance_hosts" not in dsn.conninfo(dsn.hosts[0])


@pytest.mark.parametrize("dsn", [None, b"host=h", 5, Path("/tmp")])
def test_a_dsn_is_text(dsn):
    assert type(dsn).__name__ in refused(dsn).accepted


@pytest.mark.parametrize("value", list(SessionAttrs), ids=lambda value: value.value)
def test_session_attributes(value):
    assert parse_dsn(f"host=h target_session_attrs={value.value}").session_attrs is value


def test_options_about_several_hosts_have_defaults():
    dsn = parse_dsn("host=h")
    assert (dsn.session_attrs, dsn.load_balance, dict(dsn.params)) == (SessionAttrs.ANY, None, {})


@knows("load_balance_hosts")
def test_load_balance_hosts():
    assert parse_dsn("host=h load_balance_hosts=random").load_balance == "random"


# -- environment, service, keyword arguments


def test_an_empty_dsn_takes_the_environment(monkeypatch):
    for name, value in {
        "PGHOST": "h1,h2",
        "PGPORT": "1,2",
        "PGUSER": "app",
        "PGPASSWORD": SECRET,
        "PGDATABASE": "db",
        "PGSSLMODE": "prefer",
        "PGTARGETSESSIONATTRS": "read-write",
    }.items():
        monkeypatch.setenv(name, value)
    dsn = parse_dsn()
    assert dsn.hosts == (HostKey("h1", 1), HostKey("h2", 2))
    assert dsn.params == {"user": "app", "password": SECRET, "dbname": "db", "sslmode": "prefer"}
    assert dsn.session_attrs is SessionAttrs.READ_WRITE


def test_hostaddr_of_the_environment(monkeypatch):
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.1")
    assert keys("host=h1") == [("h1", 5432, "10.0.0.1")]
    assert refused("host=h1,h2").parameter == "hostaddr"


def test_the_dsn_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("PGHOST", "env")
    monkeypatch.setenv("PGPORT", "bad")
    monkeypatch.setenv("PGUSER", "env")
    monkeypatch.setenv("PGSSLMODE", "bogus")
    dsn = parse_dsn("host=h port=1 user=me sslmode=prefer")
    assert (dsn.hosts, dict(dsn.params)) == ((HostKey("h", 1),), {"user": "me", "sslmode": "prefer"})
    assert refused("host=h port=1").parameter == "sslmode"
    assert refused("host=h").parameter == "port"


def test_what_the_dsn_says_about_several_hosts_wins_over_the_environment(monkeypatch):
    given = {"target_session_attrs": "any", "load_balance_hosts": "disable"}
    known = {name: value for name, value in given.items() if name in libpq.keywords()}
    for name in known:
        monkeypatch.setenv(f"PG{name.replace('_', '').upper()}", "bogus")
    dsn = parse_dsn(f"host=h {' '.join(f'{name}={value}' for name, value in known.items())}")
    assert dsn.session_attrs is SessionAttrs.ANY
    assert dsn.load_balance == known.get("load_balance_hosts")
    assert refused("host=h").parameter in known


def test_a_value_of_the_environment_must_be_utf8(monkeypatch):
    monkeypatch.setitem(os.environb, b"PGHOST", b"\xff")
    assert refused("").parameter == "host"


def test_service_by_name_and_by_environment(service_file, monkeypatch):
    service_file.write_text(
        "[a]\nhost=h1,h2\nport=5433\ndbname=svc\nuser=app\ntarget_session_attrs=standby\n"
    )
    for setting in ("service=a", "postgresql://?service=a"):
        dsn = parse_dsn(setting)
        assert dsn.hosts == (HostKey("h1", 5433), HostKey("h2", 5433))
        assert (dict(dsn.params), dsn.session_attrs) == (
            {"dbname": "svc", "user": "app"},
            SessionAttrs.STANDBY,
        )
    monkeypatch.setenv("PGSERVICE", "a")
    assert parse_dsn() == dsn


def test_precedence_of_every_source(service_file, monkeypatch):
    service_file.write_text("[a]\nhost=svc\ndbname=svc\nuser=svc\napplication_name=svc\noptions=svc\n")
    for name in ("PGHOST", "PGDATABASE", "PGUSER", "PGAPPNAME", "PGOPTIONS", "PGPASSFILE"):
        monkeypatch.setenv(name, "env")
    monkeypatch.setenv("PGPASSFILE", "/env")
    dsn = parse_dsn("service=a dbname=dsn user=dsn host=dsn", kwargs={"user": "kw", "connect_timeout": 3})
    assert dsn.hosts == (HostKey("dsn", 5432),)
    assert dsn.params == {
        "user": "kw",
        "dbname": "dsn",
        "application_name": "svc",
        "options": "svc",
        "passfile": "/env",
        "connect_timeout": "3",
    }


def test_a_service_wins_over_the_environment_even_with_a_default_value(service_file, monkeypatch):
    service_file.write_text("[a]\nsslmode=prefer\n")
    monkeypatch.setenv("PGSSLMODE", "require")
    assert parse_dsn("service=a").params["sslmode"] == "prefer"


def test_the_service_is_kept_only_against_another_in_the_environment(service_file, monkeypatch):
    service_file.write_text("[a]\nhost=h\nmax_protocol_version=3.0\n[b]\nhost=b\n")
    if "max_protocol_version" not in libpq.keywords():
        service_file.write_text("[a]\nhost=h\n")
    assert "service" not in parse_dsn("service=a").params
    monkeypatch.setenv("PGSERVICE", "unknown")
    dsn = parse_dsn("service=a")
    assert dsn.params["service"] == "a"
    assert dsn.hosts == (HostKey("h", 5432),)
    assert refused("host=h").value == "unknown"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "service file"),
        ("[b]\n", 'definition of service "a" not found'),
        (f"[a]\nhost h {SECRET}\n", "syntax error"),
        (f"[a]\nbogus={SECRET}\n", "syntax error"),
        ("[a]\nservice=b\n", "nested service"),
        ("[a]\nhost=" + "x" * 2000, "too long"),
    ],
)
def test_a_broken_service(service_file, text, reason):
    if text is not None:
        service_file.write_text(text)
    error = refused("service=a")
    assert (error.parameter, error.value) == ("service", "a")
    assert reason in error.accepted
    assert_untold(error)


def test_text_about_a_service_that_is_not_known_stays_untold(monkeypatch):
    monkeypatch.setattr(libpq, "_SERVICE", re.compile("never"))
    assert refused("service=a").accepted.endswith("(libpq cannot read its definition)")


def test_the_password_file_is_left_to_libpq(monkeypatch, tmp_path, capfd):
    passfile = tmp_path / "pass"
    passfile.write_text(f"*:*:*:*:{SECRET}\n")
    passfile.chmod(0o644)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    dsn = parse_dsn("host=h1,h2 user=u")
    assert dsn.params == {"user": "u", "passfile": str(passfile)}
    assert capfd.readouterr() == ("", "")  # libpq warns of a readable password file when it looks


def test_kwargs_are_split():
    parameters, arguments = split_kwargs(
        {"autocommit": True, "row_factory": None, "user": "u", "connect_timeout": 3, "sslcert": Path("/c")}
        | {"password": None}
    )
    assert parameters == {"user": "u", "connect_timeout": "3", "sslcert": "/c"}
    assert arguments == {"autocommit": True, "row_factory": None}


@pytest.mark.parametrize("connect", [psycopg.Connection.connect, psycopg.AsyncConnection.connect])
def test_the_arguments_of_psycopg_are_the_known_ones(connect):
    kinds = inspect.signature(connect).parameters.values()
    assert {p.name for p in kinds if p.kind is p.KEYWORD_ONLY} == set(PSYCOPG_ARGUMENTS)


NO_FACTORIES: list[Any] = ["dict_row", 5, "", []]
NO_ARGUMENTS: dict[str, list[Any]] = {
    "autocommit": ["false", "", 0, 1, []],
    "prepare_threshold": ["5", "", -1, True, 1.5, float("nan")],
    "context": [5, "", []],
    "row_factory": NO_FACTORIES,
    "cursor_factory": NO_FACTORIES,
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in NO_ARGUMENTS for value in NO_ARGUMENTS[name]]
)
def test_arguments_that_psycopg_would_take_or_fail_with_later_are_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        split_kwargs({name: value})
    assert (caught.value.parameter, caught.value.value) == (name, value)
    assert caught.value.accepted.startswith("expected ")
    assert caught.value.accepted.endswith("None")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in PSYCOPG_ARGUMENTS),
        *(("autocommit", value) for value in (True, False)),
        *(("prepare_threshold", value) for value in (0, 5, 2**70)),
        ("row_factory", dict_row),
        ("cursor_factory", psycopg.ClientCursor),
        ("context", psycopg),
        ("context", psycopg.adapt.Transformer()),
    ],
)
def test_arguments_that_psycopg_takes_are_taken(name, value):
    assert split_kwargs({name: value}) == ({}, {name: value})


@pytest.mark.parametrize(
    "name", ["host", "hostaddr", "port", "service", "target_session_attrs", "load_balance_hosts"]
)
def test_kwargs_hold_nothing_about_several_hosts(name):
    error = refused("host=h", kwargs={name: "x"})
    assert (error.parameter, error.value) == (name, "x")
    assert "DSN" in error.accepted


@pytest.mark.parametrize("name", ["bogus", "conninfo", "", 7])
def test_unknown_kwargs_are_refused(name):
    error = refused("host=h", kwargs={name: SECRET})
    assert error.value == name
    assert "row_factory" in error.accepted
    assert "libpq" in error.accepted
    assert_untold(error)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", b"bytes", ["list"]])
@pytest.mark.parametrize("name", ["password", "user"])
def test_kwargs_that_are_no_text_are_refused(name, value):
    error = refused("host=h", kwargs={name: value})
    assert error.parameter == name
    assert error.value == ("***" if name == "password" else value)


def test_a_number_in_kwargs_that_cannot_be_shown_is_refused():
    error = refused("host=h", kwargs={"connect_timeout": 10**5000})
    assert error.parameter == "connect_timeout"


# -- what a connection gets


def test_conninfo_is_for_one_host():
    dsn = parse_dsn("postgresql://u:pw@h1,h2:5433/db?target_session_attrs=primary&connect_timeout=3")
    expected = {
        "host": "h2",
        "hostaddr": "",
        "port": "5433",
        "user": "u",
        "password": "pw",
        "dbname": "db",
        "connect_timeout": "3",
        "target_session_attrs": "any",
    }
    if "load_balance_hosts" in libpq.keywords():
        expected["load_balance_hosts"] = "disable"
    assert dsn.conninfo(dsn.hosts[1]) == expected
    assert conninfo_to_dict(make_conninfo("", **expected)) == expected


@pytest.mark.parametrize(
    ("host", "hostaddr", "seen"),
    [("db.test.", "", "db.test"), ("db.test.", "10.0.0.1", "db.test"), ("/run/pg.", "", "/run/pg.")],
)
def test_the_dot_of_an_absolute_name_is_not_for_libpq(host, hostaddr, seen):
    dsn = parse_dsn(f"host={host} hostaddr={hostaddr}" if hostaddr else f"host={host}")
    assert dsn.hosts[0].host == host
    assert dsn.conninfo(dsn.hosts[0])["host"] == seen


def test_conninfo_overrides_win():
    dsn = parse_dsn("host=h1 hostaddr=10.0.0.1 user=u")
    key = dsn.hosts[0]
    assert dsn.conninfo(key)["hostaddr"] == "10.0.0.1"
    changed = dsn.conninfo(key, hostaddr="10.0.0.9", user=None, connect_timeout=1, port=7)
    assert [changed[name] for name in ("hostaddr", "user", "connect_timeout", "port")] == [
        "10.0.0.9",
        "u",
        "1",
        "7",
    ]


def test_the_environment_does_not_creep_back_in(monkeypatch, service_file):
    service_file.write_text("[a]\nhost=s1,s2\nhostaddr=10.0.0.1,10.0.0.2\nport=1,2\n")
    monkeypatch.setenv("PGSERVICE", "a")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    monkeypatch.setenv("PGLOADBALANCEHOSTS", "random")
    dsn = parse_dsn("host=h1,h2 hostaddr='' port=5432")
    merged = libpq.expand(dsn.conninfo(dsn.hosts[0]))
    assert (merged.hosts, merged.hostaddrs, merged.params["port"]) == ("h1", "", "5432")
    assert merged.params["target_session_attrs"] == "any"
    assert merged.params.get("load_balance_hosts", "disable") == "disable"


# -- secrets


def assert_untold(error):
    # The source lines of a traceback may quote a test's own data: the chain alone is looked at.
    chain = traceback.TracebackException.from_exception(error).format_exception_only()
    texts = [*chain, *error.args, str(error), repr(error), repr(vars(error))]
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not [text for text in texts if SECRET in str(text)]


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=h password=a {SECRET}",
        f"host=h password='a b' {SECRET} user=u",
        f"host=h password=a {SECRET}=b",
        f"host=h password='{SECRET}",
        f"host=h sslpassword=a {SECRET}=b",
        f"{SECRET}://u@h",
        f"postgresql://u:{SECRET}%zz@h/db",
        f"postgresql://u:{SECRET}%00@h/db",
        f"postgresql://u:{SECRET}%ff@h/db",
        f"postgresql://u:{SECRET}@[::1/db",
        f"postgresql://u:{SECRET}@[]/db",
        f"postgresql://u:{SECRET}@[::1]x/db",
        f"postgresql://u:{SECRET}/pw@h/db",
        f"postgresql://u:{SECRET}/?{SECRET}=pw@h/db",
        f"postgresql://u:a/?{SECRET}=pw@h/db",
        f"postgresql://u:a@{SECRET}@h/db",
        f"postgresql://u:a@{SECRET}:1@h/db",
        f"postgresql://u:{SECRET}@h:0/db",
        f"postgresql://u:{SECRET}@h/db?a%62c=1",
        f"postgresql://u:{SECRET}@h/db?password",
        f"postgresql://u@h/db?password={SECRET}={SECRET}",
        f"postgresql://u@h/db?password=a&{SECRET}=b",
        f"postgresql://u@h/db?password={SECRET} x&host",
        f"postgresql://u:{SECRET}@h/db?sslmode=bogus",
        f"postgresql://u:{SECRET}@h/db?bogus=1",
        f"postgresql://u:{SECRET}@h/db?service=missing",
        f"postgresql://u:{SECRET}@h1,h2/db?target_session_attrs=Primary",
        f"postgresql://u:{SECRET}@h1,h2/db?port=1,2,3",
        f"postgresql://u:{SECRET}@h\0/db",
        f"postgresql://u:{SECRET}\ud800@h/db",
        f"host=h password={SECRET} hostaddr=x",
        f"host=h password={SECRET} connect_timeout=x",
    ],
)
def test_no_refusal_tells_a_secret(dsn):
    assert_untold(refused(dsn))


@pytest.mark.parametrize("dsn", [SECRET.encode(), [SECRET]])
def test_no_refusal_of_a_type_tells_a_secret(dsn):
    assert_untold(refused(dsn))


def test_a_parsed_dsn_shows_no_secret():
    text = (
        f"postgresql://u:{SECRET}@h1,h2:1/db?sslpassword={SECRET}&target_session_attrs=primary&hostaddr=::1,"
    )
    dsn = parse_dsn(text)
    assert dsn.params["password"] == dsn.params["sslpassword"] == SECRET
    for shown in (str(dsn), repr(dsn), dsn.safe(), f"{dsn}", repr(dsn.params), str(dsn.params)):
        assert SECRET not in shown
        assert "***" in shown
    expected = "host=h1,h2 hostaddr=::1, port=5432,1 user=u password=*** dbname=db sslpassword=***"
    assert dsn.safe() == expected + " target_session_attrs=primary"
    assert repr(dsn) == f"<Dsn {dsn.safe()}>"


@knows("load_balance_hosts")
def test_load_balancing_is_shown():
    assert (
        parse_dsn("host=h load_balance_hosts=random").safe() == "host=h port=5432 load_balance_hosts=random"
    )


@knows("oauth_client_secret")
def test_every_secret_parameter_is_hidden():
    names = ["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"]
    assert Params(dict.fromkeys(names, SECRET)).safe() == dict.fromkeys(names, "***")


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:5432/{SECRET}@h/db",
        f"postgresql://u:5432{SECRET}/1@h/db",
        f"postgresql://u:S3cre@@{SECRET}@h/shop",
        f"postgresql://u:a@{SECRET}@h1,h2:5433/shop",
        f"postgresql://u:a@{SECRET}/b@h/shop",
        f"postgresql://u:p@h1,u:{SECRET}@h2/shop",
    ],
)
def test_a_uri_whose_password_runs_into_what_is_shown_says_what_to_write(dsn):
    error = refused(dsn)
    assert_untold(error)
    assert error.parameter == "dsn"
    assert "%40" in error.accepted
    assert "%2F" in error.accepted


@pytest.mark.parametrize("part", [":", "?", "#", "[", "]", "=", "&", "a b", "'", "%2F", "%40", "%3A", "%25"])
def test_what_libpq_takes_within_a_password_is_taken(part):
    if " " in part and pq.version() >= 180000:
        part = part.replace(" ", "%20")
    dsn = parse_dsn(f"postgresql://u:{SECRET}{part}{SECRET}@h/db")
    assert keys(f"postgresql://u:{SECRET}{part}{SECRET}@h/db") == [("h", 5432, None)]
    assert dsn.params["password"].count(SECRET) == 2
    assert SECRET not in repr(dsn)


@pytest.mark.parametrize(
    ("keyword", "dsn"),
    [
        ("host", f"host='h password={SECRET}'"),
        ("host", f"host='/tmp password={SECRET}'"),
        ("host", f"host='h {SECRET}'"),
        ("host", f"host='h={SECRET}'"),
        ("dbname", f"host=h dbname='shop password={SECRET}'"),
        ("application_name", f"host=h application_name='x password = {SECRET}'"),
        ("hostaddr", f"host=h hostaddr='::1 sslpassword={SECRET}'"),
        ("port", f"host=h port='5432 password={SECRET}'"),
    ],
)
def test_a_quote_that_takes_a_password_in_is_refused(keyword, dsn):
    error = refused(dsn)
    assert_untold(error)
    assert error.parameter == keyword
    assert "quote" in error.accepted


def test_options_that_hold_a_secret_are_not_shown():
    dsn = parse_dsn(f"host=h options='-c app.api_key={SECRET}'")
    assert SECRET in dsn.params["options"]
    assert SECRET not in repr(dsn) + repr(dsn.params)
    assert "statement_timeout" in repr(parse_dsn("host=h options='-c statement_timeout=5s'"))


def test_params_are_a_read_only_mapping():
    dsn = parse_dsn("host=h user=u")
    assert (len(dsn.params), list(dsn.params), dict(dsn.params)) == (1, ["user"], {"user": "u"})
    with pytest.raises(TypeError):
        dsn.params["user"] = "v"  # type: ignore[index]
    with pytest.raises(KeyError):
        dsn.params["nothing"]


def test_a_dsn_is_a_value():
    dsn = parse_dsn("host=h user=u")
    assert dsn == parse_dsn("user=u host=h")
    assert dsn != parse_dsn("host=h user=v")
    assert len({dsn, parse_dsn("host=h user=u")}) == 1
    assert copy.deepcopy(dsn) == pickle.loads(pickle.dumps(dsn)) == dsn  # noqa: S301


# -- properties

NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
SOCKETS = st.from_regex(r"/[a-z_ ]{1,8}", fullmatch=True)
IPV6 = st.ip_addresses(v=6).map(str)
PORTS = st.one_of(st.none(), st.integers(1, 65535))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.one_of(NAMES, SOCKETS, IPV6), PORTS), min_size=1, max_size=5), TEXT, TEXT, TEXT)
def test_uri_and_keyword_forms_agree(hosts, user, password, dbname):
    netloc = ",".join(
        (f"[{host}]" if ":" in host else quote(host, safe="")) + (f":{port}" if port else "")
        for host, port in hosts
    )
    uri = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{netloc}/{quote(dbname, safe='')}"
    keyword = make_conninfo(
        "",
        host=",".join(host for host, _ in hosts),
        port=",".join(str(port or "") for _, port in hosts),
        user=user,
        password=password,
        dbname=dbname,
    )
    dsn = parse_dsn(uri)
    assert dsn == parse_dsn(keyword)
    assert dsn.hosts == tuple(dict.fromkeys(HostKey(host, port or 5432) for host, port in hosts))
    assert dsn.params == {"user": user, "password": password, "dbname": dbname}
    for key in dsn.hosts:
        again = parse_dsn(make_conninfo("", **dsn.conninfo(key)))
        same = key._replace(host=key.host.removesuffix("."))
        assert (again.hosts, again.params, again.session_attrs) == ((same,), dsn.params, SessionAttrs.ANY)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="=' \\,@:/?&%[]hp01").map("postgresql://".__add__),
        st.text(alphabet="=' \\,@:/?&%[]hp01").map("host=h ".__add__),
    )
)
def test_arbitrary_text_is_parsed_or_refused(text):
    try:
        str(parse_dsn(text))
    except ConfigError as error:
        assert_untold(error)


@given(st.text(alphabet="=' \\,:/?&%[]hp01", max_size=12))
def test_no_tail_makes_a_message_tell_the_password(tail):
    for text in (f"postgresql://u:{SECRET}@{tail}", f"password={SECRET} {tail}", f"password='{SECRET}{tail}"):
        try:
            assert SECRET not in str(parse_dsn(text))
        except ConfigError as error:
            assert_untold(error)
