"""What the entries of a DSN stand for, and when a name is asked again."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute.core.config.dns_names import (
    GAP,
    MOST_RECORDS,
    RETRY_AFTER,
    Found,
    Question,
    doubt_gap,
    is_name,
    is_service,
    members,
    outage_gap,
    questions,
    stands_for_others,
)
from pgroute.core.config.srv import Service
from pgroute.core.model.roles import HostKey
from pgroute.core.topology.observations import Listing

DB = HostKey("db.example", 5432)
SRV = HostKey("_pg._tcp.example", 5432)
NOW = 100.0


def known(**records: Any) -> Any:
    """Give what is found: addresses or Services by name, with dots and underscores as they are."""
    table = {Question(name, name.startswith("_")): Found(tuple(found)) for name, found in records.items()}
    return table.get


@pytest.mark.parametrize(
    ("key", "name", "service"),
    [
        (HostKey("db.example", 1), True, False),
        (HostKey("db", 1), True, False),
        (HostKey("db.example", 1, "10.0.0.1"), False, False),
        (HostKey("10.0.0.1", 1), False, False),
        (HostKey("::1", 1), False, False),
        (HostKey("fe80::1%eth0", 1), False, False),
        (HostKey("/run/postgresql", 1), False, False),
        (HostKey("@abstract", 1), False, False),
        (HostKey("_postgresql._tcp.db.example.com", 1), False, True),
        (HostKey("_postgresql._tcp.db.example.com", 1, "10.0.0.1"), False, False),
        (HostKey("_db", 1), True, False),
        (HostKey("_db.example", 1), True, False),
    ],
)
def test_what_has_to_be_looked_up(key, name, service):
    assert (is_name(key), is_service(key)) == (name, service)
    assert stands_for_others(key, "one-host") is service
    assert stands_for_others(key, "expand") is (name or service)


def test_entries_without_names_stand_for_themselves_and_nothing_is_asked():
    entries = (HostKey("10.0.0.1", 1), HostKey("/run", 1), HostKey("a", 1, "10.0.0.2"))
    listed, errors = members(entries, "expand", known())
    assert [m.key for m in listed] == [*entries]
    assert {m.listing for m in listed} == {Listing()}
    assert not errors
    assert questions(entries, known()) == ()


def test_a_name_is_one_host_whatever_its_addresses():
    found = known(**{"db.example": ["10.0.0.1", "10.0.0.2"]})
    listed, _ = members((DB,), "one-host", found)
    assert [m.key for m in listed] == [DB]
    assert questions((DB, DB._replace(port=1)), found) == (Question("db.example"),)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        (["10.0.0.1"], 1),
        (["10.0.0.1", "::1"], 1),
        (["10.0.0.1", "::1", "::2"], 2),
        (["10.0.0.1", "10.0.0.2"], 2),
    ],
)
def test_the_addresses_of_one_family_are_counted(records: list[str], count: int) -> None:
    listed, _ = members((DB,), "one-host", known(**{"db.example": records}))
    assert [m.listing.addresses for m in listed] == [count]


def test_each_address_is_a_host_in_a_steady_order():
    found = known(**{"db.example": ["10.0.0.10", "::2", "10.0.0.9"]})
    listed, errors = members((DB,), "expand", found)
    assert [m.key.hostaddr for m in listed] == ["10.0.0.9", "10.0.0.10", "::2"]
    assert {m.key[:2] for m in listed} == {("db.example", 5432)}
    assert {m.listing for m in listed} == {Listing("name db.example")}
    assert not errors


def test_an_entry_of_which_nothing_is_known_stands_for_itself():
    for found in (known(), {Question("db.example"): Found()}.get):
        listed, errors = members((DB, SRV), "expand", found)
        assert [m.key for m in listed] == [DB, SRV]
        assert not errors


def test_an_entry_that_failed_has_its_reason():
    failed = Found().failed("no such name", NOW)
    found = {Question("db.example"): failed, Question(SRV.host, service=True): failed}.get
    _, errors = members((DB, SRV), "expand", found)
    assert errors == {DB: "no such name", SRV: "no such name"}
    _, errors = members((DB,), "one-host", found)
    assert not errors, "the host itself is asked, and says so"


def test_targets_of_a_service_have_its_ports_priorities_and_weights():
    records = [
        Service(10, 0, 5000, "c"),
        Service(0, 1, 5001, "a"),
        Service(0, 3, 5002, "b"),
        Service(0, 0, 5003, "z"),
    ]
    found = known(**{SRV.host: records})
    listed, errors = members((SRV,), "one-host", found)
    origin = f"SRV {SRV.host}"
    assert [(m.key.host, m.key.port, m.listing) for m in listed] == [
        ("b", 5002, Listing(origin, 0, 3.0)),
        ("a", 5001, Listing(origin, 0, 1.0)),
        ("z", 5003, Listing(origin, 0, 0.01)),
        ("c", 5000, Listing(origin, 10, 1.0)),
    ]
    assert not errors
    assert questions((SRV,), found) == (
        Question(SRV.host, service=True), Question("b"), Question("a"), Question("z"), Question("c"),
    )  # fmt: skip


def test_addresses_of_a_target_are_hosts_of_its_service():
    found = known(
        **{SRV.host: [Service(0, 5, 5000, "a"), Service(0, 5, 5000, "10.0.0.7")], "a": ["10.0.0.2"]}
    )
    listed, _ = members((SRV,), "expand", found)
    assert [m.key for m in listed] == [HostKey("10.0.0.7", 5000), HostKey("a", 5000, "10.0.0.2")]
    assert {m.listing.origin for m in listed} == {f"SRV {SRV.host}"}
    assert questions((SRV,), found) == (Question(SRV.host, service=True), Question("a"))


def test_a_service_that_is_not_offered_is_told():
    found = known(**{SRV.host: [Service(0, 0, 0, "")]})
    listed, errors = members((SRV,), "one-host", found)
    assert [m.key for m in listed] == [SRV]
    assert "not offered" in errors[SRV]


def test_a_host_that_is_listed_twice_is_one():
    found = known(**{SRV.host: [Service(0, 1, 5432, "db.example")]})
    listed, _ = members((DB, SRV), "one-host", found)
    assert [(m.key, m.listing) for m in listed] == [(DB, Listing())]


def due(found: Found, hurry: float | None = None) -> float:
    return found.next_at(floor=2, cap=10, hurry=hurry) - NOW


@pytest.mark.parametrize(("ttl", "holds"), [(0, 2), (2, 2), (7.5, 7.5), (3600, 10), (None, 10)])
def test_an_answer_holds_for_its_time_within_bounds(ttl: float | None, holds: float) -> None:
    assert due(Found().answered(["10.0.0.1"], ttl, NOW)) == holds


def test_a_hurry_never_makes_it_later_nor_a_storm() -> None:
    found = Found().answered(["10.0.0.1"], 3, NOW)
    assert [due(found, hurry) for hurry in (RETRY_AFTER, 2, 0)] == [3, 2, GAP]


def test_the_longer_an_outage_the_rarer_the_questions() -> None:
    assert [outage_gap(seconds) for seconds in (0, 50, 100, 250, 1e6)] == [1, 1, 2, 5, 5]


def test_the_longer_a_host_is_out_of_reach_the_rarer_its_name_is_asked() -> None:
    assert [doubt_gap(seconds) for seconds in (0, 50, 100, 600)] == [5, 5, 10, 60]


@pytest.mark.parametrize(("ttl", "hurry", "latest"), [(10, None, 10.5), (4, None, 4.2), (10, GAP, 1.05)])
def test_processes_do_not_ask_in_step(ttl: float, hurry: float | None, latest: float) -> None:
    found = Found().answered(["10.0.0.1"], ttl, NOW)
    assert found.next_at(floor=1, cap=60, hurry=hurry, chance=1.0) - NOW == pytest.approx(latest)


def test_a_name_never_asked_is_due() -> None:
    assert due(Found()) < 0


def test_the_order_of_an_answer_is_no_change() -> None:
    first = Found().answered(["10.0.0.1", "10.0.0.2", "10.0.0.1"], 5, NOW)
    again = first.answered(["10.0.0.2", "10.0.0.1"], 5, NOW + 5)
    assert first.records == again.records == ("10.0.0.1", "10.0.0.2")
    assert again.answered(["10.0.0.3"], 5, NOW).records == ("10.0.0.3",)


def test_a_failure_takes_nothing_away_and_is_repeated_after_a_while() -> None:
    good = Found().answered(["10.0.0.1"], 1, NOW - 1)
    bad = good.failed("SERVFAIL", NOW)
    assert (bad.records, bad.error) == (("10.0.0.1",), "SERVFAIL")
    assert due(bad) == RETRY_AFTER
    assert due(bad, GAP) == GAP
    assert bad.answered(["10.0.0.1"], 1, NOW + 9).error == ""
    listed, errors = members((DB,), "one-host", {Question(DB.host): bad}.get)
    assert [m.listing.note for m in listed] == ["SERVFAIL: the last good answer is used"]
    assert not errors


def test_a_family_of_which_nothing_was_heard_keeps_its_addresses() -> None:
    both = Found().answered(["10.0.0.1", "10.0.0.2", "::1"], 9, NOW - 1)
    half = both.answered(["::1"], 9, NOW, error="no answer")
    assert half.records == both.records
    assert due(half) == RETRY_AFTER
    assert half.answered(["::1"], 9, NOW).records == ("::1",)


@pytest.mark.parametrize("count", [0, MOST_RECORDS + 1, 1000])
def test_an_answer_of_none_or_too_many_is_a_failure(count: int) -> None:
    good = Found().answered(["10.0.0.1"], 1, NOW)
    found = good.answered([f"10.0.{n // 250}.{n % 250}" for n in range(count)], 1, NOW + 1)
    assert found.records == ("10.0.0.1",)
    assert str(count or "empty") in found.error


@pytest.mark.parametrize(
    ("target", "port"),
    [
        ("/dev/shm/postgres", 5432),
        ("@abstract", 5432),
        ("a,b", 5432),
        ("a b", 5432),
        ("_pg._tcp.other", 5432),
        ("a", 0),
    ],
)
def test_a_target_that_can_be_no_host_is_left_out_and_told(target: str, port: int) -> None:
    records = [Service(0, 0, port, target), Service(0, 0, 5000, "good")]
    found = known(**{SRV.host: records})
    listed, errors = members((SRV,), "expand", found)
    assert [m.key for m in listed] == [HostKey("good", 5000), SRV]
    assert repr(target) in errors[SRV]
    assert questions((SRV,), found) == (Question(SRV.host, service=True), Question("good"))


def test_an_entry_stands_for_so_many_hosts_and_no_more() -> None:
    records = [Service(0, 0, 5000 + n, "a") for n in range(40)]
    found = known(**{SRV.host: records, "a": [f"10.0.0.{n}" for n in range(40)]})
    listed, errors = members((DB, SRV), "expand", found)
    assert len(listed) == 1 + MOST_RECORDS + 1
    assert "more than 64 hosts" in errors[SRV]


def test_a_host_that_is_listed_already_is_none_too_many() -> None:
    found = known(**{"db.example": [f"10.0.0.{n}" for n in range(MOST_RECORDS)]})
    listed, errors = members((DB, DB._replace(hostaddr="10.0.0.1"), DB), "expand", found)
    assert len(listed) == MOST_RECORDS
    assert not errors
    records = [Service(0, 0, 5000, f"10.0.0.{n}") for n in range(MOST_RECORDS)]
    twice = [*records, Service(1, 0, 5000, "10.0.0.0")]
    listed, errors = members((SRV,), "one-host", known(**{SRV.host: twice}))
    assert len(listed) == MOST_RECORDS
    assert not errors
