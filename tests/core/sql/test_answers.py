"""What a server answers is read strictly: what it means, or Malformed, whatever the bytes are."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.roles import HostRole
from pgroute.core.sql.answers import Malformed, read_check, read_probe, read_progress, read_shown

WAL_FILE = b"0000000A0000000100000002"
PRIMARY = [b"f", b"on", WAL_FILE, None, b"1/2", b"1/1", b"0/5", b"200ms", b"7", b"1500000", b"0:1:x=on"]
STANDBY = [b"t", b"off", None, b"3", None, None, b"FFFFFFFF/FFFFFFFF", None, None, None, None]
READERS = (read_probe, read_shown, read_check, read_progress)


def test_answer_of_a_primary():
    told = read_probe(PRIMARY)
    assert (told.role, told.read_only, told.timeline, told.lsn) == (HostRole.PRIMARY, True, 10, 2**32 + 2)
    assert (told.flushed, told.replayed, told.writer_delay) == (2**32 + 1, 5, 0.2)
    assert (told.system_id, told.started_at) == (7, 1.5)
    assert told.defaults == b"0:1:x=on"


def test_answer_of_a_standby_that_tells_little():
    told = read_probe(STANDBY)
    assert (told.role, told.read_only, told.timeline, told.lsn) == (HostRole.STANDBY, False, 3, 2**64 - 1)
    assert (told.flushed, told.replayed, told.writer_delay) == (None, None, 0.0)
    assert (told.system_id, told.started_at) == (None, None)
    assert told.defaults == b""
    assert read_probe([*PRIMARY[:4], None, *PRIMARY[5:]]).lsn is None


def test_smallest_answers():
    assert read_shown([b"on"]) is HostRole.STANDBY
    assert read_shown([b"off"]) is HostRole.PRIMARY
    assert read_check([b"f", b"7", b"0000000A0000000100000002", b"100"]) == (HostRole.PRIMARY, 7, 10, 100)
    assert read_check([b"t", None, None, None]) == (HostRole.STANDBY, None, None, None)
    assert read_progress([b"f", None, b"0/5", WAL_FILE]) == (HostRole.PRIMARY, 10, 5)
    assert read_progress([b"t", b"3", b"0/18", None]) == (HostRole.STANDBY, 3, 24)


@pytest.mark.parametrize(
    ("inserted", "lsn"),
    [
        (b"0/2000028", 0x2000000),
        (b"0/2000018", 0x2000000),
        (b"0/2002018", 0x2002000),
        (b"0/2000030", 0x2000030),
    ],
)
def test_nothing_is_inserted_in_the_header_of_a_page(inserted, lsn):
    row = [*PRIMARY[:4], inserted, *PRIMARY[5:]]
    assert read_probe(row).lsn == lsn
    assert read_progress([b"f", None, inserted, WAL_FILE])[2] == lsn


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [(b"200ms", 0.2), (b"10s", 10.0), (b"1min", 60.0), (b"0", 0.0), (b"10us", 1e-5), (b"2h", 7200.0)],
)
def test_duration_is_read_in_its_unit(shown, seconds):
    assert read_probe([*PRIMARY[:7], shown, *PRIMARY[8:]]).writer_delay == pytest.approx(seconds)


@pytest.mark.parametrize("shown", [b"", b"ms", b"-1ms", b"1.5s", b"1 s", b"200ms ", b"1e3ms", b"9" * 40])
def test_duration_that_is_none_is_malformed(shown):
    with pytest.raises(Malformed, match="wal_writer_delay"):
        read_probe([*PRIMARY[:7], shown, *PRIMARY[8:]])


@pytest.mark.parametrize("read", READERS)
def test_another_number_of_columns_is_malformed(read):
    for count in (0, 2, 10, 12, 1600):
        with pytest.raises(Malformed, match="columns"):
            read([b"t"] * count)


@pytest.mark.parametrize("read", READERS)
def test_a_role_that_is_not_told_is_malformed(read):
    for value in (None, b"", b"true", b"T", b"\xff"):
        with pytest.raises(Malformed):
            read(
                [value, *PRIMARY[1:]][
                    : {read_probe: 11, read_shown: 1, read_check: 4, read_progress: 4}[read]
                ]
            )


@pytest.mark.parametrize("text", [b"", b"1/", b"/1", b"1", b"0x1/1", b"1/100000000", b"1/g", b"1/1 "])
def test_a_position_that_is_none_is_malformed(text):
    with pytest.raises(Malformed, match="its WAL position is none"):
        read_probe([*PRIMARY[:4], text, *PRIMARY[5:]])


@pytest.mark.parametrize("name", [b"", b"0" * 24, b"1" * 23, b"1" * 25, b"G" * 24, b"00000001.history"])
def test_a_name_of_a_wal_file_that_is_none_is_malformed(name):
    with pytest.raises(Malformed, match="the name of its WAL file is none"):
        read_probe([*PRIMARY[:2], name, *PRIMARY[3:]])


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
rows = st.one_of(st.lists(values, max_size=14), st.tuples(st.just(b"f"), st.just(b"on"), *[values] * 9))


@given(rows)
def test_whatever_the_bytes_are_they_are_read_or_malformed(row):
    for read in READERS:
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
    for place in range(10):
        row = list(STANDBY if place == 3 else PRIMARY)
        row[place] = long
        with pytest.raises(Malformed):
            read_probe(row)
