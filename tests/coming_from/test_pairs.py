"""docs/coming-from.md: the code in each row is run on another library's pool and on a router, and does the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from tests.coming_from.observations import works
from tests.coming_from.page import Row, read_policy, read_rows
from tests.coming_from.rows import AROUND_CALLS, OF_ARGUMENTS, OF_ERRORS, Observation
from tests.coming_from.sides import OF_PGROUTE, Place, Side, combined
from tests.coming_from.snippets import run_code
from tests.coming_from.theirs import sides_of
from tests.support import password_of

pytestmark = [
    pytest.mark.cluster,
    # pgmonkey makes its pool so.
    pytest.mark.filterwarnings("ignore:the default for the ConnectionPool 'open':DeprecationWarning"),
]

ROWS = [row for row in read_rows() if row.ours is not None]


def observation_of(row: Row) -> Observation:
    return OF_ARGUMENTS[row.library][row.theirs[0]]


def is_told_elsewhere(row: Row) -> bool:
    """Return whether an earlier row, or a test of configuration files, tells what our side does."""
    if row.kind not in ("argument", "setting") or observation_of(row).shares_a_pool:
        return False
    before = ROWS[: ROWS.index(row)]
    return row.kind == "setting" or any(each.ours == row.ours for each in before)


def rows(*kinds: str) -> pytest.MarkDecorator:
    chosen = [row for row in ROWS if row.kind in kinds]
    marks = {row: [pytest.mark.long] if is_told_elsewhere(row) else [] for row in chosen}
    return pytest.mark.parametrize("row", [pytest.param(row, marks=marks[row]) for row in chosen], ids=str)


def shorter(code: str, observation: Observation, place: Place) -> str:
    """Return code with the test's numbers and files in place of the page's."""
    host, port = place.hosts[0] if place.hosts else (place.cluster.nodes[0].host, place.cluster.nodes[0].port)
    known = ",".join(f"{node.host}:{node.port}" for node in place.cluster.nodes)
    values = {
        "folder": place.folder,
        "hosts": known,
        "host": host,
        "port": port,
        "ca": place.names.get("ca_file"),
    }
    values["password"] = password_of(place.cluster)
    for text, other in observation.shorter.items():
        whole = rf"(?<![\w.]){re.escape(text)}(?!\w)" if text[-1].isalnum() else re.escape(text)
        code = re.sub(whole, other.format(**values, **place.names), code)
    return code


@dataclass
class Outcomes:
    """What rows have given that share a pool, theirs and ours; an exception is raised in the row's own test."""

    found: dict[Row, tuple[Any, Any]] = field(default_factory=dict)

    def compare(self, row: Row) -> None:
        """Compare both sides."""
        there, here = self.found[row]
        for outcome in there, here:
            if isinstance(outcome, Exception):
                raise outcome
        assert here == there
        assert here is not None


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return Outcomes()


@rows("argument", "setting")
def test_an_argument_does_the_same(
    row: Row, hosts: Callable[[Observation], Place], outcomes: Outcomes
) -> None:
    if observation_of(row).shares_a_pool:
        if row not in outcomes.found:
            chosen = [each for each in ROWS if each.library == row.library and each.kind == row.kind]
            chosen = [each for each in chosen if observation_of(each).shares_a_pool]
            there, here = asyncio.run(observe_all(row.library, hosts(Observation(works)), chosen))
            outcomes.found |= {each: (there[each], here[each]) for each in chosen}
    else:
        outcomes.found[row] = asyncio.run(observe_alone(row, hosts(observation_of(row))))
    outcomes.compare(row)


async def observe_alone(row: Row, place: Place) -> tuple[Any, Any]:
    """Return what is observed on both sides, with this row's arguments alone."""
    observation = observation_of(row)
    theirs, ours = sides_of(row.library, observation.face)
    assert row.ours is not None
    if row.library == "hasql":
        place = replace(place, names={**place.names, **read_policy()})
    found = []
    for kind, cell, extra in (theirs, row.theirs[0], observation.theirs), (ours, row.ours, observation.ours):
        async with kind(place, shorter(cell, observation, place), extra) as side:
            found.append(await observation.observe(side))
    return found[0], found[1]


async def observe_all(library: str, place: Place, chosen: list[Row]) -> list[dict[Row, Any]]:
    """Return what is observed on both sides, with pools that have the arguments of as many rows as agree."""
    theirs, ours = sides_of(library)
    return [
        await observe_together(theirs, place, {row: row.theirs[0] for row in chosen}),
        await observe_together(ours, place, {row: row.ours or "" for row in chosen}),
    ]


async def observe_together(kind: type[Side], place: Place, cells: dict[Row, str]) -> dict[Row, Any]:
    found: dict[Row, Any] = {}
    while len(found) < len(cells):
        side = kind(place)
        arguments = await side.read_cell(kind.small)
        together: dict[Row, dict[str, Any]] = {}
        for row in cells.keys() - found.keys():
            more = await side.read_cell(shorter(cells[row], observation_of(row), place))
            if (both := combined(arguments, more, override=not together)) is not None:
                arguments = both
                together[row] = more
        side.arguments = arguments
        async with side:
            for row, own in together.items():
                try:
                    found[row] = await observation_of(row).observe(side)
                    await side.check(own)
                except Exception as exc:  # noqa: BLE001  (raised in the row's own test)
                    found[row] = exc
    return found


def around(row: Row) -> tuple[str, ...]:
    return AROUND_CALLS[row.library].get(row.theirs[0], ("{}",))


async def run_rows(kind: type[Side], place: Place, codes: dict[Row, str]) -> dict[Row, Any]:
    """Return what each piece of code gives or raises, all with one pool."""
    found: dict[Row, Any] = {}
    async with kind(place) as side:
        await side.give(await side.get())
        for row, code in codes.items():
            conn = await side.get() if row.kind == "connection" else None
            try:
                found[row] = await run_code(code, {**side.names, "conn": conn})
            except TimeoutError:
                found[row] = ["TimeoutError"]
            except Exception as exc:  # noqa: BLE001  (raised in the row's own test)
                found[row] = exc
            finally:
                if conn is not None:
                    await side.give(conn)
    return found


async def run_both(library: str, place: Place, chosen: list[Row]) -> dict[Row, tuple[Any, Any]]:
    theirs, ours = sides_of(library)
    there = await run_rows(theirs, place, {row: around(row)[0].format(row.theirs[0]) for row in chosen})
    here = await run_rows(ours, place, {row: around(row)[-1].format(row.ours) for row in chosen})
    return {row: (there[row] or None, here[row] or None) for row in chosen}


@rows("call", "connection")
def test_a_call_does_the_same(row: Row, place: Place, outcomes: Outcomes) -> None:
    if row not in outcomes.found:
        chosen = [row]
        if around(row) == ("{}",):
            calls = [
                each for each in ROWS if each.library == row.library and each.kind in ("call", "connection")
            ]
            chosen = [each for each in calls if around(each) == ("{}",)]
        outcomes.found |= asyncio.run(run_both(row.library, place, chosen))
    outcomes.compare(row)


@rows("error")
def test_an_error_comes_in_the_same_case(row: Row, hosts: Callable[[Observation], Place]) -> None:
    provocation = OF_ERRORS[row.library][row.theirs[0]]
    theirs, ours = sides_of(row.library)
    place = hosts(provocation)

    async def provoke(kind: type[Side], arguments: str) -> BaseException:
        with pytest.raises(Exception) as caught:
            async with kind(place, "", arguments) as side:
                await provocation.observe(side)
        return caught.value

    async def both() -> tuple[BaseException, BaseException]:
        return await provoke(theirs, provocation.theirs), await provoke(ours, provocation.ours)

    there, here = asyncio.run(both())
    names = {**OF_PGROUTE, **theirs(place).names, "psycopg": psycopg, "TimeoutError": TimeoutError}
    assert row.ours is not None
    assert isinstance(there, tuple(eval(name, names) for name in row.theirs))
    assert isinstance(here, eval(row.ours, names))
    if "is a" in row.note:
        assert isinstance(here, eval(row.theirs[0], names))
