"""Whatever comes in, nothing but our errors comes out, no secret, and not late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import entries
from tests.support import of_a_core

TEXT = st.text() | st.text(st.sampled_from(" \t\n\\'\"=,;:@/?&%[]#.*_-0a\0\x1b\u202eé\ud800"), max_size=40)
NAMES = st.from_regex(r"([a-z0-9_-]{1,8}\.){0,4}[a-z0-9_.-]{0,12}", fullmatch=True) | TEXT
TARGETS = st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535), NAMES)
BIG = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.none() | st.floats()
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary()
    | st.sampled_from([int, print, "."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "standby": st.booleans(),
        "read_only": st.booleans(),
        "timeline": st.none() | st.integers(1, 3) | BIG,
        "lsn": st.none() | BIG,
        "system_id": st.none() | st.integers(1, 2) | BIG,
        "started_at": FLOATS,
        "address": st.sampled_from([None, "10.0.0.1", "::1"]),
        "rtt": st.floats(0, 10),
        "fresh": st.booleans(),
        "server_version": st.integers(0, 999999),
    },
)
CELLS = (
    st.none()
    | st.binary()
    | st.sampled_from([b"t", b"f", b"on", b"off", b"0/0", b"1", b"0" * 24, b"nan", b"-1"])
)
ENTRIES: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]]]] = {
    "dsn": (entries.dsn, {"text": TEXT}),
    "error_text": (entries.error_text, {"text": TEXT}),
    "records": (
        entries.records,
        {
            "services": st.lists(TARGETS, max_size=70),
            "addresses": st.lists(st.ip_addresses().map(str), max_size=70),
            "error": TEXT,
            "domains": st.lists(NAMES, max_size=3),
        },
    ),
    "answers": (entries.answers, {"told": st.lists(ANSWERS, min_size=1, max_size=6), "error": TEXT}),
    "rows": (entries.rows, {"values": st.lists(CELLS, max_size=10)}),
    "option": (entries.option, {"value": VALUES}),
    "setting": (entries.setting, {"name": NAMES, "value": VALUES}),
    "key": (entries.key, {"value": VALUES}),
}


def work_through(name: str, **how: Any) -> None:
    check, strategies = ENTRIES[name]

    # A function of its own: hypothesis marks it.
    def example(**values: Any) -> None:
        check(**values)

    settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **how)(
        given(**strategies)(example)
    )()


@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_comes_of_any_input_but_our_errors(name: str) -> None:
    work_through(name, max_examples=30, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_comes_of_many_inputs_but_our_errors(name: str) -> None:
    work_through(name, max_examples=5000)


LENGTH = 50_000
PIECES = (
    "a",
    "a,",
    ",",
    "a.",
    "a=b ",
    "'",
    "\\",
    "%41",
    "@",
    "\x1b",
    "é",
    ":  ",
    "failed: ",
    "\u2018",
    "key =",
)
HOSTS = ("a,", ",", "\\", "'", "@")
LARGE: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "dsn": (entries.dsn, PIECES),
    "hosts": (lambda text: entries.dsn(f"postgresql://{text}/db"), HOSTS),
    "host list": (lambda text: entries.dsn(f"host={text}"), HOSTS),
    "error text": (entries.error_text, PIECES),
    "targets": (lambda text: entries.records([(0, 0, 1, text)], ["::1"], text, [text]), PIECES),
    "cells": (lambda text: entries.rows([text.encode()] * 9), PIECES),
    "setting": (lambda text: entries.setting("search_path", text), PIECES),
    "name of a setting": (lambda text: entries.setting(text, 1), PIECES),
    "key": (entries.key, PIECES),
}


@pytest.mark.parametrize(
    "name",
    LARGE,
)
def test_fifty_kilobytes_take_no_time(name: str) -> None:
    check, pieces = LARGE[name]
    for piece in pieces:
        text = (piece * (LENGTH // len(piece) + 1))[:LENGTH]
        begun = time.thread_time()
        check(text)
        took = time.thread_time() - begun
        assert took < of_a_core(1.0), f"{took:.2f} s for {piece!r}"
