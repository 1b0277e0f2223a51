"""Where texts and values of others come in: each entry takes any, and fails for what must not come of it.

That is an exception that is not ours, a secret that is told, a text that does something to a terminal.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
from typing import Any, get_args

import psycopg

from pgroute import (
    AuroraDiscovery,
    ConfigError,
    HostKey,
    HostOptions,
    HostRole,
    PatroniDiscovery,
    PoolOptions,
    ProbeOptions,
    RetryPolicy,
    Router,
    SessionAttrs,
)
from pgroute.batch import Keyset
from pgroute.batch.options import check_job
from pgroute.batch.source import fresh_items, signature
from pgroute.core.config.dns_names import Found, Mode, Question, members, questions
from pgroute.core.config.dsn import Dsn, parse_dsn
from pgroute.core.config.srv import Service, Targets, check_domains
from pgroute.core.faults.classify import connect_fault, one_line, options_refused, session_fault
from pgroute.core.printable import printable
from pgroute.core.topology.observations import Answer, Failure, Members
from pgroute.core.topology.transition import apply, initial_topology
from pgroute.core.transactions.once_keys import as_json, check_age, check_key

SECRET = "s3cr3tPW"
SERVICE = HostKey("_postgresql._tcp.example.com", 5432)
NAME = HostKey("db.example.com", 5432)
ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ConnectionTimeout,
    psycopg.errors.SerializationFailure,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.AdminShutdown,
    ValueError,
)


def assert_untold(error: ConfigError) -> None:
    """Fail for a refusal that tells the secret, or has no end."""
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in f"{error!s} {error!r} {vars(error)!r}"
    assert len(str(error)) < 20_000


def assert_line(text: str) -> None:
    """Fail for what is not one printable line with an end."""
    assert text.isprintable()
    assert len(text) <= 2500


def dsn(text: str) -> None:
    """A DSN by itself, and with a password in places where one may be."""
    for given in (
        text,
        f"postgresql://u:{SECRET}@{text}",
        f"password={SECRET} {text}",
        f"{text} password='{SECRET}'",
    ):
        try:
            parsed = parse_dsn(given)
        except ConfigError as error:
            assert_untold(error)
            continue
        shown = f"{parsed!s} {parsed!r} {parsed.params!r}"
        # Only where the text has made the word something that is no password.
        assert SECRET not in shown or SECRET in text, shown
        _connectable(parsed)


def _connectable(parsed: Dsn) -> None:
    for key in parsed.hosts[:3]:
        conninfo = parsed.conninfo(key)
        assert conninfo["port"] == str(key.port)
        assert "***" in repr(conninfo) or SECRET not in repr(conninfo)


def error_text(text: str) -> None:
    """What a server, libpq or a resolver says when something fails."""
    for cls in ERRORS:
        for said in (text, f'connection failed: connection to server at "h", port 1 failed: FATAL:  {text}'):
            error = cls(said)
            assert_line(connect_fault(error).reason)
            assert_line(session_fault(error, closed=False).reason)
            assert_line(session_fault(error, closed=True, committing=True).reason)
            if isinstance(error, psycopg.Error):
                options_refused(error, names={"u", "db"})
    assert_line(one_line(text))
    assert_line(one_line(text.encode("utf-8", "surrogatepass")))
    assert_line(printable(text))


def records(
    services: list[tuple[int, int, int, str]], addresses: list[str], error: str, domains: list[str]
) -> None:
    """What the DNS answers."""
    told = [Service(*service) for service in services]
    try:
        trusted = check_domains(domains, ())
    except ConfigError as refusal:
        assert_untold(refusal)
        trusted = Targets(anywhere=False)
    listed = Found().answered(told, 1.0, 0.0)
    known: dict[Question, Found] = {
        Question(SERVICE.host, service=True): listed.failed(error, 1.0) if error else listed,
        Question(NAME.host): Found().answered(addresses, 1.0, 0.0, error=error),
    }
    topology = initial_topology((SERVICE, NAME), 0.0)
    modes: tuple[Mode, ...] = get_args(Mode)
    for mode in modes:
        for targets in (Targets(), Targets(anywhere=False), trusted):
            found, errors = members((SERVICE, NAME), mode, known.get, targets)
            questions((SERVICE, NAME), known.get, targets)
            for reason in errors.values():
                assert len(reason) < 2500
            for member in found:
                assert_line(str(member.key))
                assert_line(member.listing.note)
                assert (
                    member.key in (SERVICE, NAME)
                    or not targets.refusal(SERVICE.host, member.key.host)
                    or (member.key.host == NAME.host)
                )
            topology, _ = apply(
                topology, Members(tuple(m.key for m in found), {m.key: m.listing for m in found}), 1.0
            )
    for line in str(topology).split("\n"):
        assert_line(line)


def answers(told: list[dict[str, Any]], error: str) -> None:
    """Probes' answers, of hosts that lie as they like within what a probe reads."""
    hosts = (HostKey("a", 1), HostKey("b", 1))
    topology = initial_topology(hosts, 0.0)
    now = 0.0
    for number, fields in enumerate(told):
        now += 0.1
        host = hosts[number % 2]
        role = HostRole.STANDBY if fields.get("standby") else HostRole.PRIMARY
        values = {name: value for name, value in fields.items() if name != "standby"}
        reduced = printable(error)
        topology, events = apply(topology, Answer(host, role, now, reduced=reduced, **values), now)
        seen = Failure(host, connect_fault(psycopg.OperationalError(error)), now)
        broken, more = apply(topology, seen, now)
        for event in (*events, *more):
            assert event.text.isprintable()
        for shown in (topology, broken):
            for line in str(shown).split("\n"):
                assert_line(line)
        assert {attrs: topology.candidates[attrs] for attrs in SessionAttrs}


def rows(values: list[bytes | None]) -> None:
    """A row in answer to a probe: it is read, or malformed."""
    if importlib.util.find_spec("pgroute.core.sql.answers") is None:
        return
    reading: Any = importlib.import_module("pgroute.core.sql.answers")
    for read in (reading.read_probe, reading.read_shown, reading.read_check, reading.read_progress):
        try:
            told = read(values)
        except reading.Malformed as exc:
            assert_line(str(exc))
        else:
            assert "nan" not in repr(told).lower()


OPTIONS: dict[type[Any], tuple[str, ...]] = {
    PoolOptions: ("min_size", "max_size", "max_idle", "max_lifetime", "max_waiting", "read_only", "kwargs", "settings",
                  "configure", "reset"),
    ProbeOptions: ("interval", "timeout", "abort_after", "abort_stale", "check_system_id", "system_id", "min_ttl",
                   "max_ttl", "lookup_timeout", "kwargs"),
    HostOptions: ("weight", "zone"),
    RetryPolicy: ("stop", "wait"),
    Router: ("writer", "reader", "balance", "reader_attrs", "host_options", "probe", "resolver", "addresses", "retry",
             "acquire_timeout", "connection_class", "row_factory", "kwargs", "configure", "reset", "srv_domains",
             "zone", "discovery", "unknown"),
    PatroniDiscovery: ("urls", "hosts", "zone_tag", "interval", "timeout", "forget_after", "drain_before", "drain_for",
                       "cafile", "certfile", "keyfile"),
    AuroraDiscovery: ("hosts", "interval", "timeout", "forget_after"),
}  # fmt: skip


def option(value: Any) -> None:
    """A value of any kind for each option, with a secret beside it."""
    for cls, names in OPTIONS.items():
        for name in names:
            given: dict[str, Any] = {name: value}
            if name != "kwargs" and "kwargs" in names:
                given["kwargs"] = {"password": SECRET}
            try:
                made = cls(**given)
            except ConfigError as error:
                assert_untold(error)
            else:
                assert SECRET not in repr(made)


def setting(name: str, value: Any) -> None:
    """Server settings, and libpq parameters beside them."""
    for where in ("settings", "kwargs"):
        options: dict[str, Any] = {where: {name: value}}
        with contextlib.suppress(ConfigError):
            Router("host=h", writer=PoolOptions(**options))


def key(value: Any) -> None:
    """A key of once=, a result, an age, a job."""
    with contextlib.suppress(ConfigError):
        assert check_key(value) is None or value is True or check_key(value) == value
    with contextlib.suppress(ConfigError):
        assert math.isfinite(check_age(value, 1.0))
    with contextlib.suppress(TypeError):
        json.loads(as_json(value, "k"))
    job: dict[str, Any] = {
        "chunk_size": 1, "workers": 1, "most_workers": 2, "on_error": "stop", "retry": None, "name": "j", "source": [1],
    }  # fmt: skip
    for name in ("chunk_size", "workers", "on_error", "retry", "name", "source"):
        with contextlib.suppress(ConfigError):
            check_job(**{**job, name: value})
    for name in ("query", "key", "params", "fetch"):
        with contextlib.suppress(ConfigError):
            source = Keyset(**{"query": "SELECT 1", "key": "a", name: value})
            assert signature(source, ["x"] * len(source.keys)).isprintable() or name == "key"
    with contextlib.suppress(ConfigError):
        fresh_items(lambda: value)
