"""docs/coming-from.md: every member, argument and setting of the other libraries' pools has a row."""

from __future__ import annotations

import re

import pytest

from tests.coming_from.page import PAGE, Row, read_rows
from tests.coming_from.rows import AROUND_CALLS, OF_ARGUMENTS, OF_ERRORS
from tests.coming_from.surface import OFFERS, offer, pinned
from tests.coming_from.theirs import is_installed

ROWS = read_rows()


def of(library: str, *kinds: str) -> list[Row]:
    return [row for row in ROWS if row.library == library and (not kinds or row.kind in kinds)]


@pytest.mark.parametrize("library", OFFERS)
def test_what_a_library_offers_has_a_row(library: str) -> None:
    covered = set().union(*(row.names for row in of(library)))
    assert [name for name in pinned()[library]["names"] if name not in covered] == []


@pytest.mark.parametrize("library", OFFERS)
def test_what_is_pinned_is_what_the_library_offers(library: str) -> None:
    if not is_installed(library):
        pytest.skip(f"{library} is not installed; the extra dev has it")
    there, here = offer(library), pinned()[library]
    if there["version"] != here["version"]:
        pytest.skip(f"{library} {there['version']} is installed; the page is about {here['version']}")
    assert here["names"] == there["names"]


@pytest.mark.parametrize("library", OFFERS)
def test_the_page_tells_its_version(library: str) -> None:
    short = ".".join(pinned()[library]["version"].split(".")[:2])
    assert re.search(
        rf"\[{library}[^]]*\]\(#{library}\w*\) \| {re.escape(short)} \|", PAGE.read_text("utf-8")
    )


def test_rows_without_an_equal_say_what_to_do() -> None:
    assert [str(row) for row in ROWS if row.ours is None and len(row.note) < len("never")] == []


@pytest.mark.parametrize("library", OFFERS)
def test_every_observation_is_of_a_row(library: str) -> None:
    """What the tests look at is in the page, and the other way round."""
    observed = {
        ("argument", "setting"): OF_ARGUMENTS[library],
        ("error",): OF_ERRORS[library],
    }
    for kinds, observations in observed.items():
        assert {row.theirs[0] for row in of(library, *kinds) if row.ours is not None} == observations.keys()
    calls = {row.theirs[0] for row in of(library, "call", "connection")}
    assert AROUND_CALLS[library].keys() <= calls


def test_libpq_parameters_have_the_values_of_theirs() -> None:
    """Which the drivers do not tell."""
    for row in ROWS:
        theirs, ours = (re.findall(r"\b\d+\b", code) for code in (row.theirs[0], row.ours or ""))
        if row.kind in ("argument", "setting") and "kwargs" in (row.ours or "") and theirs and ours:
            factor = 1000 if "tcp_user_timeout" in row.theirs[0] else 1  # milliseconds
            assert [int(number) * factor for number in theirs] == [int(number) for number in ours], row
