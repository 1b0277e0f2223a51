"""Options: every bad value is a ConfigError that names the parameter, the value and what is accepted."""

from __future__ import annotations

import enum
import math
import uuid
from typing import Any

import pytest

from pgroute.core.config.checks import check_name, check_number
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.settings import join_options, startup_options
from pgroute.errors import ConfigError

NAN, INF = math.nan, math.inf
NUMBERS = ["1", None, True, NAN, INF, -INF, 1.001e9, 1j, [1]]
WHOLE = ["1", None, True, 1.0, NAN, 10**400]

BAD: list[tuple[type, str, Any, str]] = [
    *((PoolOptions, "min_size", bad, "a whole number of at least 0") for bad in [*WHOLE, -1]),
    *((PoolOptions, "max_size", bad, "a whole number of at least 1") for bad in [*WHOLE, 0, 2**31]),
    *((PoolOptions, "max_waiting", bad, "a whole number of at least 0") for bad in [*WHOLE, -1]),
    *((PoolOptions, "max_idle", bad, "a number above 0") for bad in [*NUMBERS, 0, 0.0, -1]),
    *((PoolOptions, "max_lifetime", bad, "a number above 0") for bad in [*NUMBERS, 0, -0.5]),
    *((PoolOptions, "read_only", bad, "True, False or None") for bad in [0, 1, "on", []]),
    *((PoolOptions, "kwargs", bad, "a mapping or None") for bad in ["x=1", 5, [("a", 1)]]),
    (PoolOptions, "kwargs", {1: "x"}, "str keys"),
    *((PoolOptions, "settings", bad, "a mapping or None") for bad in ["x=1", 5]),
    (PoolOptions, "settings", {None: "x"}, "str keys"),
    *(
        (PoolOptions, "settings", {bad: "1"}, "as in SHOW")
        for bad in ["", "a b", "a=b", "a;b", "-c x", "_", "é", "1", "a."]
    ),
    (PoolOptions, "configure", 5, "a callable or None"),
    *((PoolOptions, "reset", value, "a callable, 'discard' or None") for value in (5, "DISCARD", "")),
    *((ProbeOptions, "interval", bad, "of at least 0.01") for bad in [*NUMBERS, 0, 0.009, -1]),
    *((ProbeOptions, "timeout", bad, "of at least 0.01") for bad in [*NUMBERS, 0, 0.009]),
    *(
        (ProbeOptions, "abort_after", bad, "of at least 0, at most 1e+09 or None")
        for bad in ["1", True, NAN, -1]
    ),
    *((ProbeOptions, "abort_stale", bad, "True or False") for bad in [None, 1, "on"]),
    *((ProbeOptions, "check_system_id", bad, "True or False") for bad in [None, 0, "off"]),
    *(
        (ProbeOptions, "system_id", bad, "a whole number of at least 1")
        for bad in ["7", 0, -1, True, 1.5, 2**64]
    ),
    *((ProbeOptions, "kwargs", bad, "a mapping or None") for bad in ["user=x", 5, [("user", "x")]]),
    (ProbeOptions, "kwargs", {1: "x"}, "str keys"),
    *((HostOptions, "weight", bad, "of at least 0") for bad in [*NUMBERS, -0.1]),
    *((HostOptions, "zone", bad, "a str") for bad in (None, 1, b"a", ["a"])),
]


@pytest.mark.parametrize(("options", "parameter", "value", "accepted"), BAD)
def test_bad_value(options, parameter, value, accepted):
    with pytest.raises(ConfigError) as caught:
        options(**{parameter: value})
    error = caught.value
    assert error.parameter == parameter
    assert accepted in error.accepted
    assert parameter in str(error)
    assert error.accepted in str(error)
    assert isinstance(error, ValueError)
    if not isinstance(value, (dict, list)) and parameter not in ("kwargs", "settings"):
        assert error.value is value
        assert repr(value) in str(error)


GOOD: list[Any] = [
    *((PoolOptions, "min_size", good) for good in (0, 1, 10)),
    *((PoolOptions, "max_size", good) for good in (1, 500, 2**31 - 1)),
    *((PoolOptions, "max_idle", good) for good in (0.001, 1)),
    (PoolOptions, "max_idle", 1e9),
    (PoolOptions, "max_lifetime", 1),
    (PoolOptions, "max_waiting", 0),
    *((PoolOptions, "read_only", good) for good in (None, True, False)),
    *((PoolOptions, "kwargs", good) for good in (None, {}, {"autocommit": True})),
    *((PoolOptions, "settings", good) for good in (None, {}, {"statement_timeout": "5s", "my.setting": 1})),
    *((PoolOptions, name, good) for name in ("configure", "reset") for good in (None, print)),
    (PoolOptions, "reset", "discard"),
    *((ProbeOptions, name, good) for name in ("interval", "timeout") for good in (0.01, 60)),
    *((ProbeOptions, "abort_after", good) for good in (None, 0, 3.5)),
    *((ProbeOptions, name, good) for name in ("abort_stale", "check_system_id") for good in (True, False)),
    *((ProbeOptions, "system_id", good) for good in (None, 1, 2**63, 2**64 - 1)),
    *((ProbeOptions, "kwargs", good) for good in (None, {}, {"user": "watch"})),
    *((HostOptions, "weight", good) for good in (0, 0.5, 100)),
]


@pytest.mark.parametrize(("options", "parameter", "value"), GOOD)
def test_good_value(options, parameter, value):
    assert getattr(options(**{parameter: value}), parameter) == value


def test_max_size_below_min_size_names_both():
    with pytest.raises(ConfigError, match="invalid max_size 4: expected at least min_size, which is 5"):
        PoolOptions(min_size=5, max_size=4)
    assert PoolOptions(min_size=5, max_size=5).max_size == 5


def test_pinned_identifier_that_is_not_looked_at_is_a_mistake():
    with pytest.raises(
        ConfigError, match="invalid system_id 7: expected None where check_system_id is False"
    ):
        ProbeOptions(system_id=7, check_system_id=False)
    assert ProbeOptions(system_id=7).system_id == 7


HUGE = 10**5000  # Python refuses to print its digits


@pytest.mark.parametrize("value", [HUGE, [HUGE], {"a": HUGE}], ids=["int", "list", "dict"])
@pytest.mark.parametrize("parameter", ["min_size", "max_size", "max_uses", "max_idle", "read_only", "reset"])
def test_a_number_that_cannot_be_shown_is_refused_with_its_parameter(parameter, value):
    with pytest.raises(ConfigError, match=f"invalid {parameter} .*{type(value).__name__}.*: expected "):
        PoolOptions(**{parameter: value})


def test_a_setting_that_cannot_be_shown_is_refused():
    with pytest.raises(ConfigError, match=r"invalid settings.*work_mem.*: expected "):
        PoolOptions(settings={"work_mem": HUGE})


def test_number_beyond_any_float():
    with pytest.raises(ConfigError, match="at most 1e\\+09"):
        check_number("x", 10**400)


@pytest.mark.parametrize("options", [PoolOptions, ProbeOptions])
def test_content_of_kwargs_is_never_shown(options):
    assert "hunter2" not in repr(options(kwargs={"password": "hunter2"}))
    with pytest.raises(ConfigError) as caught:
        options(kwargs=[("password", "hunter2")])
    assert "hunter2" not in str(caught.value) + repr(caught.value)
    assert str(caught.value) == "invalid kwargs 'list': expected a mapping or None"


def test_defaults_are_those_of_the_contract():
    pool, probe = PoolOptions(), ProbeOptions()
    assert (pool.min_size, pool.max_size, pool.read_only) == (1, 10, None)
    assert (probe.interval, probe.timeout, probe.abort_after, probe.abort_stale) == (1.0, 1.0, 10.0, False)
    assert (probe.check_system_id, probe.system_id) == (True, None)
    assert HostOptions().weight == 1.0


def test_options_are_keyword_only():
    for options in (PoolOptions, ProbeOptions, HostOptions):
        with pytest.raises(TypeError):
            options(1)  # type: ignore[call-arg]


def test_check_number_at_its_bound():
    check_number("x", 2, low=2)
    with pytest.raises(ConfigError, match="a number above 2"):
        check_number("x", 2, low=2, above=True)
    with pytest.raises(ConfigError):
        check_number("x", None)
    check_number("x", None, none=True)


@pytest.mark.parametrize(
    "value",
    [None, ["a", "b"], {"a": 1}, b"x", ("a",), "a\0b", "\ud800", math.nan, math.inf, {1}, 1j],
    ids=repr,
)
def test_a_setting_that_cannot_be_sent_is_refused(value):
    with pytest.raises(ConfigError, match="expected a str without NUL") as caught:
        PoolOptions(settings={"search_path": value})
    assert caught.value.parameter == "settings['search_path']"
    assert caught.value.value is value


def test_settings_that_no_startup_packet_holds_are_refused():
    with pytest.raises(ConfigError, match="at most 8000 bytes"):
        PoolOptions(settings={"pgroute.a": "x" * 4000, "pgroute.b": "x" * 4000})


class Name(str, enum.Enum):  # noqa: UP042  (its str() is not its value)
    APP = "app"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "on"),
        (False, "off"),
        (5, "5"),
        (2.5, "2.5"),
        ("", ""),
        (Name.APP, "app"),
        (" a\tb\r\n", "\\ a\\\tb\\\r\\\n"),
        ("a\\b\v\f", "a\\\\b\\\v\\\f"),
        ("it's", "it's"),
        ("ü€", "ü€"),
    ],
)
def test_settings_are_written_as_the_server_splits_them(value, text):
    assert startup_options({"a.b": value}) == f"-c a.b={text}"


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (None, "-c a=b"),
        ("", "-c a=b"),
        ("-c x=y", "-c x=y -c a=b"),
        ("-c x=\\\\", "-c x=\\\\ -c a=b"),
        ("-c x=y\\", "-c x=y -c a=b"),
    ],
)
def test_settings_follow_the_options_that_are_given(given, joined):
    assert join_options(given, "-c a=b") == joined


def test_settings_may_hold_secrets_and_are_not_shown():
    assert "hunter2" not in repr(PoolOptions(settings={"app.token": "hunter2"}))


class Token:
    """An object that shows a secret only as a text."""

    def __repr__(self) -> str:
        return "<Token>"

    def __str__(self) -> str:
        return "hunter2"


class Rude:
    """An object that has no text."""

    def __str__(self) -> str:
        raise TypeError

    def __repr__(self) -> str:
        return "<Rude>"


@pytest.mark.parametrize("value", [4711, uuid.UUID(int=1)])
def test_a_name_that_is_a_number_or_an_identifier_is_told_how_to_write_it(value):
    with pytest.raises(ConfigError, match=f"; a string, such as once='{value}'"):
        check_name("once", value)


@pytest.mark.parametrize(
    "value",
    [
        b"postgresql://app:hunter2@db1",
        {"password": "hunter2"},
        Token(),
        Rude(),
        False,
        None,
        HUGE,
        "postgresql://application:hunter2@" + "x" * 600,
        "app:hunter2@" + "x" * 600,
    ],
    ids=["bytes", "dict", "token", "rude", "bool", "none", "huge", "uri", "login"],
)
def test_no_other_name_is_repeated_as_an_example(value):
    with pytest.raises(ConfigError, match=r"invalid once .*: expected 1 to 512 bytes") as caught:
        check_name("once", value)
    assert "such as" not in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value)
