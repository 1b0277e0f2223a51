"""The options of discovery: what is accepted, and which URLs follow."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute import ConfigError, HostOptions, PatroniDiscovery, Router
from pgroute.core.config.discovery import check_discovery
from pgroute.core.config.dsn import parse_dsn
from pgroute.core.config.srv import Targets
from tests.core.incomparable import INCOMPARABLE


def urls(value: object, dsn: str = "postgresql://db1,db2:5433/x") -> tuple[str, ...]:
    found = check_discovery(value, parse_dsn(dsn))
    assert isinstance(found, PatroniDiscovery)
    return tuple(found.urls)


def test_urls_are_those_given_or_follow_from_the_dsn() -> None:
    assert urls("patroni") == ("http://db1:8008", "http://db2:8008")
    assert urls(PatroniDiscovery(), "host=db1,db1 port=1,2") == ("http://db1:8008",)
    assert urls("patroni", "host=a hostaddr=fd00::1") == ("http://[fd00::1]:8008",)
    assert urls("patroni", "host=_pg._tcp.x,/tmp,b") == ("http://b:8008",)
    assert urls("http://a:1/,https://b/x") == ("http://a:1", "https://b/x")
    assert urls(PatroniDiscovery(urls=["http://a"])) == ("http://a",)
    assert urls("HTTPS://A:1/X,Http://b") == ("https://A:1/X", "http://b")
    for none in ("", (), None):
        assert urls(PatroniDiscovery(urls=none), "host=b") == ("http://b:8008",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["", "Patroni", "consul", 1, ["http://a"], {"urls": []}, object(), PatroniDiscovery]
)
def test_what_is_no_discovery_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"invalid discovery .*expected 'patroni'"):
        check_discovery(value, parse_dsn("host=a"))


def test_without_a_host_to_ask_urls_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"invalid discovery.urls .*the DSN has no host to ask"):
        check_discovery("patroni", parse_dsn("host=/tmp"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("urls", 5),
        ("urls", INCOMPARABLE),
        ("urls", [INCOMPARABLE]),
        ("urls", {"http://a": 1}),
        ("urls", "pg1:8008"),
        ("urls", ["http://a", 5]),
        ("urls", ["http://a?x"]),
        ("hosts", "db.example.com"),
        ("hosts", 5),
        ("hosts", {"a": 5}),
        ("hosts", {"a": ""}),
        ("zone_tag", None),
        ("interval", 0.01),
        ("timeout", 0),
        ("timeout", "1"),
        ("forget_after", -1),
        ("drain_before", -1),
        ("drain_for", None),
        ("cafile", 5),
        ("keyfile", "key"),
    ],
)
def test_option_that_is_none_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"invalid {option} "):
        PatroniDiscovery(**{option: value})


def test_password_in_a_url_is_not_shown() -> None:
    for make in (
        lambda: PatroniDiscovery(urls=["http://admin:hunter2@a:8008"]),
        lambda: PatroniDiscovery(urls=["http://admin:hun/ter2@a:8008"]),
        lambda: Router("host=a", discovery="http://admin:hunter2@a:8008"),
        lambda: Router("host=a", discovery="admin:hunter2@a:8008"),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert "ter2" not in str(caught.value)


def test_zones_and_options_of_hosts_may_be_those_of_members() -> None:
    options = {"db9": HostOptions(weight=2)}
    Router("host=a", discovery="patroni", zone="east", host_options=options)
    with pytest.raises(ConfigError, match="invalid zone"):
        Router("host=a", discovery=PatroniDiscovery(zone_tag=""), zone="east")
    with pytest.raises(ConfigError, match="invalid host_options"):
        Router("host=a", host_options=options)


def test_member_whose_name_tls_would_verify_needs_somebody_to_vouch_for_it() -> None:
    assert Targets().refusal_of_member("pg3.elsewhere") == ""
    strict = Targets(anywhere=False, domains=("db.example",))
    assert strict.refusal_of_member("PG3.db.example.") == ""
    assert "https" in strict.refusal_of_member("pg3.elsewhere")
    assert strict.refusal_of_member("10.0.0.1")
