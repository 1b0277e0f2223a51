"""What an audit makes of the answers of hosts, from values alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgroute import HostInfo, HostKey, HostRole, HostState
from pgroute.cli.check.ask import Answers
from pgroute.cli.check.judge import Finding, Plan, Result, host_findings, status_of
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
    "tcp_user_timeout": "0",
    "client_connection_check_interval": "0",
}
HEALTHY = Answers(
    failure="",
    connect=0.002,
    version=180001,
    standby=False,
    user="watch",
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
        "keepalives": "the server looks for a lost client after 60 s",
        "clock": "+0.500 s from the clock here, +/- 0.001 s",
    }


@pytest.mark.parametrize(
    ("changes", "check", "result", "part"),
    [
        ({"failure": "refused", "connect": None}, "reach", FAIL, "refused"),
        ({"failure": "did not answer within 5 s"}, "reach", FAIL, "did not answer"),
        ({"server": "172.18.0.2:5432"}, "reach", OK, "forwarded to 172.18.0.2:5432"),
        ({"pooled": True}, "pooler", NOTE, "max_connections is that of the server behind it"),
        (
            {"lacking": ["pg_catalog.pg_control_system()"]},
            "rights",
            WARN,
            "another cluster cannot be recognised",
        ),
        ({"lacking": ["pg_catalog.pg_walfile_name(pg_lsn)"]}, "rights", WARN, "a stale primary cannot be"),
        ({"lacking": ["pg_catalog.pg_control_recovery()"]}, "rights", WARN, "the lag is not exact"),
        ({"reads_stats": False}, "rights", NOTE, "after a failover: GRANT pg_read_all_stats"),
        ({"tls": ""}, "tls", WARN, "use sslmode=verify-full"),
        ({"tls": "", "local": True}, "tls", OK, "does not leave this machine"),
        ({"offset": -1.2}, "clock", WARN, "-1.200 s"),
        ({"offset": 1.2, "offset_error": 0.3}, "clock", OK, "+1.200 s"),
        ({"limits": {"app": 19}}, "connections", FAIL, "may open 20 as app, whose CONNECTION LIMIT is 19"),
        ({"limits": {"app": 20}}, "connections", OK, "may open 28"),
        ({"limits": {"watch": 1}}, "connections", FAIL, "may open 2 as watch"),
        ({"database_limit": 27}, "connections", FAIL, "of the database is 27"),
        ({"synchronous": 0}, "replication", FAIL, "COMMIT waits"),
        ({"synchronous": None}, "replication", OK, "synchronous: ANY 1 (b, c), synchronous_commit = on"),
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
        ({"synchronous_standby_names": ""}, False, "replication", NOTE, "asynchronous"),
        ({"synchronous_standby_names": ""}, True, "replication", NOTE, "if it becomes the primary"),
        ({"tcp_keepalives_idle": "7200"}, False, "keepalives", NOTE, "now 7200 s"),
        ({"tcp_keepalives_idle": "2h"}, False, "keepalives", NOTE, "now 7200 s"),
        ({"tcp_keepalives_idle": "0"}, False, "keepalives", NOTE, "for hours"),
        ({"tcp_keepalives_idle": "nonsense"}, False, "keepalives", NOTE, "now 0 s"),
        ({"max_connections": "many"}, False, "connections", FAIL, "may open 28"),
        ({"tcp_keepalives_idle": "5min"}, False, "keepalives", OK, "after 300 s"),
        (
            {"tcp_keepalives_idle": "2h", "client_connection_check_interval": "10s"},
            False,
            "keepalives",
            OK,
            "",
        ),
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


def test_what_the_probe_lost_is_told():
    finding = found(host=replace(HOST, degraded="no system identifier: refused"))["rights"]
    assert (finding.result, finding.text) == (WARN, "no system identifier: refused")


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
    assert (plan.needed_by("app", "watch"), plan.needed_by("reader", "watch")) == (60, 6)
    # As a standby it may have more readers than it has readers and writers as the primary.
    assert sum(replace(PLAN, writers=1, readers=9).needed().values()) == 2 * 10
    assert sum(replace(PLAN, writers=9, readers=9).needed().values()) == 2 * 13


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
