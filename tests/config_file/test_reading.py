"""What a configuration file may say, and what a router gets from it; no host is contacted."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
import tenacity
import yaml
from psycopg.rows import dict_row

from pgroute import (
    AsyncRouter,
    ConfigError,
    HostOptions,
    PatroniDiscovery,
    PoolOptions,
    ProbeOptions,
    Router,
    from_config,
)
from pgroute.config_file.tables import read_router
from pgroute.core.config.libpq import keywords
from pgroute.testing.account import EXECUTE, Account
from tests.core.incomparable import INCOMPARABLE

SECRET = "hunter2-s3cret"
MANY = "1" + 5000 * "0"
NOBODY = Account("nobody", 65534, 65534)

FULL = """
default = "shop"

[routers.shop]
dsn = "postgresql://app@${PGROUTE_HOST:-db1},db2:5433/shop"
balance = "ordered"
reader_attrs = "standby"
resolver = "dns"
addresses = "one-host"
srv_domains = ["a.example", "${PGROUTE_HOST:-b}.example"]
acquire_timeout = 7
max_lag = 2.5
schema = "shop"
zone = "b"

[routers.shop.kwargs]
password = { from_file = "password" }
application_name = "shop"
row_factory = "psycopg.rows:dict_row"
prepare_threshold = "none"
autocommit = false

[routers.shop.writer]
max_size = "${PGROUTE_SIZE}"
settings = { statement_timeout = "5s", jit = false, work_mem = 8192 }
reset = "discard"

[routers.shop.reader]
min_size = 0
max_size_on_primary = 2
read_only = true
kwargs = { user = "reader", password = { from_env = "PGROUTE_SECRET" } }

[routers.shop.probe]
interval = 0.5
abort_after = "none"

[routers.shop.retry]
stop_after_delay = 10
stop_after_attempt = 3
wait_random_exponential = { multiplier = 0.1, max = 1 }

[routers.shop.host_options."db2:5433"]
weight = 0
zone = "b"

[routers.shop.discovery]
urls = ["http://${PGROUTE_HOST:-db1}:8008", "http://db2:8008"]
interval = 5
drain_before = "none"
hosts = { pg1 = "db1:5432", pg2 = "${PGROUTE_HOST:-db2}:5433" }

[routers.logs]
dsn = "host=logs"
discovery = "patroni"
kind = "connection"
"""

IN_YAML = """
default: shop
routers:
  shop:
    dsn: postgresql://app@${PGROUTE_HOST:-db1},db2:5433/shop
    balance: ordered
    reader_attrs: standby
    resolver: dns
    addresses: one-host
    srv_domains: [a.example, "${PGROUTE_HOST:-b}.example"]
    acquire_timeout: 7
    max_lag: 2.5
    schema: shop
    zone: b
    kwargs:
      password: {from_file: password}
      application_name: shop
      row_factory: psycopg.rows:dict_row
      prepare_threshold: null
      autocommit: false
    writer:
      max_size: ${PGROUTE_SIZE}
      settings: {statement_timeout: 5s, jit: false, work_mem: 8192}
      reset: discard
    reader:
      min_size: 0
      max_size_on_primary: 2
      read_only: true
      kwargs: {user: reader, password: {from_env: PGROUTE_SECRET}}
    probe: {interval: 0.5, abort_after: null}
    retry:
      stop_after_delay: 10
      stop_after_attempt: 3
      wait_random_exponential: {multiplier: 0.1, max: 1}
    host_options:
      "db2:5433": {weight: 0, zone: b}
    discovery:
      urls: ["http://${PGROUTE_HOST:-db1}:8008", "http://db2:8008"]
      interval: 5
      drain_before: null
      hosts: {pg1: "db1:5432", pg2: "${PGROUTE_HOST:-db2}:5433"}
  logs:
    dsn: host=logs
    discovery: patroni
    kind: connection
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The variables of these files, and none of libpq's."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGROUTE_SIZE", "7")
    monkeypatch.setenv("PGROUTE_SECRET", SECRET)


def write(folder: Path, text: str | bytes, name: str = "pgroute.toml") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(("text", "name"), [(FULL, "pgroute.toml"), (IN_YAML, "x.yaml"), (IN_YAML, "x.YML")])
def test_every_option_reaches_the_router(tmp_path, text, name):
    (tmp_path / "password").write_text(f"{SECRET}\n")
    named = read_router(write(tmp_path, text, name), None)
    given = dict(named.arguments)
    retry = given.pop("retry")
    assert (named.name, named.kind) == ("shop", "pool")
    assert given == {
        "dsn": "postgresql://app@db1,db2:5433/shop",
        "balance": "ordered",
        "reader_attrs": "standby",
        "resolver": "dns",
        "addresses": "one-host",
        "srv_domains": ["a.example", "b.example"],
        "acquire_timeout": 7,
        "max_lag": 2.5,
        "schema": "shop",
        "zone": "b",
        "kwargs": {
            "password": SECRET,
            "application_name": "shop",
            "row_factory": dict_row,
            "prepare_threshold": None,
            "autocommit": False,
        },
        "writer": PoolOptions(
            max_size=7,
            settings={"statement_timeout": "5s", "jit": False, "work_mem": 8192},
            reset="discard",
        ),
        "reader": PoolOptions(
            min_size=0,
            max_size_on_primary=2,
            read_only=True,
            kwargs={"user": "reader", "password": SECRET},
        ),
        "probe": ProbeOptions(interval=0.5, abort_after=None),
        "host_options": {"db2:5433": HostOptions(weight=0, zone="b")},
        "discovery": PatroniDiscovery(
            urls=("http://db1:8008", "http://db2:8008"),
            interval=5,
            drain_before=None,
            hosts={"pg1": "db1:5432", "pg2": "db2:5433"},
        ),
    }
    assert retry.limit() == 10
    assert isinstance(retry.wait, tenacity.wait_random_exponential)
    assert (retry.wait.multiplier, retry.wait.max) == (0.1, 1)
    assert repr(Router(**named.arguments, name=named.name)) == "<Router 'shop' new>"


def test_the_budget_of_a_retry_policy(tmp_path):
    text = "[routers.a.retry]\nbudget = 0.5\nbudget_floor = 2"
    retry = read_router(write(tmp_path, text), None).arguments["retry"]
    assert (retry.budget, retry.budget_floor, retry.limit()) == (0.5, 2, 30.0)
    text = '[routers.a.retry]\nbudget = "none"'
    assert read_router(write(tmp_path, text), None).arguments["retry"].budget is None


@pytest.mark.parametrize(
    ("table", "limit", "wait"),
    [
        ("", 30.0, None),
        ("stop_after_delay = 5", 5.0, None),
        ("stop_after_attempt = 5", None, None),
        ('stop_after_delay = "${PGROUTE_SIZE}"', 7.0, None),
        ("wait_fixed = 0.5", 30.0, tenacity.wait_fixed),
        ("wait_random = {min = 1, max = 2}", 30.0, tenacity.wait_random),
        ("wait_exponential = {multiplier = 1, max = 2}", 30.0, tenacity.wait_exponential),
    ],
)
def test_the_strategies_of_a_retry_policy(tmp_path, table, limit, wait):
    retry = read_router(write(tmp_path, f"[routers.a.retry]\n{table}"), None).arguments["retry"]
    assert retry.limit() == limit
    assert type(retry.wait) is (wait or type(None))


@pytest.mark.parametrize(
    ("kind", "cls", "sizes"),
    [
        ("pool", Router, (1, 9)),
        ("async_pool", AsyncRouter, (1, 9)),
        ("connection", Router, (0, 1)),
        ("async_connection", AsyncRouter, (0, 1)),
    ],
)
@pytest.mark.parametrize("where", ["argument", "file"])
def test_each_kind_comes_from_the_same_file_by_one_word(tmp_path, kind, cls, sizes, where):
    text = f"[routers.a]\nkind = '{kind if where == 'file' else 'async_pool'}'\ndsn = 'host=h'\n"
    text += "[routers.a.writer]\nmax_size = 9\n[routers.a.reader]\nmax_size = 9\nmax_size_on_primary = 3\n"
    router = from_config(write(tmp_path, text), kind=kind if where == "argument" else None)
    assert type(router) is cls
    config = router._manager.config
    for role in (config.writer, config.reader):
        assert (role.options.min_size, role.options.max_size) == sizes


def test_names_choose_a_router(tmp_path):
    file = write(tmp_path, "[routers.a]\n[routers.b]\n[routers.'c d']\n")
    assert from_config(file, "b").name == "b"
    assert from_config(file, "c d").name == "c d"
    with pytest.raises(ConfigError, match="expected one of a, b, c d, or"):
        from_config(file)
    with pytest.raises(ConfigError, match=r"invalid name 'x': expected one of a, b, c d \(in"):
        from_config(file, "x")
    assert from_config(write(tmp_path, "[routers.only]", "y.toml")).name == "only"


def test_functions_and_classes_are_named_by_their_modules(tmp_path, monkeypatch):
    (tmp_path / "shop_callbacks.py").write_text(
        "import psycopg\ndef configure(conn): ...\nclass Mine(psycopg.Connection): ...\n"
        "class Nearest:\n    def pick(self, candidates, load, rng): return candidates[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "[routers.a]\nconfigure = 'shop_callbacks:configure'\nconnection_class = 'shop_callbacks:Mine'\n"
    text += "[routers.a.reader]\nreset = 'shop_callbacks:configure'\n"
    router = from_config(write(tmp_path, text))
    configure = importlib.import_module("shop_callbacks").configure
    assert router._manager.config.writer.options.configure is configure
    assert router._manager.config.reader.options.reset is configure


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("routers", "expected TOML"),
        (f"password = {SECRET}", "expected TOML: Invalid value (at line 1, column 12)"),
        ("[routers.a]\n[routers.a]", "expected TOML: Cannot declare ... twice"),
        ("[routers.a]\ndsn = 'x'\ndsn = 'y'", "expected TOML: Cannot overwrite a value"),
        (b"[routers.a]\ndsn = '\xff'", "expected UTF-8 text (line 2 is not)"),
        ("x = " + "[" * 5000, "expected TOML"),
        (f"[routers.a.writer]\nmax_size = {MANY}", "expected TOML: a number of too many digits"),
        (f"[routers.a.writer]\nmax_size = '${{NO:-{MANY}}}'", "max_size '1000"),
        (
            f"[routers.a.writer]\nmax_size = 0x{MANY}",
            "routers.a.writer.max_size '<int that cannot be shown>'",
        ),
        (f"[routers.a]\nacquire_timeout = 0x{MANY}", "acquire_timeout '<int that cannot be shown>'"),
        (f"[routers.a]\nbalance = 0x{MANY}", "balance '<int that cannot be shown>'"),
        ("", "invalid routers None: expected at least one table [routers.NAME]"),
        ("[routers]", "expected at least one table [routers.NAME]"),
        ("routers = 5", "invalid routers '***': expected a table of keys and values, not int"),
        ("[router.a]", "invalid key 'router': did you mean routers?"),
        ("dsn = 'host=h'", "invalid key 'dsn': it belongs in a table [routers.NAME]"),
        ("[variables]\nA = '${B}'", "invalid key 'variables': expected one of default, routers"),
        ("default = 'b'\n[routers.a]", "invalid default 'b': expected one of a"),
        ("default = 5\n[routers.a]", "invalid default 5: expected one of a"),
        (
            "[routers]\na = 'host=h'",
            "invalid routers.a '***': expected a table of keys and values, not a text",
        ),
        ("[[routers.a]]", "invalid routers.a '***': expected a table of keys and values, not a list"),
        ("[routers.a]\nkind = 'pol'", "invalid routers.a.kind 'pol': expected one of connection, pool"),
        ("[routers.a]\nmax_size = 3", "it belongs in routers.a.writer or routers.a.reader"),
        ("[routers.a]\ninterval = 3", "it belongs in routers.a.probe"),
        ("[routers.a]\nstop_after_delay = 3", "it belongs in routers.a.retry"),
        ("[routers.a]\nurl = 'x'", "it belongs in the DSN"),
        ("[routers.a]\nhost = 'x'", "it belongs in the DSN"),
        (f"[routers.a]\npassword = '{SECRET}'", "'routers.a.password': it belongs in routers.a.kwargs"),
        (f"[routers.a]\npasword = '{SECRET}'", "did you mean password, which belongs in routers.a.kwargs?"),
        (f"[routers.a.kwargs]\npasword = '{SECRET}'", "'routers.a.kwargs.pasword': did you mean password?"),
        (f"[routers.a.writer]\npassword = '{SECRET}'", "it belongs in routers.a.writer.kwargs"),
        ("[routers.a.writer]\nmax_sise = 3", "'routers.a.writer.max_sise': did you mean max_size?"),
        ("[routers.'a b'.writer]\nx = 3", "invalid key 'routers.\"a b\".writer.x'"),
        ("[routers.a.probe]\nintervall = 3", "did you mean interval?"),
        ("[routers.a.host_options.h]\nwieght = 3", "'routers.a.host_options.h.wieght': did you mean weight?"),
        ("[routers.a.host_options]\nh = 3", "routers.a.host_options.h '***': expected a table"),
        ("[routers.a]\nname = 'x'", "invalid key 'routers.a.name'"),
        ("[routers.a.writer]\nmax_size = 0", "invalid routers.a.writer.max_size 0: expected a whole number"),
        ("[routers.a.writer]\nmax_size = '5'", "routers.a.writer.max_size '5': expected a whole number"),
        ("[routers.a.writer]\nmax_size = 1.5", "routers.a.writer.max_size 1.5: expected a whole number"),
        ("[routers.a.writer]\nmax_size = true", "routers.a.writer.max_size True: expected a whole number"),
        ("[routers.a.writer]\nmin_size = 'none'", "expected a whole number"),
        ("[routers.a.writer]\nread_only = true", "routers.a.writer.read_only True: a writer cannot be"),
        ("[routers.a.writer]\nsettings = {'a b' = 1}", "routers.a.writer.settings 'a b': expected names"),
        ("[routers.a.writer]\nsettings = {jit = [1]}", "settings.jit 'a list': expected a text, a number"),
        ("[routers.a.probe]\ninterval = nan", "routers.a.probe.interval nan: expected a number"),
        ("[routers.a]\ndsn = 2026-01-01", "routers.a.dsn 'date': expected a text"),
        ("[routers.a]\ndsn = ['host=h']", "routers.a.dsn 'a list': expected a text"),
        ("[routers.a]\ndsn = 'host=a port=1,2'", "invalid port of routers.a '1,2': expected one port"),
        (f"[routers.a]\ndsn = 'postgresql://a:{SECRET}@h:0/x'", "invalid port of routers.a"),
        ("[routers.a]\nacquire_timeout = 0", "routers.a.acquire_timeout 0: expected a number above 0"),
        (
            "[routers.a]\nbalance = 'fair'",
            "routers.a.balance 'fair': expected one of 'adaptive', 'least-busy'",
        ),
        ("[routers.a]\nbalance = 'no_such_module:X'", "cannot be imported: ModuleNotFoundError"),
        ("[routers.a]\nbalance = 'os:no_such'", "cannot be imported: AttributeError"),
        ("[routers.a]\nconfigure = 'os;x:y'", "expected 'module:name' of a Python object"),
        ("[routers.a]\nconfigure = 'conf'", "routers.a.configure 'conf': expected a callable or None"),
        ("[routers.a]\nconnection_class = 'builtins:int'", "expected a subclass of psycopg.Connection"),
        ("[routers.a.host_options.nowhere]\nweight = 1", "host_options 'nowhere': expected one of the hosts"),
        ("[routers.a.kwargs]\nhostaddr = 'x'", "invalid hostaddr of routers.a 'x': expected in the DSN"),
        (
            "[routers.a.kwargs]\nautocommit = 'yes'",
            "routers.a.kwargs.autocommit 'yes': expected true or false",
        ),
        ("[routers.a.kwargs]\nrow_factory = 'dict_row'", "such as psycopg.rows:dict_row"),
        ("[routers.a.kwargs]\nsslmode = 'full'", "invalid sslmode of routers.a 'full': expected 'disable'"),
        ("[routers.a.kwargs]\nconnect_timeout = 'x'", "invalid connect_timeout of routers.a 'x'"),
        ("[routers.a.retry]\nstop = 3", "invalid key 'routers.a.retry.stop'"),
        ("[routers.a.retry]\nwait_fixed = 1\nwait_random = {}", "expected one of wait_fixed"),
        ("[routers.a.retry]\nwait_fixed = -1", "routers.a.retry.wait_fixed -1: expected a number"),
        (
            "[routers.a.retry]\nwait_random = {most = 1}",
            "'routers.a.retry.wait_random.most': expected one of max, min",
        ),
        ("[routers.a.retry]\nstop_after_attempt = 0", "stop_after_attempt 0: expected a whole number"),
        ("[routers.a.retry]\nbudget = 20", "routers.a.retry.budget 20: expected a number from 0 to 1"),
        ("[routers.a.retry]\nstop_after_delay = 'x'", "stop_after_delay 'x': expected a number"),
    ],
)
def test_a_mistake_is_told_with_the_file_and_the_key(tmp_path, text, told):
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        from_config(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)
    assert SECRET not in whole_text(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("'${PGROUTE_NOWHERE}'", "the environment variable PGROUTE_NOWHERE is not set"),
        ("'${PGROUTE_SECRET'", "without '}'"),
        ("'${PGROUTE_SECRET:-x}'", "a secret has no default"),
        (
            "{from_env = 'PGROUTE_NOWHERE'}",
            "password.from_env 'PGROUTE_NOWHERE': the environment variable is",
        ),
        (
            f"{{from_env = '{SECRET}'}}",
            "password.from_env '***': the environment variable is not set, or empty",
        ),
        ("{from_env = 'PGROUTE_EMPTY'}", "the environment variable is not set, or empty"),
        ("{from_env = ''}", "expected a text"),
        ("{from_env = 5}", "expected a text"),
        ("{from_envv = 'X'}", "password.from_envv': did you mean from_env?"),
        ("{from_env = 'X', from_file = 'Y'}", "expected either {from_env"),
        ("{}", "expected either {from_env"),
        ("{from_file = 'nowhere'}", "cannot be read: No such file or directory"),
        ("{from_file = '.'}", "cannot be read: it is a folder"),
        ("{from_file = '/dev/zero'}", "cannot be read: it is not a regular file"),
        ("{from_file = 'empty'}", "the file is empty"),
        ("{from_file = 'long'}", "cannot be read: it has more than 65536 bytes"),
        ("{from_file = 'latin'}", "expected UTF-8 text"),
        ('{from_file = "a\\u0000b"}', "cannot be read: a file name has no NUL character"),
        ("{from_file = 'nul'}", "expected no NUL character"),
        ("['x']", "expected a text, a number, true or false, not a list"),
    ],
)
def test_a_secret_that_is_not_there_is_told(tmp_path, monkeypatch, value, told):
    monkeypatch.setenv("PGROUTE_EMPTY", "")
    for name, content in {"empty": b"\n", "long": b"x" * 70_000, "latin": b"\xff", "nul": b"a\0"}.items():
        (tmp_path / name).write_bytes(content)
    file = write(tmp_path, f"[routers.a.kwargs]\npassword = {value}")
    with pytest.raises(ConfigError) as caught:
        from_config(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)
    assert SECRET not in whole_text(caught.value)


@pytest.mark.parametrize("value", ["012345", "0o12", "1_000.50", "yes", "true", "1e3", "5"])
@pytest.mark.parametrize("key", ["password", "sslpassword", "user", "dbname", "application_name", "options"])
def test_a_text_without_quotes_is_refused_instead_of_changed(tmp_path, key, value):
    file = write(tmp_path, f"routers: {{a: {{dsn: host=h, kwargs: {{{key}: {value}}}}}}}", "x.yaml")
    if not isinstance(yaml.safe_load(value), str):
        with pytest.raises(
            ConfigError, match=f"routers.a.kwargs.{key} .*: expected a text: put it in quotes"
        ) as caught:
            from_config(file)
        assert ("'***'" in str(caught.value)) is (key in ("password", "sslpassword"))
    file = write(tmp_path, f"routers: {{a: {{dsn: host=h, kwargs: {{{key}: '{value}'}}}}}}", "y.yaml")
    assert from_config(file)._manager.config.dsn.params[key] == value


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("connect_timeout", "3", "3"),
        ("keepalives", "0", "0"),
        ("keepalives_idle", "'30'", "30"),
        ("tcp_user_timeout", "5000", "5000"),
        ("sslsni", "0", "0"),
        ("sslcompression", "1", "1"),
        ("replication", "true", "True"),
        ("max_protocol_version", "3.0", "3.0"),
        ("require_auth", "'none'", "none"),
    ],
)
def test_a_number_that_libpq_reads_as_one_needs_no_quotes(tmp_path, key, value, text):
    if key not in keywords():
        pytest.skip(f"this libpq has no {key}")
    file = write(tmp_path, f"[routers.a]\ndsn = 'host=h'\nkwargs = {{{key} = {value}}}")
    assert from_config(file)._manager.config.dsn.params[key] == text


@pytest.mark.parametrize("value", ["5 # spare\n[x]", "5\na = 2", "5 # spare", "[" * 5000])
def test_a_variable_that_is_more_than_a_number_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.setenv("PGROUTE_SIZE", value)
    with pytest.raises(
        ConfigError, match=r"max_size '\*\*\*': expected a number, true or false from the variable"
    ):
        from_config(write(tmp_path, "[routers.a.writer]\nmax_size = '${PGROUTE_SIZE}'"))


@pytest.mark.parametrize("value", ["5", " 5 ", "5\n", "0x5", "+5"])
def test_a_variable_may_have_blanks_around_a_number(tmp_path, monkeypatch, value):
    monkeypatch.setenv("PGROUTE_SIZE", value)
    file = write(tmp_path, "[routers.a.writer]\nmax_size = '${PGROUTE_SIZE}'")
    assert read_router(file, None).arguments["writer"].max_size == 5


NONE = "${PGROUTE_NONE:-none}"


@pytest.mark.parametrize("written", ["none", NONE])
@pytest.mark.parametrize(
    "key",
    [
        *(
            "balance",
            "srv_domains",
            "discovery",
            "max_lag",
            "schema_owner",
            "configure",
            "reset",
            "credentials",
        ),
        *("row_factory", "probe.abort_after", "kwargs.prepare_threshold"),
        *(f"writer.{key}" for key in ("configure", "reset", "setup", "read_only", "max_uses")),
        *(f"discovery.{key}" for key in ("hosts", "cafile", "certfile", "keyfile")),
        *(f"kwargs.{key}" for key in ("row_factory", "cursor_factory", "context")),
    ],
)
def test_none_is_written_as_none_wherever_it_is_accepted(tmp_path, key, written):
    file = write(tmp_path, f"routers.a.dsn = 'host=h'\nrouters.a.{key} = '{written}'")
    found: Any = read_router(file, None).arguments
    for step in key.split("."):
        found = found[step] if isinstance(found, dict) else getattr(found, step)
    assert found is None
    assert from_config(file).name == "a"


@pytest.mark.parametrize(
    "key", ["writer", "probe", "retry", "host_options", "kwargs", "writer.settings", "reader.kwargs"]
)
def test_a_table_that_is_none_is_one_without_keys(tmp_path, key):
    file = write(tmp_path, f"routers.a.dsn = 'host=h'\nrouters.a.{key} = 'none'")
    assert from_config(file).name == "a"


@pytest.mark.parametrize("where", ["text", "path", "from_file"])
@pytest.mark.parametrize("tail", ["", ".toml", "/../x.toml"])
def test_a_dsn_in_the_place_of_a_path_is_not_shown(tmp_path, monkeypatch, where, tail):
    monkeypatch.chdir(tmp_path)
    dsn = f"postgresql://app:{SECRET}@db1/shop{tail}"
    with pytest.raises(ConfigError) as caught:
        if where == "from_file":
            from_config(write(tmp_path, f"[routers.a.kwargs]\npassword = {{from_file = '{dsn}'}}"))
        else:
            from_config(Path(dsn) if where == "path" else dsn)
    assert "'***'" in str(caught.value)
    assert SECRET not in whole_text(caught.value)


def test_a_key_that_is_a_dsn_is_not_shown(tmp_path):
    key = f"postgresql://{'application' * 5}:{SECRET}@h/db"
    for text in (f"['{key}']", f"[routers.a]\n'{key}' = 1", f"[routers.a.host_options.'{key}']\nx = 1"):
        with pytest.raises(ConfigError) as caught:
            from_config(write(tmp_path, text))
        assert SECRET not in whole_text(caught.value)
        assert "postgresql" not in str(caught.value)


def test_a_short_text_of_a_variable_leaves_an_error_readable(tmp_path, monkeypatch):
    monkeypatch.setenv("PGROUTE_SHORT", "or")
    with pytest.raises(
        ConfigError, match=r"acquire_timeout '\*\*\*': expected a number, true or false from the"
    ):
        from_config(write(tmp_path, "[routers.a]\nacquire_timeout = '${PGROUTE_SHORT}'"))


@pytest.mark.parametrize(
    "text",
    [
        "[routers.a]\nschema = 'pg_${PGROUTE_SECRET}'",
        "[routers.a]\nbalance = '${PGROUTE_SECRET}'",
        "[routers.a]\nbalance = '${PGROUTE_SECRET}:x'",
        "[routers.a]\nacquire_timeout = '${PGROUTE_SECRET}'",
        "[routers.a]\nkind = '${PGROUTE_SECRET}'",
        "[routers.a]\nreader_attrs = {from_file = 'secret'}",
        "[routers.a]\ndsn = 'postgresql://app@h:${PGROUTE_SECRET}/x'",
        "[routers.a]\ndsn = 'host=h sslmode=${PGROUTE_SECRET}'",
        "[routers.a]\ndsn = 'host=h port=1 ${PGROUTE_SECRET}'",
        "[routers.a.writer]\nsettings = {'a b' = '${PGROUTE_SECRET}'}",
        "[routers.a.writer]\nmax_size = {from_env = 'PGROUTE_SECRET'}",
        "[routers.a.retry]\nwait_fixed = '${PGROUTE_SECRET}'",
        "[routers.a.host_options.h]\nweight = '${PGROUTE_SECRET}'",
        "[routers.a.kwargs]\npassword = '${PGROUTE_SECRET}'\nautocommit = '${PGROUTE_SECRET}'",
        "[routers.a.kwargs]\nconnect_timeout = '${PGROUTE_SECRET}'",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path, text):
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(ConfigError) as caught:
        from_config(write(tmp_path, text))
    assert SECRET not in whole_text(caught.value)


def whole_text(exc: BaseException) -> str:
    """Return what any tool may show of an error, the variables of its frames too, but for the test's own frame."""
    assert exc.__traceback__ is not None
    shown = traceback.TracebackException(
        type(exc), exc, exc.__traceback__.tb_next, capture_locals=True, compact=False
    )
    return "".join(shown.format()) + repr(exc) + repr(exc.args) + repr(exc.__context__)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a", "expected a table of keys and values at the top"),
        ("routers: [", "expected YAML"),
        (f"password: *{SECRET}", "found undefined alias ..."),
        (f"password: !{SECRET} x", "could not determine a constructor for the tag ..."),
        (f"password: {SECRET}\n  x: {SECRET}", "expected YAML"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: \x01", "a character that YAML does not allow"),
        ("routers: {shop: {dsn: a, dsn: b}}", "a key is there twice (line 1, column 26)"),
        ("routers: {shop: {}, shop: {}}", "a key is there twice"),
        ("routers: &a {shop: *a}", "invalid key 'routers.shop.shop'"),
        ("routers: {shop: {dsn: &a [*a]}}", "routers.shop.dsn 'a list': expected a text"),
        ("routers: {shop: {5: x}}", "expected keys that are texts (put 5 in quotes)"),
        ("5: x", "expected keys that are texts (put 5 in quotes)"),
        (f"? 0x{MANY}\n: x", "expected keys that are texts (put <int that cannot be shown> in quotes)"),
        ("routers: {shop: {dsn: 2026-01-01}}", "routers.shop.dsn 'date': expected a text"),
        ("routers: {shop: {dsn: null}}", "routers.shop.dsn None: expected a value"),
        ("routers: {shop: {balance: NO}}", "routers.shop.balance False: expected one of"),
        ("", "expected at least one table [routers.NAME]"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nrouters: {shop: {dsn: *c}}", "invalid key 'a'"),
    ],
)
def test_a_mistake_in_yaml_is_told_without_the_text(tmp_path, text, told):
    file = write(tmp_path, text, "pgroute.yaml")
    with pytest.raises(ConfigError) as caught:
        from_config(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)
    assert SECRET not in whole_text(caught.value)


def test_yaml_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install pyyaml \(the extra"):
        from_config(write(tmp_path, "routers: {a: {}}", "x.yaml"))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere.toml", "cannot be read: No such file or directory"),
        ("pgroute.ini", "expected a file name that ends in .toml, .yaml or .yml"),
        ("folder.toml", "cannot be read: it is a folder"),
        ("pipe.toml", "cannot be read: it is not a regular file"),
        ("loop.toml", "cannot be read: "),
        ("big.toml", "cannot be read: it has more than 1000000 bytes"),
        ("pgroute.ini/x.toml", "cannot be read: Not a directory"),
        ("a" * 300 + ".toml", "cannot be read: File name too long"),
        ("a\0b.toml", "expected the path of a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, path, told):
    (tmp_path / "pgroute.ini").touch()
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError) as caught:
        from_config(tmp_path / path)
    assert told in str(caught.value)


def test_a_file_of_somebody_else_is_told(temporary):
    if not os.getuid() and not NOBODY.may(EXECUTE, temporary):
        pytest.skip(f"{NOBODY.name} cannot reach {temporary}")
    file = write(temporary, "[routers.a]")
    file.chmod(0)
    code = (
        "import os, sys, pgroute.config_file.making\nfrom pgroute import ConfigError, from_config\n"
        f"if not os.getuid(): os.setgid({NOBODY.gid}), os.setuid({NOBODY.uid})\n"
        "try: from_config(sys.argv[1])\nexcept ConfigError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert "cannot be read: Permission denied" in done.stdout


@pytest.mark.parametrize("path", [5, None, object(), ["x.toml"]])
def test_what_is_no_path_is_told(path):
    with pytest.raises(ConfigError, match=r"invalid path .*: expected the path of a file"):
        from_config(path)


@pytest.mark.parametrize("name", [5, "", ["a"]])
def test_what_is_no_name_is_told(tmp_path, name):
    with pytest.raises(ConfigError, match=r"invalid name .*: expected (one of a \(in|the name of a router)"):
        from_config(write(tmp_path, "[routers.a]"), name)


@pytest.mark.parametrize("kind", ["pol", "", 5, ["pool"], 10**5000, INCOMPARABLE], ids=[*"abcdef"])
def test_what_is_no_kind_is_told(tmp_path, kind):
    with pytest.raises(ConfigError, match=r"invalid kind .*: expected one of connection, pool"):
        from_config(write(tmp_path, "[routers.a]"), kind=kind)


def test_secrets_are_in_no_repr(tmp_path):
    text = "[routers.a]\ndsn = 'host=h'\nkwargs = {password = {from_env = 'PGROUTE_SECRET'}}\n"
    file = write(tmp_path, text + "writer = {kwargs = {password = '${PGROUTE_SECRET}'}}")
    router = from_config(file)
    named = read_router(file, None)
    assert named.arguments["kwargs"]["password"] == SECRET
    assert SECRET not in repr(router) + repr(named) + repr(named.place) + str(router.topology)
    assert issubclass(ConfigError, psycopg.ProgrammingError)


def test_a_relative_secret_is_beside_the_file_and_loses_one_line_end(tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(b" a b \r\n")
    monkeypatch.setenv("PGROUTE_WHERE", "secret")
    monkeypatch.chdir("/")
    for where in ("secret", "./secret", "${PGROUTE_WHERE}", str(tmp_path / "secret")):
        file = write(tmp_path, f"[routers.a.kwargs]\npassword = {{from_file = '{where}'}}")
        assert read_router(file, None).arguments["kwargs"] == {"password": " a b "}
