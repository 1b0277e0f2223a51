"""Texts of others as one line that does nothing and has an end."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.faults import Fault, FaultKind, one_line
from pgroute.core.names import Found
from pgroute.core.printable import MOST, printable
from tests.support import within


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  FATAL:  two blanks stay ", "FATAL:  two blanks stay"),
        ("Datenbank »größer« 数据库系统启动中", "Datenbank »größer« 数据库系统启动中"),
        ("a\r\nb\tc\vd\fe\x85f\u2028g\u2029h", "a  b c d e f g h"),
        ("fin\u00a0: \u202foui", "fin :  oui"),
        ("\x1b[2J\x07\x00\x7f\x9b", r"\x1b[2J\x07\x00\x7f\x9b"),
        ("\u202e\u2066\u200b\ufeff\U000e0041", r"\u202e\u2066\u200b\ufeff\U000e0041"),
        ("\udc80 \ud800", r"\udc80 \ud800"),
        ("[red]x[/red]", "[red]x[/red]"),
        (b"caf\xc3\xa9 \xff", "café \ufffd"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_what_does_something_is_shown_as_python_writes_it(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["x" * 10_000_000, b"x" * 10_000_000, "\x1b" * 10_000_000, "\ud800" * 5000])
def test_a_text_ends_however_long_it_is_and_takes_no_time(text):
    begun = time.thread_time()
    shown = printable(text)
    assert time.thread_time() - begun < within(0.05)
    assert MOST - 3 <= len(shown) <= MOST
    assert shown.endswith("...")
    assert printable("x" * MOST) == "x" * MOST
    assert len(printable(text, 10)) == 10


@given(st.text() | st.binary(), st.integers(4, 200))
def test_any_text_is_one_printable_line_and_stays_so(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown) <= most
    assert printable(shown, most) == shown


def test_every_reason_is_printable_wherever_it_comes_from():
    assert Fault(FaultKind.OTHER, reason="a\n\x1b").reason == r"a \x1b"
    assert Found().failed("a\n\x1b", 0.0).error == r"a \x1b"
    assert Found().answered(["::1"], 1, 0.0, error="a\n\x1b").error == r"a \x1b"
    assert one_line("a\x1b\nb") == r"a\x1b"
    assert one_line(b"a\xff\nb") == "a\ufffd"
    assert len(one_line("x" * 9000)) == MOST
