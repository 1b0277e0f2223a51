"""Keys and results of transactions that are applied once."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, strategies

from pgroute.core.transactions.once_keys import (
    UNBOUNDED_AGE,
    as_json,
    check_age,
    check_key,
    from_json,
    kept_as_it_is,
    lock_timeout,
    once_statements,
)
from pgroute.errors import ConfigError


@pytest.mark.parametrize("key", ["a", "x" * 512, "ü" * 256, "order 7/2"])
def test_a_key_has_up_to_512_bytes(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 513, "ü" * 257, "a\0b", "\ud800", 7, b"key", ["a"]])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigError, match=r"invalid once .*1 to 512 bytes") as caught:
        check_key(key)
    assert len(str(caught.value)) < 300


def test_true_makes_a_fresh_key_and_none_makes_none() -> None:
    first, second = check_key(True), check_key(True)
    assert first
    assert second
    assert first != second
    assert check_key(None) is None
    assert check_key(False) is None


@given(
    strategies.recursive(
        strategies.none()
        | strategies.booleans()
        | strategies.integers()
        | strategies.floats(allow_nan=False, allow_infinity=False)
        | strategies.text(),
        lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    )
)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert from_json(as_json(value, "k")) == value


@pytest.mark.parametrize("escape", [True, False])
def test_text_is_escaped_unless_the_database_would_not_convert_it(escape: bool) -> None:
    assert as_json("ü", "k", escape=escape) == ('"\\u00fc"' if escape else '"ü"')
    assert as_json(None, "k", escape=escape) == "null"


@pytest.mark.parametrize("result", [None, True, 0, -(2**80), "", "a'b\\\n"])
def test_what_is_stored_as_it_is_need_not_be_read_again(result: Any) -> None:
    assert kept_as_it_is(result)
    assert from_json(as_json(result, "k")) == result


@pytest.mark.parametrize("result", [1.5, [], {}, (), "ü", HTTPStatus.OK])
def test_what_may_be_stored_in_another_form_is_read_again(result: Any) -> None:
    assert not kept_as_it_is(result)


def test_statements_name_the_table_of_their_schema() -> None:
    statements = once_statements(b'"my shop"')
    for name in ("claim", "rewrite", "keep", "keep_and_tell"):
        text: bytes = getattr(statements, name)
        assert b'"my shop".once' in text
        assert b"%(schema)s" not in text


def test_json_is_told_and_read_as_python_writes_it() -> None:
    text = as_json({"id": 7, "name": "ü", "paid": [None, True, 1.5]}, "k", escape=True)
    assert text == '{"id": 7, "name": "\\u00fc", "paid": [null, true, 1.5]}'
    assert from_json(text) == {"id": 7, "name": "ü", "paid": [None, True, 1.5]}
    assert as_json("ü", "k", escape=False) == '"ü"'


def loop() -> list[Any]:
    knot: list[Any] = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    "result", [object(), {1, 2}, b"bytes", float("nan"), float("inf"), {(1, 2): 3}, loop()]
)
def test_what_is_no_json_is_a_type_error_that_names_the_key(result: Any) -> None:
    with pytest.raises(TypeError, match=r"once='k'.*nothing was committed"):
        as_json(result, "k")


@pytest.mark.parametrize(
    ("seconds", "setting"),
    [(0.0, "1ms"), (0.0001, "1ms"), (1.5, "1500ms"), (30, "30000ms"), (1e9, "2147483647ms")],
)
def test_a_lock_timeout_is_never_0_which_would_be_for_ever(seconds: float, setting: str) -> None:
    assert lock_timeout(seconds) == setting


@pytest.mark.parametrize(
    ("older_than", "limit", "seconds"),
    [(30, 30.0, 30.0), (timedelta(minutes=1), 30.0, 60.0), (UNBOUNDED_AGE, None, UNBOUNDED_AGE)],
)
def test_keys_may_be_forgotten_when_no_call_can_be_trying_with_them(
    older_than: Any, limit: float | None, seconds: float
) -> None:
    assert check_age(older_than, limit) == seconds


@pytest.mark.parametrize(
    ("older_than", "limit"),
    [(29.9, 30.0), (timedelta(seconds=1), 30.0), (3600, None), (-1, 0.0), ("1 day", 30.0), (None, 30.0)],
)
def test_younger_keys_are_kept(older_than: Any, limit: float | None) -> None:
    with pytest.raises(ConfigError, match="invalid older_than"):
        check_age(older_than, limit)
