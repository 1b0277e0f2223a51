"""Which hosts an operator means."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute import ConfigError
from pgroute.core.config.host_names import find_hosts
from pgroute.core.model.roles import HostKey

DB1 = HostKey("db1", 5432)
OTHER_PORT = HostKey("db1", 5433)
MOVED = HostKey("db2", 5432, "10.0.0.2")
V6 = HostKey("::1", 5432)
SOCKET = HostKey("/run/postgresql", 5432)
BARE = HostKey("", 5432, "10.0.0.9")
ALL = (DB1, OTHER_PORT, MOVED, V6, SOCKET, BARE)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        (DB1, {DB1}),
        ("db1:5432", {DB1}),
        ("db1", {DB1, OTHER_PORT}),
        (MOVED, {MOVED}),
        ("db2", {MOVED}),
        ("db2:5432", {MOVED}),
        ("10.0.0.2", {MOVED}),
        (str(MOVED), {MOVED}),
        ("::1", {V6}),
        ("[::1]:5432", {V6}),
        ("/run/postgresql", {SOCKET}),
        ("10.0.0.9", {BARE}),
        (str(BARE), {BARE}),
    ],
)
def test_a_host_is_named_as_in_host_options(host: Any, found: set[HostKey]) -> None:
    assert find_hosts(host, ALL) == found


@pytest.mark.parametrize(
    "host",
    [
        "",
        "db3",
        "db1:5434",
        HostKey("db2", 5432),
        HostKey("db1", 1),
        None,
        5432,
        ("db1", 5432),
        b"db1",
        ["db1"],
        HostKey(["db1"], 5432),  # type: ignore[arg-type]
    ],
)
def test_an_unknown_host_is_refused_with_the_list(host: Any) -> None:
    with pytest.raises(ConfigError, match=r"db1:5432, db1:5433, db2:5432 \(10\.0\.0\.2\)") as caught:
        find_hosts(host, ALL)
    assert (caught.value.parameter, caught.value.value) == ("host", host)
