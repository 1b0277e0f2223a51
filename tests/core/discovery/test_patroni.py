"""What is read from Patroni's answers, and which are none."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.config.discovery import PatroniDiscovery
from pgroute.core.discovery.patroni import read_cluster
from pgroute.core.discovery.report import MOST_MEMBERS, Malformed, Member, Report, Switchover, reach
from pgroute.core.discovery.timing import due_at
from pgroute.core.model.advice import HostAdvice
from pgroute.core.model.roles import HostKey
from tests.core.discovery.answers import MEMBERS, body, cluster

OPTIONS = PatroniDiscovery()


def read(told: object, options: PatroniDiscovery = OPTIONS) -> Report:
    return read_cluster(body(told), options)


def test_members_with_their_tags_and_lag() -> None:
    report = read(cluster())
    assert report.scope == "shop"
    assert not report.paused
    assert report.switchover is None
    assert [member.advice for member in report.members] == [
        HostAdvice("pg1", "leader", "running"),
        HostAdvice("pg2", "sync_standby", "streaming", no_failover=True, zone="eu-1", lag_bytes=128),
        HostAdvice("pg3", "replica", "in archive recovery", no_reads=True, zone="7"),
    ]
    assert [member.key for member in report.members] == [HostKey(f"pg{n}", 5432) for n in (1, 2, 3)]


def test_pause_and_a_scheduled_switchover() -> None:
    plan = {"at": "2026-11-29T18:00:00+01:00", "from": "pg1", "to": "pg2"}
    report = read(cluster(pause=True, scheduled_switchover=plan))
    assert report.paused
    assert report.switchover == Switchover(1795971600.0, "pg1", "pg2")
    assert read(cluster(scheduled_switchover={"at": plan["at"]})).switchover == Switchover(1795971600.0)


@pytest.mark.parametrize(
    ("tags", "no_reads", "no_failover"),
    [
        ({}, False, False),
        ({"noloadbalance": False, "nofailover": False}, False, False),
        ({"noloadbalance": "true", "nofailover": "on"}, True, True),
        ({"noloadbalance": 1, "nofailover": 0}, True, False),
        ({"noloadbalance": None, "nofailover": []}, False, False),
        ({"failover_priority": 0}, False, True),
        ({"failover_priority": 2}, False, False),
        ({"failover_priority": "0"}, False, True),
        ({"failover_priority": " -1 "}, False, True),
        ({"failover_priority": 0.4}, False, True),
        ({"failover_priority": "1"}, False, False),
        ({"failover_priority": "none"}, False, False),
        ({"failover_priority": "inf"}, False, False),
        ({"failover_priority": True}, False, False),
        ({"failover_priority": False}, False, False),
        ({"failover_priority": []}, False, False),
        ({"failover_priority": None}, False, False),
        ({"nofailover": False, "failover_priority": 0}, False, False),
        ({"nofailover": None, "failover_priority": 0}, False, True),
        ({"nofailover": True, "failover_priority": 2}, False, True),
        ({"noloadbalance": "false", "nofailover": "false"}, True, True),  # to Patroni, a text is a yes
    ],
)
def test_tags(tags: dict[str, Any], no_reads: bool, no_failover: bool) -> None:
    advice = read(cluster({"tags": tags})).members[0].advice
    assert (advice.no_reads, advice.no_failover) == (no_reads, no_failover)


def test_zone_is_that_of_the_named_tag() -> None:
    tags = {"tags": {"zone": "a", "az": "b"}}
    assert read(cluster(tags)).members[0].advice.zone == "a"
    assert read(cluster(tags), PatroniDiscovery(zone_tag="az")).members[0].advice.zone == "b"
    assert read(cluster(tags), PatroniDiscovery(zone_tag="")).members[0].advice.zone == ""
    assert read(cluster({"tags": {"zone": {"a": 1}}})).members[0].advice.zone == ""


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        (None, HostKey("pg1", 5432)),
        ("{name}.db.test", HostKey("pg1.db.test", 5432)),
        ("{name}.db.test:6432", HostKey("pg1.db.test", 6432)),
        ("{host}:{port}", HostKey("pg1", 5432)),
        ({"pg1": "127.0.0.1:15441"}, HostKey("127.0.0.1", 15441)),
        ({"pg1": "[fd00::1]:15441"}, HostKey("fd00::1", 15441)),
        ({"pg1": "fd00::1"}, HostKey("fd00::1", 5432)),
        ({"other": "127.0.0.1:15441"}, HostKey("pg1", 5432)),
    ],
)
def test_where_members_are_reached(hosts: Any, first: HostKey) -> None:
    assert read(cluster(), PatroniDiscovery(hosts=hosts)).members[0].key == first


def test_address_of_a_member_may_be_one_of_ipv6() -> None:
    assert read(cluster({"host": "fd00::1"})).members[0].key == HostKey("fd00::1", 5432)


@pytest.mark.parametrize(
    ("hosts", "port"),
    [
        ("{host}:6432", 6432),
        ("[{host}]:6432", 6432),
        ("{host}:{port}", 5432),
        ("{host}", 5432),
        ({"pg1": "{host}:6432"}, 6432),
        ("{name}:6432", 6432),
        ("[{name}]:6432", 6432),
        ({"fd00::1": "{name}:6432"}, 6432),
    ],
)
@pytest.mark.parametrize("address", ["fd00::1", "[fd00::1]"])
def test_address_of_ipv6_does_not_run_into_the_port(hosts: Any, port: int, address: str) -> None:
    name = "fd00::1" if "{name}" in str(hosts) else "pg1"
    assert reach(HostAdvice(name), address, 5432, hosts).key == HostKey("fd00::1", port)


@pytest.mark.parametrize("host", ["/tmp", "@x", "a,b", "", "a b", "_pg._tcp.x", "x" * 300, "-:-", "a/b"])
def test_member_whose_host_is_none_keeps_its_advice(host: str) -> None:
    member = read(cluster({"host": host, "tags": {"noloadbalance": True}})).members[0]
    assert member.key is None
    assert member.why
    assert member.advice.no_reads


@pytest.mark.parametrize(
    "told",
    [
        None,
        1,
        [],
        {},
        {"members": None},
        {"members": {}},
        {"members": []},
        {"members": [1]},
        {"members": [{}]},
        {"members": [*MEMBERS, 1]},
        cluster({"name": "pg2"}),
        cluster(*[{"port": 0}] * len(MEMBERS)),
        cluster(scope=[]),
        {"members": [{"name": f"m{n}"} for n in range(MOST_MEMBERS + 1)]},
    ],
)
def test_answer_that_is_none(told: object) -> None:
    with pytest.raises(Malformed):
        read(told)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"host": 1}, "'host' is not a text"),
        ({"role": []}, "'role' is not a text"),
        ({"port": "5432"}, "'port' is no number from 1 to 65535"),
        ({"port": True}, "'port' is no number from 1 to 65535"),
        ({"port": 0}, "'port' is no number from 1 to 65535"),
        ({"port": 65536}, "'port' is no number from 1 to 65535"),
        ({"port": 1.5}, "'port' is no number from 1 to 65535"),
        ({"tags": []}, "'tags' are not a JSON object"),
    ],
)
def test_odd_member_is_of_no_use_and_the_others_count(odd: dict[str, Any], why: str) -> None:
    good = read(cluster())
    first, *others = read(cluster(odd)).members
    assert first == Member(HostAdvice("pg1"), None, why, unread=True)
    assert others == list(good.members[1:])


def test_a_member_that_cannot_be_read_is_what_it_was_before() -> None:
    last = read(cluster({"tags": {"noloadbalance": True}}))
    now = read(cluster({"port": "5432"}, {}, {"name": "pg4", "tags": []}))
    first, second, third = now.after(last).members
    assert (first.key, first.advice) == (last.members[0].key, last.members[0].advice)
    assert first.advice.no_reads
    assert first.why == "'port' is no number from 1 to 65535"
    assert second == now.members[1]
    assert (third.key, third.why) == (None, "'tags' are not a JSON object")
    assert now.after(None) == now
    again = now.after(now.after(last)).members[0]
    assert again == first
    assert last.after(now.after(last)) == last


@pytest.mark.parametrize(
    ("odd", "why"), [({"name": ""}, "it has no name"), ({"name": 1}, "'name' is not a text")]
)
def test_member_without_a_name_is_known_by_its_number(odd: dict[str, Any], why: str) -> None:
    members = read(cluster({}, odd)).members
    assert [member.name for member in members] == ["number 2", "pg1", "pg3"]
    assert (members[0].key, members[0].why) == (None, why)


def test_null_is_like_nothing() -> None:
    keys = ("role", "state", "port", "tags", "lag", "replay_lag")
    nulls: dict[str, Any] = dict.fromkeys(keys)
    member = read(cluster(nulls, scope=None, pause=None, scheduled_switchover=None)).members[0]
    assert member == Member(HostAdvice("pg1"), HostKey("pg1", 5432))
    unplaced = read(cluster({"host": None})).members[0]
    assert unplaced.why == "the adviser does not say where it is"


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ("soon", "from the leader to any member (it is not a JSON object)"),
        ({}, "from the leader to any member ('' is no time with a time zone)"),
        ({"at": None, "from": None}, "from the leader to any member ('' is no time with a time zone)"),
        ({"at": "soon", "from": "pg1", "to": "pg2"}, "from pg1 to pg2 ('soon' is no time with a time zone)"),
        (
            {"at": "2026-11-29T18:00:00", "to": "pg2"},
            "from the leader to pg2 ('2026-11-29T18:00:00' is no time with a time zone)",
        ),
        ({"at": 1}, "from the leader to any member ('at' is not a text)"),
        (
            {"at": "2026-11-29T18:00:00+01:00", "from": 1},
            "from the leader to any member ('from' is not a text)",
        ),
    ],
)
def test_odd_plan_has_no_time_and_the_members_count(plan: object, text: str) -> None:
    report = read(cluster(scheduled_switchover=plan))
    assert report.members == read(cluster()).members
    assert report.switchover is not None
    assert (report.switchover.at, report.switchover.text) == (None, text)
    assert due_at(report, 0.0, 0.0, None) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"<html>"])
def test_body_that_is_no_json(raw: bytes) -> None:
    with pytest.raises(Malformed):
        read_cluster(raw, OPTIONS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("name", "role", "state", "host", "port", "tags", "lag", "replay_lag")
MEMBER = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON))
TOLD = st.fixed_dictionaries(
    {"members": st.lists(MEMBER | JSON, max_size=4)},
    optional={"scope": JSON, "pause": JSON, "scheduled_switchover": JSON},
)


@given(told=TOLD | JSON)
def test_any_json_gives_a_report_or_is_malformed(told: object) -> None:
    with contextlib.suppress(Malformed):
        report = read(told)
        assert 0 < len(report.members) <= MOST_MEMBERS
        if report.switchover is not None:
            assert report.switchover.text.isprintable()
        for member in report.members:
            assert bool(member.why) is (member.key is None)
            assert member.name.isprintable()
            assert member.advice.zone.isprintable()
            assert member.key is None or 0 < member.key.port < 65536


@given(raw=st.binary(max_size=200))
def test_any_bytes_give_a_report_or_are_malformed(raw: bytes) -> None:
    with contextlib.suppress(Malformed):
        read_cluster(raw, OPTIONS)


@given(change=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_one_member_may_say_anything(change: dict[str, Any]) -> None:
    with contextlib.suppress(Malformed):
        report = read(json.loads(json.dumps(cluster(change))))
        assert report.members == tuple(sorted(report.members, key=lambda member: member.name))
