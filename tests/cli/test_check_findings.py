"""What an audit makes of the answers of hosts, from values alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgroute import HostInfo, HostKey, HostRole, HostState, SessionAttrs
from pgroute.cli.check.ask import FUNCTIONS, Answers
from pgroute.cli.check.finding import Finding, Result, status_of
from pgroute.cli.check.judge import cluster_findings, host_findings
from pgroute.cli.check.plan import Plan
from pgroute.cli.subject import is_file
from pgroute.core.config.options import PoolOptions, ProbeOptions
from pgroute.core.config.router_config import make_config

OK, NOTE, WARN, FAIL = Result.OK, Result.NOTE, Result.WARN, Result.FAIL

PLAN = Plan(
    processes=2,
    writers=10,
    readers=5,
    readers_on_primary=3,
    by_role=(("writer", "app"), ("reader", "app_reader"), ("probe", "")),
    sslmode="verify-full",
    tcp_user_timeout=0,
    abort_after=10.0,
    reader_attrs=SessionAttrs.PREFER_STANDBY,
    max_lag=None,
)
HOST = HostInfo(
    HostKey("db1", 5432), HostState.UP, "", True, 0.0, 1, role=HostRole.PRIMARY, address="10.0.0.1"
)
SETTINGS = {
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "reserved_connections": "0",
    "hot_standby": "on",
    "synchronous_standby_names": "ANY 1 (b, c)",
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    "tcp_user_timeout": "0",
    "client_connection_check_interval": "0",
}
HEALTHY = Answers(
    failure="",
    connect=0.002,
    version=180001,
    standby=False,
    user="watch",
    acts_as="watch",
    tls="TLSv1.3",
    settings=SETTINGS,
    reads_stats=True,
    offset=0.5,
    offset_error=0.001,
    in_use=7,
    synchronous=1,
)


def found(answers: Answers = HEALTHY, host: HostInfo = HOST, plan: Plan = PLAN) -> dict[str, Finding]:
    return {finding.check: finding for finding in host_findings(host, answers, plan)}


def test_a_healthy_host_gives_no_warning():
    findings = found()
    assert {finding.result for finding in findings.values()} == {OK}
    assert {name: finding.text for name, finding in findings.items()} == {
        "reach": "logged in as watch in 2.0 ms",
        "rights": "watch may ask for everything that the probes can use",
        "tls": "TLSv1.3, sslmode=verify-full",
        "connections": "2 processes may open 28 (20 writer + 6 reader + 2 probe) of 97; 7 are open now",
        "hot_standby": "on",
        "replication": "synchronous: ANY 1 (b, c), 1 attached, synchronous_commit = on",
        "keepalives": "the server notices the loss of an idle client after 120 s",
        "clock": "+0.500 s from the clock here, +/- 0.001 s",
    }


@pytest.mark.parametrize(
    ("changes", "check", "result", "part"),
    [
        ({"failure": "refused", "connect": None}, "reach", FAIL, "refused"),
        ({"failure": "did not answer within 5 s"}, "reach", FAIL, "did not answer"),
        ({"server": "172.18.0.2:5432"}, "reach", OK, "forwarded to 172.18.0.2:5432"),
        ({"pooled": True}, "pooler", NOTE, "what is told here is of the server behind it"),
        ({"reads_stats": False}, "rights", NOTE, "after a failover: GRANT pg_read_all_stats"),
        ({"tls": ""}, "tls", WARN, "use sslmode=verify-full"),
        ({"tls": "", "local": True}, "tls", OK, "does not leave this machine"),
        ({"tls": "", "gss": True}, "tls", OK, "GSSAPI encrypts the connection"),
        (
            {"tls": "", "local": True, "remote": True, "server": "10.0.0.7:5432"},
            "tls",
            NOTE,
            "how it reaches the server (10.0.0.7:5432) is not known here",
        ),
        ({"tls": "TLS", "pooled": True}, "tls", OK, "TLS up to the pooler, sslmode=verify-full"),
        ({"local": True, "remote": True}, "keepalives", OK, "after 120 s"),
        ({"offset": -1.2}, "clock", WARN, "-1.200 s"),
        ({"offset": 1.2, "offset_error": 0.3}, "clock", OK, "+1.200 s"),
        ({"limits": {"app": 19}}, "connections", FAIL, "may open 20 as app, whose CONNECTION LIMIT is 19"),
        ({"limits": {"app": 20}}, "connections", OK, "may open 28"),
        ({"limits": {"watch": 1}}, "connections", FAIL, "may open 2 as watch"),
        ({"database_limit": 27}, "connections", FAIL, "of the database is 27"),
        ({"database_limit": 27, "superusers": {"app", "app_reader"}}, "connections", FAIL, "is 27"),
        ({"database_limit": 27, "superusers": {"app", "app_reader", "watch"}}, "connections", OK, "28"),
        (
            {"pooled": True, "limits": {"app": 1}, "database_limit": 1},
            "connections",
            NOTE,
            "2 processes may open 28 (20 writer + 6 reader + 2 probe) to the pooler: compare with max_client_conn",
        ),
        ({"synchronous": 0}, "replication", FAIL, "no synchronous standby is attached, so that COMMIT waits"),
        ({"synchronous": None}, "replication", NOTE, "whether enough standbys are attached cannot be seen"),
        ({"reads_stats": False}, "replication", NOTE, "cannot be seen: GRANT pg_read_all_stats"),
        ({"reads_stats": False, "synchronous": 0}, "replication", FAIL, "COMMIT waits"),
        (
            {"standby": True, "synchronous": None},
            "replication",
            OK,
            "synchronous: ANY 1 (b, c), synchronous_commit = on",
        ),
    ],
)
def test_what_a_host_says_is_judged(changes, check, result, part):
    finding = found(replace(HEALTHY, **changes))[check]
    assert (finding.result, part in finding.text) == (result, True), finding


@pytest.mark.parametrize(
    ("changes", "standby", "check", "result", "part"),
    [
        ({"max_connections": "30"}, False, "connections", FAIL, "may open 28 (20 writer"),
        ({"max_connections": "31"}, False, "connections", OK, "of 28"),
        ({"max_connections": "32", "reserved_connections": "2"}, False, "connections", FAIL, "of 27"),
        ({"hot_standby": "off"}, True, "hot_standby", WARN, "refuses readers"),
        ({"synchronous_commit": "off"}, False, "replication", WARN, "synchronous_commit = off"),
        (
            {"synchronous_commit": "local", "synchronous_standby_names": ""},
            False,
            "replication",
            NOTE,
            "may lose acknowledged",
        ),
        (
            {"synchronous_standby_names": ""},
            False,
            "replication",
            NOTE,
            "no synchronous standby by PostgreSQL's own replication: unless the storage is replicated",
        ),
        ({"synchronous_standby_names": ""}, True, "replication", NOTE, "if it becomes the primary"),
        ({"tcp_keepalives_idle": "7200"}, False, "keepalives", NOTE, "after 7260 s, and keeps its locks"),
        ({"tcp_keepalives_idle": "2h"}, False, "keepalives", NOTE, "after 7260 s"),
        ({"tcp_keepalives_idle": "0"}, False, "keepalives", NOTE, "is not known"),
        ({"tcp_keepalives_idle": "nonsense"}, False, "keepalives", NOTE, "is not known"),
        ({"max_connections": "many"}, False, "connections", FAIL, "may open 28"),
        ({"tcp_keepalives_idle": "5min"}, False, "keepalives", OK, "after 360 s"),
        ({"tcp_keepalives_interval": "75", "tcp_keepalives_count": "9"}, False, "keepalives", NOTE, "735 s"),
        (
            {"tcp_keepalives_idle": "7200", "client_connection_check_interval": "10s"},
            False,
            "keepalives",
            NOTE,
            "on the server; a running query, every 10 s (client_connection_check_interval)",
        ),
        # Linux closes the connection at the first keepalive that is late by so much.
        (
            {"tcp_keepalives_idle": "7200", "tcp_user_timeout": "10000"},
            False,
            "keepalives",
            NOTE,
            "on the server; data on its way, after 10 s (tcp_user_timeout)",
        ),
        (
            {"tcp_keepalives_idle": "7200", "tcp_user_timeout": "10000"},
            False,
            "keepalives",
            NOTE,
            "after 7210 s",
        ),
        ({"tcp_user_timeout": "900000"}, False, "keepalives", NOTE, "after 900 s"),
    ],
)
def test_the_settings_of_a_host_are_judged(changes, standby, check, result, part):
    finding = found(replace(HEALTHY, standby=standby, settings={**SETTINGS, **changes}))[check]
    assert (finding.result, part in finding.text) == (result, True), finding


@pytest.mark.parametrize(
    ("state", "result"),
    [
        (HostState.UP, None),
        (HostState.ALIAS, None),
        (HostState.SUSPECT, WARN),
        (HostState.STALE, FAIL),
        (HostState.FOREIGN, FAIL),
    ],
)
def test_the_state_of_a_host_is_judged(state, result):
    finding = found(host=replace(HOST, state=state, reason="why")).get("state")
    assert (finding and finding.result) is result


@pytest.mark.parametrize(
    ("names", "attached", "result", "part"),
    [
        ("ANY 2 (b, c, d)", 1, FAIL, "1 of 2 synchronous standbys are attached, so that COMMIT waits"),
        ("ANY 2 (b, c, d)", 2, OK, "2 attached"),
        ("first 2 (b, c)", 1, FAIL, "COMMIT waits (first 2 (b, c))"),
        ("  FIRST\t3(*)", 2, FAIL, "2 of 3"),
        ("2 (b, c)", 1, FAIL, "1 of 2"),
        ("2, 3", 1, OK, "1 attached"),
        ("b, c", 1, OK, "1 attached"),
        ("b", 0, FAIL, "no synchronous standby is attached"),
        ('"ANY 2 (b)"', 1, OK, "1 attached"),
    ],
)
def test_commit_waits_for_as_many_standbys_as_are_asked_for(names, attached, result, part):
    settings = {**SETTINGS, "synchronous_standby_names": names}
    finding = found(replace(HEALTHY, settings=settings, synchronous=attached))["replication"]
    assert (finding.result, part in finding.text) == (result, True), finding


TIMELINES, STANDBYS, LAG, CLUSTER, RESTARTS = ALL = (
    "a stale primary cannot be recognised",
    "a standby's timeline and staleness are not known",
    "the lag is not known",
    "hosts of another cluster cannot be recognised",
    "a restarted server, or one with two names, may not be recognised",
)
LOST = (*[{TIMELINES, STANDBYS, LAG}] * 5, *[{STANDBYS, CLUSTER}] * 3, {*ALL})


@pytest.mark.parametrize(("function", "lost"), [*zip(FUNCTIONS, LOST, strict=True)])
def test_a_function_that_is_missing_costs_what_the_next_smaller_probe_does_without(function, lost):
    finding = found(replace(HEALTHY, lacking=[function]))["rights"]
    assert finding.result is WARN
    assert {loss for loss in ALL if loss in finding.text} == lost


def test_what_the_probe_lost_is_told():
    lost = replace(HOST, degraded="no longer tells its timeline: refused")
    finding = found(host=lost)["rights"]
    assert (finding.result, finding.text) == (WARN, "no longer tells its timeline: refused")
    both = host_findings(lost, replace(HEALTHY, lacking=[FUNCTIONS[0]]), PLAN)
    texts = [finding.text.partition(":")[0] for finding in both if finding.check == "rights"]
    assert texts == ["watch may not execute pg_current_wal_lsn", "no longer tells its timeline"]


@pytest.mark.parametrize(
    ("plan", "answers", "result", "part"),
    [
        ({}, {}, OK, "after 10 s (abort_after)"),
        ({"abort_after": None}, {}, WARN, "set abort_after, or tcp_user_timeout in the DSN"),
        ({"abort_after": None, "tcp_user_timeout": 9000}, {}, OK, "tcp_user_timeout=9000 ms"),
        ({}, {"local": True, "remote": True}, OK, "after 10 s (abort_after)"),
        (
            {"abort_after": None, "tcp_user_timeout": 9000},
            {"local": True, "remote": True},
            WARN,
            "hang for many minutes: set abort_after",
        ),
        ({"abort_after": None}, {"local": True}, None, ""),
    ],
)
def test_what_ends_sessions_at_a_dead_host_is_told_unless_it_is_this_machine(plan, answers, result, part):
    told = cluster_findings({}, {HOST.key: replace(HEALTHY, **answers)}, replace(PLAN, **plan))
    findings = [finding for finding in told if finding.check == "dead host"]
    assert [finding.result for finding in findings] == ([] if result is None else [result])
    assert all(part in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("sslmode", "result"),
    [("prefer", NOTE), ("require", NOTE), ("verify-ca", OK), ("verify-full", OK)],
)
def test_a_certificate_that_is_not_checked_is_noted(sslmode, result):
    assert found(plan=replace(PLAN, sslmode=sslmode))["tls"].result is result


def test_a_plan_counts_what_each_process_may_open():
    config = make_config(
        "postgresql://app@db1,db2/shop?tcp_user_timeout=9000",
        writer=PoolOptions(max_size=20),
        reader=PoolOptions(max_size=8, max_size_on_primary=2, kwargs={"user": "reader"}),
        probe=ProbeOptions(abort_after=None, kwargs={"user": "watch", "password": "x"}),
        balance=None,
        reader_attrs="standby",
        host_options=None,
        resolver="system",
        addresses="one-host",
        retry=None,
        acquire_timeout=5,
        max_lag=5,
        schema="pgroute",
        schema_owner=None,
        kwargs=None,
        configure=None,
        reset=None,
    )
    plan = Plan.of(config, 3)
    assert plan.needed() == {"writer": 60, "reader": 6, "probe": 3}
    assert (plan.sslmode, plan.tcp_user_timeout, plan.abort_after) == ("prefer", 9000, None)
    assert plan.users == {"app", "reader", "watch"}
    assert (plan.reader_attrs, plan.max_lag) == (SessionAttrs.STANDBY, 5.0)
    assert (plan.needed_by("app", "watch"), plan.needed_by("reader", "watch")) == (60, 6)
    # As a standby it may have more readers than it has readers and writers as the primary.
    assert sum(replace(PLAN, writers=1, readers=9).needed().values()) == 2 * 10
    assert sum(replace(PLAN, writers=9, readers=9).needed().values()) == 2 * 13


def test_only_a_probe_without_a_user_of_its_own_stands_for_roles_without_one():
    unnamed = (("writer", ""), ("reader", "app"), ("probe", ""))
    assert replace(PLAN, by_role=unnamed).needed_by("root", "root") == 20 + 2
    named = (("writer", ""), ("reader", "app"), ("probe", "watch"))
    assert replace(PLAN, by_role=named).needed_by("watch", "watch") == 2


@pytest.mark.parametrize(
    ("results", "status"), [([], 0), ([OK, NOTE], 0), ([WARN, OK], 1), ([WARN, FAIL, NOTE], 2)]
)
def test_the_worst_finding_is_the_exit_status(results, status):
    assert status_of(Finding("x", result, "") for result in results) == status


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("pgroute.toml", True),
        ("/etc/x.YAML", True),
        ("a.yml", True),
        ("", False),
        ("db1", False),
        ("host=db1 dbname=a.toml", False),
        ("postgresql://db1/a.toml", False),
    ],
)
def test_a_file_is_told_from_a_dsn(text, file):
    assert is_file(text) is file
