"""What a host is called, what a session asks for, and which of the two match."""

from __future__ import annotations

import pytest

from pgroute.core.model.roles import HostKey, HostRole, Role, SessionAttrs
from pgroute.errors import ConfigError
from tests.core.incomparable import INCOMPARABLE


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (HostKey("db", 5432), "db:5432"),
        (HostKey("::1", 5433), "[::1]:5433"),
        (HostKey("db", 5432, "10.0.0.1"), "db:5432 (10.0.0.1)"),
        (HostKey("10.0.0.1", 5432, "10.0.0.1"), "10.0.0.1:5432"),
        (HostKey("", 5432, "10.0.0.1"), "10.0.0.1:5432"),
        (HostKey("", 5432, "fe80::1"), "[fe80::1]:5432"),
        (HostKey("/tmp", 5432), "/tmp:5432"),
    ],
)
def test_host_key_as_text(key, text):
    assert str(key) == text


@pytest.mark.parametrize(
    ("key", "is_socket"),
    [
        (HostKey("/tmp", 5432), True),
        (HostKey("@abstract", 5432), True),
        (HostKey("db", 5432), False),
        (HostKey("", 5432, "10.0.0.1"), False),
        (HostKey("/tmp", 5432, "10.0.0.1"), False),
    ],
)
def test_socket_directories(key, is_socket):
    assert key.is_socket is is_socket


def test_role_by_name():
    assert Role.parse("writer") is Role.WRITER
    assert Role.parse("reader") is Role.READER
    assert Role.parse(Role.READER) is Role.READER


@pytest.mark.parametrize("bad", ["Writer", "", None, 1, ["writer"]])
def test_unknown_role(bad):
    with pytest.raises(ConfigError, match=r"invalid kind .*expected 'writer' or 'reader'") as caught:
        Role.parse(bad, "kind")
    assert caught.value.value is bad
    with pytest.raises(ConfigError, match="invalid role "):
        Role.parse(bad)


@pytest.mark.parametrize("attrs", SessionAttrs)
def test_session_attributes_by_exact_value(attrs):
    assert SessionAttrs.parse(attrs.value) is attrs
    assert SessionAttrs.parse(attrs) is attrs


@pytest.mark.parametrize("bad", ["Primary", "prefer-primary", "read_write", "", " any", None, 1])
def test_unknown_session_attributes(bad):
    with pytest.raises(ConfigError) as caught:
        SessionAttrs.parse(bad)
    assert caught.value.parameter == "target_session_attrs"
    assert caught.value.value is bad
    for attrs in SessionAttrs:
        assert repr(attrs.value) in str(caught.value)
    with pytest.raises(ConfigError, match="reader_attrs"):
        SessionAttrs.parse(bad, "reader_attrs")


# (value, writable primary, read-only primary, standby, its pool): the design's table.
TABLE = [
    ("any", True, True, True, Role.WRITER),
    ("read-write", True, False, False, Role.WRITER),
    ("primary", True, True, False, Role.WRITER),
    ("read-only", False, True, True, Role.READER),
    ("standby", False, False, True, Role.READER),
    ("prefer-standby", True, True, True, Role.READER),
]


@pytest.mark.parametrize(("value", "primary", "read_only_primary", "standby", "pool"), TABLE)
def test_which_host_serves_which_session(value, primary, read_only_primary, standby, pool):
    attrs = SessionAttrs.parse(value)
    assert attrs.accepts(HostRole.PRIMARY, read_only=False) is primary
    assert attrs.accepts(HostRole.PRIMARY, read_only=True) is read_only_primary
    assert attrs.accepts(HostRole.STANDBY, read_only=False) is standby
    assert attrs.accepts(HostRole.STANDBY, read_only=True) is standby
    assert attrs.pool is pool


def test_table_has_every_value():
    assert [row[0] for row in TABLE] == [attrs.value for attrs in SessionAttrs]


def test_a_role_is_hashed_without_a_call_in_which_another_thread_may_run() -> None:
    """Counts by role are added to without a lock (`Meter.waiting`)."""
    assert Role.__hash__ is object.__hash__


@pytest.mark.parametrize("value", [INCOMPARABLE, ["writer", "reader"], "Writer", 5])
def test_what_is_no_role_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"invalid role .*: expected 'writer' or 'reader'"):
        Role.parse(value)
