"""docs/coming-from.md: the code in each row is run on another library's pool and on a router, and does the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pgroute
from pgroute.testing import LocalCluster
from tests.coming_from.observations import AROUND_CALLS, OF_ARGUMENTS, OF_ERRORS, Observation
from tests.coming_from.page import Row, read_moves, read_rows
from tests.coming_from.sides import THEIRS, Ours, OursSync, Place, Side, is_installed
from tests.coming_from.snippets import run_code
from tests.conftest import Inspector

pytestmark = pytest.mark.cluster

ROWS = [row for row in read_rows() if row.ours is not None]


def rows(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if row.kind == kind], ids=str)


@pytest.fixture
def place(shared: LocalCluster, inspector: Inspector, tmp_path: Path) -> Place:
    return Place(shared, inspector.execute, tmp_path)


def sides_of(library: str) -> tuple[type[Side], type[Side]]:
    """Return both sides, the router in the library's face; skip if the package is not there."""
    if not is_installed(library):
        pytest.skip(f"{library} is not installed; the extra dev has it")
    theirs = THEIRS[library]
    return theirs, Ours if theirs.is_async else OursSync


def shorter(code: str, observation: Observation) -> str:
    for number, less in observation.shorter.items():
        code = re.sub(rf"\b{number}\b", less, code)
    return code


@rows("argument")
def test_an_argument_does_the_same(row: Row, place: Place) -> None:
    observation = OF_ARGUMENTS[row.library][row.theirs[0]]
    theirs, ours = sides_of(row.library)

    async def observe(kind: type[Side], cell: str, extra: str) -> Any:
        async with kind(place, shorter(cell, observation), extra) as side:
            return await observation.observe(side)

    async def both() -> tuple[Any, Any]:
        assert row.ours is not None
        return (
            await observe(theirs, row.theirs[0], observation.theirs),
            await observe(ours, row.ours, observation.ours),
        )

    there, here = asyncio.run(both())
    assert here == there
    assert here is not None


@rows("call")
def test_a_call_does_the_same(row: Row, place: Place) -> None:
    theirs, ours = sides_of(row.library)
    around = AROUND_CALLS[row.library].get(row.theirs[0], ("{}",))

    async def run(kind: type[Side], template: str, code: str | None) -> Any:
        async with kind(place, extra=kind.small) as side:
            return await run_code(template.format(code), side.names)

    async def both() -> tuple[Any, Any]:
        return (
            await run(theirs, around[0], row.theirs[0]),
            await run(ours, around[-1].replace("pool.closed", "router.closed"), row.ours),
        )

    there, here = asyncio.run(both())
    assert here == there
    assert here


@rows("error")
def test_an_error_comes_in_the_same_case(row: Row, place: Place) -> None:
    provocation = OF_ERRORS[row.library][row.theirs[0]]
    theirs, ours = sides_of(row.library)

    async def provoke(kind: type[Side], arguments: str, code: str) -> BaseException:
        async with kind(place, arguments) as side:
            with pytest.raises(Exception) as caught:
                await run_code(code, side.names)
            return caught.value

    async def both() -> tuple[BaseException, BaseException]:
        return (
            await provoke(theirs, provocation.their_pool, provocation.theirs),
            await provoke(ours, provocation.our_pool, provocation.ours),
        )

    there, here = asyncio.run(both())
    names = theirs(place).names
    assert row.ours is not None
    assert isinstance(there, names[row.theirs[0]])
    assert isinstance(here, getattr(pgroute, row.ours))
    if "is a" in row.note:
        assert isinstance(here, names[row.theirs[0]])
