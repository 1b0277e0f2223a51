"""Answers over HTTP: whole, not whole yet, or none."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.config.rest_urls import Target, target_of
from pgroute.core.discovery.http import MOST_BYTES, Response, read_response
from pgroute.core.discovery.report import Malformed

HEAD = b"HTTP/1.0 200 OK\r\nServer: x\r\nDate: Sun, 29 Nov 2026 17:00:00 GMT\r\n"
DATE = 1795971600.0


def test_answer_without_a_length_ends_with_the_connection() -> None:
    raw = HEAD + b"\r\n{}"
    assert read_response(raw, ended=False) is None
    assert read_response(raw, ended=True) == Response(b"{}", DATE)


def test_answer_with_a_length_does_not_wait_for_the_end() -> None:
    raw = HEAD + b"content-LENGTH: 2\r\n\r\n{}"
    assert read_response(raw[:-1], ended=False) is None
    assert read_response(raw, ended=False) == Response(b"{}", DATE)
    assert read_response(raw + b"more", ended=False) == Response(b"{}", DATE)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000", ""])
def test_date_is_read_as_utc_wherever_the_process_runs(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.0 200 OK\r\nDate: Sun, 29 Nov 2026 17:00:00 %s\r\n\r\n{}" % zone.encode()
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert read_response(head, ended=True) == Response(b"{}", DATE)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_lines_may_end_without_a_carriage_return() -> None:
    assert read_response(b"HTTP/1.1 200 OK\nA: b\n\n{}", ended=True) == Response(b"{}")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "no answer in HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer in HTTP"),
        (b"HTTP/2 200\r\n\r\n", "no answer in HTTP"),
        (b"HTTP/1.0 503 no\r\n\r\n{}", "status 503"),
        (b"HTTP/1.0 302 x\r\nLocation: http://x/\r\n\r\n", "status 302, which leads to http://x/"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "in chunks"),
        (HEAD + b"Content-Length: 3\r\n\r\n{}", "after 2 of 3 bytes"),
        (HEAD + b"Content-Length: -1\r\n\r\n{}", "no length"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n{}", "no length"),
        (b"x" * (MOST_BYTES + 1), "more than"),
        (HEAD + b"\r\n" + b" " * MOST_BYTES, "more than"),
    ],
)
def test_answer_that_is_none(raw: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_response(raw, ended=True)


@given(
    raw=st.binary(max_size=300) | st.binary(max_size=100).map(lambda rest: HEAD + rest),
    cut=st.integers(0, 300),
)
def test_any_bytes_are_an_answer_or_none_however_they_arrive(raw: bytes, cut: int) -> None:
    with contextlib.suppress(Malformed):
        early = read_response(raw[:cut], ended=False)
        if early is not None:
            assert read_response(raw, ended=True) == early
    with contextlib.suppress(Malformed):
        assert read_response(raw, ended=True) is not None


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://pg1:8008", Target("pg1", 8008, "", False)),
        ("https://pg1/", Target("pg1", 443, "", True)),
        ("http://[fd00::1]:8008/a/", Target("fd00::1", 8008, "/a", False)),
    ],
)
def test_url(url: str, target: Target) -> None:
    assert target_of(url) == target
    assert target.request("/cluster").startswith(f"GET {target.path}/cluster HTTP/1.0\r\nHost: ".encode())


@pytest.mark.parametrize(
    "url",
    ["", "pg1:8008", "ftp://x", "http://", "http://u:p@x", "http://x?a=b", "http://x#a", "http://x:0", "http://x:a",
     "http://x:70000", "http://x y", "http://x\r\nA: b", "http://[::1", "http://ü"],
)  # fmt: skip
def test_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError):
        target_of(url)
