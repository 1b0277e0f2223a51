"""Which targets of a service are accepted: where TLS verifies a name, the DNS does not choose it."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute.core.config.dns_names import Found, Question, members, questions
from pgroute.core.config.dsn import parse_dsn
from pgroute.core.config.srv import Service, Targets, check_domains
from pgroute.core.model.roles import HostKey
from pgroute.errors import ConfigError

SRV = HostKey("_postgresql._tcp.db.example.com", 5432)
OWN = Targets(anywhere=False)


def accepted(service: str, target: str, *domains: str) -> bool:
    return not Targets(anywhere=False, domains=domains).refusal(service, target)


@pytest.mark.parametrize(
    ("service", "target"),
    [
        (SRV.host, "a.db.example.com"),
        (SRV.host, "x.y.db.example.com"),
        (SRV.host, "db.example.com"),
        (SRV.host, "A.DB.Example.COM"),
        (SRV.host, "a.db.example.com."),
        (SRV.host.upper() + ".", "a.db.example.com"),
        ("_pg._tcp.bücher.example", "a.xn--bcher-kva.example"),
        ("_pg._tcp.test", "db.test"),
    ],
)
def test_a_target_below_the_domain_of_its_service_is_accepted(service: str, target: str) -> None:
    assert accepted(service, target)


@pytest.mark.parametrize(
    "target",
    [
        "evil.example",
        "example.com",  # above
        "a.example.com",  # beside
        "evildb.example.com",  # of equal letters, and another label
        "db.example.com.evil.example",
        "a.db.example.com.evil.example.",
        "10.0.0.1",
        "::1",
        "com",
    ],
)
def test_a_target_elsewhere_is_refused_in_words_that_name_the_option(target: str) -> None:
    refusal = OWN.refusal(SRV.host, target)
    assert target in refusal
    assert "db.example.com" in refusal
    assert "srv_domains=" in refusal


@pytest.mark.parametrize(
    ("domain", "target", "good"),
    [
        ("example.net", "a.example.net", True),
        ("example.net.", "a.example.net", True),
        ("EXAMPLE.net", "a.example.NET", True),
        ("example.net", "a.db.example.com", True),
        ("example.net", "aexample.net", False),
        ("bücher.example", "a.xn--bcher-kva.example", True),
        (".", "evil.example", True),
        ("example.net", "net", False),
        (".", "10.0.0.1", True),
        ("1.test", "10.0.0.1.test", True),
        ("0.1", "10.0.0.1", False),
    ],
)
def test_domains_may_be_named_beside_the_own(domain: str, target: str, good: bool) -> None:
    rule = check_domains([domain], ())
    assert (not rule.refusal(SRV.host, target)) is good


@pytest.mark.parametrize(
    "value",
    ["example.com", b"x", 3, {"example.com": 1}, [""], ["*.example.com"], [".example.com"], ["a..b"], ["a b"], [7],
     ["a" * 254], ["10.0.0.1"], ["-a.b"], ["a/b"], ["ü" * 300], ["\x1b.example"]],
)  # fmt: skip
def test_what_is_no_list_of_domains_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"invalid srv_domains .*expected a list of domain names"):
        check_domains(value, ())


@pytest.mark.parametrize(
    ("dsn", "anywhere"),
    [
        ("host=h", True),
        ("host=h sslmode=require", True),
        ("host=h sslmode=verify-ca", True),
        ("host=h sslmode=verify-full", False),
        ("host=h sslrootcert=system", False),
    ],
)
def test_where_no_name_is_verified_any_target_serves(dsn: str, anywhere: bool) -> None:
    assert check_domains(None, [parse_dsn("host=h").params, parse_dsn(dsn).params]).anywhere is anywhere


def test_domains_that_are_named_count_without_tls_too() -> None:
    assert check_domains([], [parse_dsn("host=h").params]) == OWN


def test_a_target_that_is_refused_is_neither_listed_nor_looked_up_and_is_told() -> None:
    records = (Service(0, 0, 5432, "a.db.example.com"), Service(0, 0, 5432, "evil.example"))
    found = {Question(SRV.host, service=True): Found(records)}.get
    listed, errors = members((SRV,), "one-host", found, OWN)
    assert [m.key for m in listed] == [HostKey("a.db.example.com", 5432), SRV]
    assert "evil.example is refused" in errors[SRV]
    assert questions((SRV,), found, OWN) == (
        Question(SRV.host, service=True),
        Question("a.db.example.com"),
    )
    assert len(members((SRV,), "one-host", found)[0]) == 2


def test_the_root_is_no_domain_of_a_service() -> None:
    assert not accepted("_pg._tcp..", "evil.example")


def test_when_all_are_refused_the_entry_says_what_to_set() -> None:
    found = {Question(SRV.host, service=True): Found((Service(0, 0, 5432, "evil.example"),))}.get
    listed, errors = members((SRV,), "one-host", found, OWN)
    assert [m.key for m in listed] == [SRV]
    assert "srv_domains=" in errors[SRV]


@pytest.mark.parametrize("target", ["fe80::1%eth0", "fe80::1%\x1b[2J", "::1%"])
def test_an_address_with_a_scope_is_no_target(target: str) -> None:
    found = {Question(SRV.host, service=True): Found((Service(0, 0, 5432, target),))}.get
    listed, _ = members((SRV,), "one-host", found)
    assert [m.key for m in listed] == [SRV]
