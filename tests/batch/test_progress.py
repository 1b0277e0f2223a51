"""What is told of a job's progress: the count, its rate, and the line for people."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from pgroute.batch import BatchProgress
from pgroute.batch.progress import ProgressTracker, as_line, display, duration

HALF = BatchProgress(
    job="reprice",
    rows=500,
    rows_total=1000,
    chunks=5,
    chunks_total=10,
    rejected=1,
    retries=2,
    seconds=5.0,
    rate=100.0,
    eta=5.0,
    primary="db1:5432",
)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (HALF, "500 of 1000 rows (50 %), 100 rows/s, 5 s left, 2 retries, 1 rejected, primary db1:5432"),
        (
            replace(HALF, rows_total=None, eta=None, primary=None),
            "500 rows, 100 rows/s, 2 retries, 1 rejected, primary none",
        ),
        (
            replace(HALF, rows=1000, eta=0.0, finished=True),
            "1000 of 1000 rows (100 %), finished in 5.0 s, 100 rows/s, 2 retries, 1 rejected, primary db1:5432",
        ),
        (
            replace(HALF, rows=0, rows_total=0, eta=None),
            "0 of 0 rows (100 %), 100 rows/s, 2 retries, 1 rejected, primary db1:5432",
        ),
        (
            replace(HALF, rows=999, eta=None),
            "999 of 1000 rows (99 %), 100 rows/s, 2 retries, 1 rejected, primary db1:5432",
        ),
    ],
)
def test_a_line_tells_how_far_the_job_is(progress: BatchProgress, line: str) -> None:
    assert as_line(progress) == f"reprice: {line}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (187, "3:07"), (3599.6, "1:00:00"), (3723, "1:02:03")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rate_is_that_of_this_run_and_the_rest_is_all() -> None:
    tracker = ProgressTracker("j", lambda: "db1:5432")
    tracker.rows_total, tracker.chunks_total = 1000, 10
    tracker.add_found(chunks=5, rows=500)
    tracker.started -= 10_000
    assert tracker.snapshot().eta is None
    tracker.add_own(100, rejected=False)
    tracker.add_own(100, rejected=True)
    tracker.add_retries(3)
    now = tracker.snapshot()
    assert (now.rows, now.chunks, now.rejected, now.retries) == (700, 7, 1, 3)
    assert now.rate == pytest.approx(0.02, rel=0.01)
    assert now.eta == pytest.approx(15_000, rel=0.01)


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, IO[str]]]:
    """Give the end to read from and the one to write to, of a pipe or a terminal."""
    reading, writing = os.pipe() if request.param == "pipe" else os.openpty()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


@pytest.mark.parametrize(
    ("ends", "variables", "drawn"),
    [
        ("terminal", {"TERM": "xterm"}, True),
        ("terminal", {"TERM": "dumb"}, False),
        ("terminal", {"TERM": "xterm", "TTY_COMPATIBLE": "0"}, False),
        ("pipe", {"TERM": "xterm"}, False),
        ("pipe", {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
        ("pipe", {"TERM": "xterm", "TTY_COMPATIBLE": "1"}, False),
    ],
    indirect=["ends"],
)
def test_a_bar_is_drawn_only_where_it_can_be_drawn_over(
    ends: tuple[int, IO[str]], variables: dict[str, str], drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    reading, stream = ends
    monkeypatch.setattr(sys, "stderr", stream)
    tracker = ProgressTracker("j", lambda: None)
    shown = display(True)
    shown.start(tracker)
    shown.stop(tracker)
    stream.flush()
    text = os.read(reading, 65536).decode()
    assert ("\x1b" in text) == drawn
    assert text.startswith("j: 0 rows, ") != drawn


def test_importing_batch_leaves_rich_for_later() -> None:
    code = "import sys, pgroute.batch; print(sorted({'dns', 'rich', 'tenacity'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_say_that_they_are_of_pgroute_batch() -> None:
    import pgroute.batch

    names = pgroute.batch.__all__
    assert list(names) == sorted(names)
    assert {getattr(pgroute.batch, name).__module__ for name in names} == {"pgroute.batch"}
