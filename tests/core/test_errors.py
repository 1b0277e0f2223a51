"""The exception tree: what each one is, says and carries, also between processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg_pool
import pytest

from pgroute import errors
from pgroute.errors import (
    AcquireTimeout,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolExhausted,
    RouteError,
    RouterClosed,
    SessionLost,
    SplitBrainError,
)
from tests.core.world import World

TREE = {
    ConfigError: (psycopg.ProgrammingError, ValueError),
    RouteError: (psycopg.OperationalError,),
    AcquireTimeout: (RouteError, psycopg_pool.PoolTimeout),
    NoHostAvailable: (AcquireTimeout,),
    PoolExhausted: (AcquireTimeout,),
    SplitBrainError: (AcquireTimeout,),
    SessionLost: (RouteError,),
    CommitUnknown: (RouteError,),
    RouterClosed: (RouteError, psycopg_pool.PoolClosed),
}
ROUTE_ERRORS = [cls for cls in TREE if issubclass(cls, RouteError)]


def pickled(error: Exception) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301  # our own


@pytest.mark.parametrize("cls", TREE)
def test_bases(cls):
    assert cls.__bases__ == TREE[cls]


def test_docstring_draws_the_whole_tree():
    assert errors.__doc__ is not None
    for cls in TREE:
        assert cls.__name__ in errors.__doc__


class Rude:
    def __repr__(self) -> str:
        raise TypeError("hunter2")


@pytest.mark.parametrize(
    "value", [10**5000, Rude(), [10**5000, "password=hunter2"]], ids=["int", "object", "list"]
)
def test_a_value_that_cannot_be_shown_is_told_by_its_type(value):
    error = ConfigError("max_size", value, "expected less")
    text = f"<{type(value).__name__} that cannot be shown>"
    assert str(error) == f"invalid max_size {text!r}: expected less"
    assert text in repr(error)
    assert str(pickled(error)) == str(error)


@pytest.mark.parametrize("cls", ROUTE_ERRORS)
def test_plain_error_promises_nothing(cls):
    error = cls("what happened")
    assert str(error) == "what happened"
    assert error.topology is None
    assert error.rerun_safe is False
    assert error.may_have_committed is (cls is CommitUnknown)


def test_attributes_are_what_was_given():
    topology = World().settled().topology
    error = SessionLost("gone", topology=topology, rerun_safe=True, may_have_committed=True)
    assert error.topology is topology
    assert error.rerun_safe
    assert error.may_have_committed
    assert CommitUnknown("gone", topology=topology).topology is topology


@pytest.mark.parametrize("cls", ROUTE_ERRORS)
@pytest.mark.parametrize("way", [pickled, copy.copy])
def test_error_reaches_another_process(cls, way):
    error = cls("what happened", topology=World().settled().topology)
    error.rerun_safe = True
    error.add_note("a note")
    other = way(error)
    assert type(other) is cls
    assert str(other) == "what happened"
    assert other.rerun_safe
    assert other.may_have_committed == error.may_have_committed
    assert other.__notes__ == ["a note"]
    assert other.topology is None
    assert error.topology is not None


def test_config_error_names_parameter_value_and_what_is_accepted():
    error = ConfigError("port", "abc", "expected a number")
    assert str(error) == "invalid port 'abc': expected a number"
    assert (error.parameter, error.value, error.accepted) == ("port", "abc", "expected a number")
    other = pickled(error)
    assert str(other) == str(error)


def test_config_error_keeps_a_secret():
    error = ConfigError("password", "hunter2", "expected another", secret=True)
    assert str(error) == "invalid password '***': expected another"
    for text in (repr(error), repr(error.args), repr(vars(error)), repr(pickle.dumps(error))):
        assert "hunter2" not in text


@pytest.mark.parametrize(
    ("value", "accepted", "shown"),
    [
        ("a", "the router has no such parameter", "the router has no such parameter"),
        ("a", "every word of a keyword string needs '='", "every word of a keyword string needs '='"),
        ("'", "a word needs '='", "a word needs '='"),
        ("s3cr", "not a 's3cr', or s3cr", "not a '***', or ***"),
        ("s3cret!", "service s3cret! is unknown", "service *** is unknown"),
        ("s3cret", "in xs3cret and s3crets, as s3cret", "in xs3cret and s3crets, as ***"),
        ("!!!!", "a!!!!b", "a***b"),
    ],
)
def test_a_secret_is_hidden_in_what_is_accepted_and_words_stay_whole(value, accepted, shown):
    error = ConfigError("zones", value, accepted, secret=True)
    assert str(error) == f"invalid zones '***': {shown}"


LOGIN = "app:hunter2@db1/shop"
DSN = f"postgresql://{LOGIN}"


class Shown:
    """An object that shows a DSN, as those of pydantic do."""

    def __repr__(self) -> str:
        return f"Shown({DSN!r})"


@pytest.mark.parametrize(
    "value",
    [
        DSN,
        DSN.encode(),
        bytearray(DSN.encode()),
        {DSN},
        frozenset({DSN}),
        {"dsn": DSN}.values(),
        [DSN],
        urlsplit(DSN),
        SimpleNamespace(password="hunter2"),
        ValueError(DSN),
        Shown(),
        Path(DSN),
        LOGIN,
        f"/srv/postgresql:/{LOGIN}",
        "app@tenant:hunter2@db1",
        "u:it's@db1",
        "app:/hunter2@db1",
        "app:\\hunter2@db1",
        "12:hunter2@db1",
        [LOGIN],
    ],
    ids=repr,
)
def test_a_password_is_found_in_what_any_object_shows(value: object) -> None:
    error = ConfigError("zone", value, "expected another")
    assert str(error) == "invalid zone '***': expected another"
    assert "hunter2" not in repr(error) + repr(vars(error))


@pytest.mark.parametrize(
    "value",
    [
        "connection to server at host:5432 failed",
        "app@db1:5432",
        "postgresql://app@db1:5432/shop",
        "postgresql:///shop",
        "12:30@noon",
        "12:30:15@noon",
        "[fe80::1%eth0]:5432",
        "::1",
        "eu-1:a",
        "C:\\Users\\me@corp\\pgroute.toml",
        "C:/Users/me@corp/pgroute.toml",
        "@abstract",
        "me@example.com: no such user",
        ["me@example.com", "db1:5432"],
        {"db1:5432": "me@example.com"},
        5432,
        12.5,
        object,
        print,
    ],
    ids=repr,
)
def test_an_ordinary_value_is_shown(value: object) -> None:
    error = ConfigError("zone", value, "expected another")
    assert str(error) == f"invalid zone {value!r}: expected another"


@pytest.mark.parametrize("parameter", [DSN, LOGIN, f"host_options[{DSN!r}]", "password=hunter2"])
def test_a_password_in_the_place_of_a_name_is_not_shown(parameter: str) -> None:
    error = ConfigError(parameter, 5, "expected another")
    assert str(error) == "invalid *** 5: expected another"
    assert "hunter2" not in repr(error) + repr(vars(error))


def test_what_is_accepted_does_not_repeat_an_object_that_is_hidden() -> None:
    error = ConfigError("once", DSN.encode(), f"a string, not {DSN.encode()!r}")
    assert str(error) == "invalid once '***': a string, not ***"
