"""What is read from the rows of aurora_replica_status(), and where instances are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute import AuroraDiscovery, ConfigError
from pgroute.core.config.discovery import check_discovery
from pgroute.core.config.dsn import parse_dsn
from pgroute.core.discovery.aurora import read_replicas
from pgroute.core.discovery.report import Malformed
from pgroute.core.model.advice import HostAdvice
from pgroute.core.model.roles import HostKey

OPTIONS = AuroraDiscovery(hosts="{name}.abc.eu-west-1.rds.amazonaws.com")
Rows = list[list[bytes | None]]


def test_instances_with_their_roles_and_lag() -> None:
    report = read_replicas([[b"i2", b"f", b"12.5"], [b"i1", b"t", None]], OPTIONS, 5433)
    assert [member.advice for member in report.members] == [
        HostAdvice("i1", "writer"),
        HostAdvice("i2", "reader", lag_seconds=0.0125),
    ]
    domain = "abc.eu-west-1.rds.amazonaws.com"
    assert [m.key for m in report.members] == [HostKey(f"i{n}.{domain}", 5433) for n in (1, 2)]


@pytest.mark.parametrize(
    "rows", [[], [[]], [[b"", b"t", None]], [[None, b"t", None]], [[b"a", b"t"]], [[b"a", b"t", None]] * 65]
)
def test_rows_that_are_none(rows: Rows) -> None:
    with pytest.raises(Malformed):
        read_replicas(rows, OPTIONS, 5432)


@given(rows=st.lists(st.lists(st.none() | st.binary(max_size=8), max_size=4), max_size=5))
def test_any_rows_give_a_report_or_are_malformed(rows: Rows) -> None:
    with contextlib.suppress(Malformed):
        for member in read_replicas(rows, OPTIONS, 5432).members:
            assert member.name.isprintable()
            assert member.advice.lag_seconds is None or member.advice.lag_seconds >= 0


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("shop.cluster-abc.eu-west-1.rds.amazonaws.com", "{name}.abc.eu-west-1.rds.amazonaws.com"),
        ("shop.cluster-ro-abc.eu-west-1.rds.amazonaws.com", "{name}.abc.eu-west-1.rds.amazonaws.com"),
        ("shop.cluster-custom-abc.eu-west-1.rds.amazonaws.com", "{name}.abc.eu-west-1.rds.amazonaws.com"),
        ("x,shop.cluster-abc.cn-north-1.rds.amazonaws.com.cn", "{name}.abc.cn-north-1.rds.amazonaws.com.cn"),
    ],
)
def test_endpoint_of_a_cluster_tells_where_its_instances_are(host: str, hosts: str) -> None:
    assert check_discovery("aurora", parse_dsn(f"postgresql://{host}/x")) == AuroraDiscovery(hosts=hosts)


@pytest.mark.parametrize(
    "host", ["db1", "shop.cluster-custom.example.com", "i1.abc.eu-west-1.rds.amazonaws.com"]
)
def test_without_one_the_user_tells(host: str) -> None:
    with pytest.raises(ConfigError, match=r"invalid discovery.hosts .*the DSN has no endpoint of a cluster"):
        check_discovery("aurora", parse_dsn(f"host={host}"))
    assert check_discovery(OPTIONS, parse_dsn(f"host={host}")) is OPTIONS


@pytest.mark.parametrize(
    ("option", "value"), [("hosts", "db"), ("hosts", "{host}"), ("hosts", 5), ("interval", 0), ("timeout", 0)]
)
def test_option_that_is_none_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"invalid {option} "):
        AuroraDiscovery(**{option: value})  # type: ignore[arg-type]
