"""Positions as values: their text, their order, and what is no position."""

from __future__ import annotations

import contextlib
import copy
import pickle
import urllib.parse
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute import ConfigError, Position
from pgroute.core.model.position import parse_position
from tests.core.incomparable import INCOMPARABLE

SYSTEM_IDS = st.integers(-(2**63), 2**63 - 1)
TIMELINES = st.integers(1, 2**31 - 1)
LSNS = st.integers(0, 2**64 - 1)
POSITIONS = st.builds(Position, SYSTEM_IDS, TIMELINES, LSNS)
OURS = st.builds(Position, st.just(7), TIMELINES, LSNS)


@given(POSITIONS)
def test_text_is_read_back_and_is_short_and_needs_no_quotes(position):
    text = str(position)
    assert Position.parse(text) == position
    assert len(text) <= 44
    assert urllib.parse.quote(text, safe="") == text
    cookie = SimpleCookie()
    cookie["after"] = text
    assert cookie["after"].coded_value == text
    assert text.isascii()
    assert text == text.strip().lower()


@given(POSITIONS, POSITIONS)
def test_each_position_has_one_text(a, b):
    assert (str(a) == str(b)) == (a == b)


@given(POSITIONS)
def test_position_survives_pickle_and_copy(position):
    assert pickle.loads(pickle.dumps(position)) == position  # noqa: S301  (our own)
    assert copy.deepcopy(position) == position
    assert hash(copy.copy(position)) == hash(position)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("7-1-3000148", Position(7, 1, 0x3000148)),
        ("0-2147483647-0", Position(0, 2**31 - 1, 0)),
        ("ffffffffffffffff-2-ffffffffffffffff", Position(-1, 2, 2**64 - 1)),
        ("8000000000000000-1-1", Position(-(2**63), 1, 1)),
        ("7fffffffffffffff-1-1", Position(2**63 - 1, 1, 1)),
    ],
)
def test_text_is_the_identifier_the_timeline_and_the_place_in_the_log(text, position):
    assert Position.parse(text) == position
    assert str(position) == text
    assert parse_position(position, "after") is position


@pytest.mark.parametrize("value", ["1-1-1", 5, INCOMPARABLE])
def test_what_is_no_position_is_not_compared_with_one(value):
    for pair in ((Position(1, 1, 1), value), (value, Position(1, 1, 1)), (None, value), (value, None)):
        with pytest.raises(ConfigError, match=r"invalid position .*: expected a pgroute.Position or None"):
            Position.later(*pair)


def test_any_position_is_later_than_none():
    position = Position(7, 1, 5)
    assert Position.later(None, position) is Position.later(position, None) is position
    assert Position.later(None, None) is None


@given(OURS, OURS, OURS)
def test_later_is_the_greatest_in_any_order(a, b, c):
    later = Position.later
    assert later(a, b) == later(b, a)
    assert later(a, later(b, c)) == later(later(a, b), c)
    assert later(a, b) in (a, b)
    assert later(a, a) == a
    assert later(a, None) == later(None, a) == a
    assert later(None, None) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [((7, 1, 900), (7, 2, 5)), ((7, 1, 5), (7, 1, 6)), ((7, 9, 5), (7, 10, 5)), ((7, 1, 0), (7, 1, 1))],
)
def test_timeline_counts_before_lsn(a, b):
    assert Position.later(Position(*a), Position(*b)) == Position(*b)


def test_positions_of_two_clusters_have_no_order():
    with pytest.raises(ConfigError, match="cluster"):
        Position.later(Position(1, 1, 1), Position(2, 1, 1))


@given(st.text(max_size=60) | st.text("0123456789abcdef-", max_size=60))
def test_whatever_the_text_is_it_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert str(Position.parse(text)) == text, "there is one text only"


GARBLED: list[Any] = [
    "", " ", "-", "--", "1-1", "1-1-", "-1-1", "1--1", "1-0-1", "1-1-1-1", "01-1-1", "1-01-1", "1-1-01", "1-1-1 ",
    " 1-1-1", "1-1-1\n", "A-1-1", "0x1-1-1", "1-a-1", "1-1-1/2", "+1-1-1", "1-2147483648-1", "1-9999999999-1",
    "1-99999999999-1", "10000000000000000-1-1", "1-1-10000000000000000", "\u0661-1-1", "1-1-\uff11", "1-1-1\0",
    "1" * 100_000, None, 1, 1.5, b"1-1-1", ["1-1-1"], (1, 1, 1), object(), True,
]  # fmt: skip


@pytest.mark.parametrize("text", GARBLED, ids=lambda text: repr(text)[:20])
def test_garbled_text_is_refused_and_named(text):
    with pytest.raises(ConfigError, match="position") as caught:
        Position.parse(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("system_id", 2**63),
        ("system_id", -(2**63) - 1),
        ("system_id", "7"),
        ("system_id", None),
        ("timeline", 0),
        ("timeline", -1),
        ("timeline", 2**31),
        ("timeline", 1.0),
        ("timeline", True),
        ("lsn", -1),
        ("lsn", 2**64),
        ("lsn", "0/3000148"),
    ],
)
def test_value_out_of_range_is_refused_and_named(name, value):
    values: dict[str, Any] = {"system_id": 7, "timeline": 1, "lsn": 5, name: value}
    with pytest.raises(ConfigError, match=name):
        Position(**values)


def test_repr_shows_the_values_and_the_value_is_frozen():
    position: Any = Position(7, 1, 5)
    assert repr(position) == "Position(system_id=7, timeline=1, lsn=5)"
    with pytest.raises(AttributeError):
        position.lsn = 6
    with pytest.raises((AttributeError, TypeError)):
        position.more = 6
