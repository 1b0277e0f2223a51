"""What a server answers is read strictly: what it means, or Malformed, whatever the bytes are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.roles import HostRole
from pgroute.core.sql.answers import Malformed, read_check, read_probe, read_shown

PRIMARY = [b"f", b"on", b"0000000A0000000100000002", None, b"1/2", b"7", b"1500000", b"0:1:x=on"]
STANDBY = [b"t", b"off", None, b"3", b"FFFFFFFF/FFFFFFFF", None, None, None]


def test_answer_of_a_primary():
    told = read_probe(PRIMARY)
    assert (told.role, told.read_only, told.timeline, told.lsn) == (HostRole.PRIMARY, True, 10, 2**32 + 2)
    assert (told.system_id, told.started_at) == (7, 1.5)
    assert told.defaults == b"0:1:x=on"


def test_answer_of_a_standby_that_tells_little():
    told = read_probe(STANDBY)
    assert (told.role, told.read_only, told.timeline, told.lsn) == (HostRole.STANDBY, False, 3, 2**64 - 1)
    assert (told.system_id, told.started_at) == (None, None)
    assert told.defaults == b""


def test_smallest_answers():
    assert read_shown([b"on"]) is HostRole.STANDBY
    assert read_shown([b"off"]) is HostRole.PRIMARY
    assert read_check([b"f", b"7", b"0000000A0000000100000002"]) == (HostRole.PRIMARY, 7, 10)
    assert read_check([b"t", None, None]) == (HostRole.STANDBY, None, None)


@pytest.mark.parametrize("read", [read_probe, read_shown, read_check])
def test_another_number_of_columns_is_malformed(read):
    for count in (0, 2, 7, 9, 1600):
        with pytest.raises(Malformed, match="columns"):
            read([b"t"] * count)


@pytest.mark.parametrize("read", [read_probe, read_shown, read_check])
def test_a_role_that_is_not_told_is_malformed(read):
    for value in (None, b"", b"true", b"T", b"\xff"):
        with pytest.raises(Malformed):
            read([value, *PRIMARY[1:]][: {read_probe: 8, read_shown: 1, read_check: 3}[read]])


PIECES = [
    b"t",
    b"f",
    b"on",
    b"off",
    b"NaN",
    b"-1",
    b"1e9",
    b"0" * 24,
    b"1" * 24,
    b"9" * 19,
    b"/",
    b"1/1",
    b"\xd9\xa1",
]
joined = st.lists(st.sampled_from(PIECES)).map(b"".join)
values = st.one_of(st.none(), st.binary(max_size=30), st.sampled_from(PIECES), joined)
rows = st.one_of(st.lists(values, max_size=12), st.tuples(st.just(b"f"), st.just(b"on"), *[values] * 6))


@given(rows)
def test_whatever_the_bytes_are_they_are_read_or_malformed(row):
    for read in (read_probe, read_shown, read_check):
        with contextlib.suppress(Malformed):
            read(row)
    try:
        told = read_probe(row)
    except Malformed as exc:
        wrong = str(exc)
    else:
        wrong = ""
        assert told.timeline is None or 1 <= told.timeline < 2**32
        assert told.started_at is None or 0 <= told.started_at < 1e12
        assert told.lsn is None or 0 <= told.lsn < 2**64
    assert wrong.isascii()
    assert len(wrong) < 100


@pytest.mark.parametrize("piece", PIECES)
def test_long_values_are_told_at_once_from_what_they_should_be(piece):
    long = (piece * 100_000)[:100_000]
    for place in range(7):
        row = list(STANDBY if place == 3 else PRIMARY)
        row[place] = long
        with pytest.raises(Malformed):
            read_probe(row)
