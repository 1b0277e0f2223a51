"""What kinds of transactions can be asked for."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.transactions.request import Request, Requests
from pgroute.errors import ConfigError


def request(role: Any = "writer", *, enforced: bool = True, **given: Any) -> Request:
    return Requests(reader_attrs=SessionAttrs.PREFER_STANDBY, reader_read_only=enforced)(role, **given)


def test_what_a_request_stands_for_is_remembered() -> None:
    requests = Requests(reader_attrs=SessionAttrs.PREFER_STANDBY, reader_read_only=True)
    assert requests("writer") is requests("writer")
    assert requests("writer", decidable=True) is not requests("writer")
    assert requests("writer", read_only=True) != requests("writer")
    assert requests("reader").attrs is SessionAttrs.PREFER_STANDBY
    with pytest.raises(ConfigError, match="timeout"):
        requests("writer", timeout="soon")


def test_a_role_decides_on_hosts_and_pools() -> None:
    assert (request().attrs, request().role) == (SessionAttrs.READ_WRITE, Role.WRITER)
    assert (request("reader").attrs, request("reader").role) == (SessionAttrs.PREFER_STANDBY, Role.READER)


@pytest.mark.parametrize(
    ("given", "level"),
    [
        (None, None),
        ("serializable", psycopg.IsolationLevel.SERIALIZABLE),
        ("Repeatable Read", psycopg.IsolationLevel.REPEATABLE_READ),
        ("READ_COMMITTED", psycopg.IsolationLevel.READ_COMMITTED),
        ("read uncommitted", psycopg.IsolationLevel.READ_UNCOMMITTED),
        (psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.SERIALIZABLE),
    ],
)
def test_isolation_levels_go_by_their_names(given: Any, level: psycopg.IsolationLevel | None) -> None:
    assert request(isolation=given).isolation is level


def test_what_equals_a_good_value_is_not_taken_for_one() -> None:
    assert request(read_only=True).read_only is True
    with pytest.raises(ConfigError, match="invalid read_only 1:"):
        request(read_only=1)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"role": "primary"}, "role"),
        ({"isolation": "snapshot"}, "isolation"),
        ({"isolation": 7}, "isolation"),
        ({"isolation": True}, "isolation"),
        ({"isolation": ["serializable"]}, "isolation"),
        ({"role": ["writer"]}, "role"),
        ({"read_only": 1}, "read_only"),
        ({"deferrable": "yes"}, "deferrable"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"role": "reader", "read_only": False}, "read_only"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"invalid {named} "):
        request(**given)


def test_a_reader_may_write_where_its_pool_lets_it() -> None:
    assert request("reader", enforced=False, read_only=False).read_only is False


@pytest.mark.parametrize(
    ("given", "read_write"),
    [({}, True), ({"read_only": False}, True), ({"read_only": True}, False), ({"role": "reader"}, False)],
)
def test_a_refusal_to_write_says_something_of_the_host_only_where_writing_was_asked_for(
    given: dict[str, Any], read_write: bool
) -> None:
    assert request(**given).read_write is read_write
