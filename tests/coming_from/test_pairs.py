"""docs/coming-from.md: the code in each row is run on another library's pool and on a router, and does the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgroute
from pgroute.cli.parser import make_parser
from tests.certificates import Authority
from tests.coming_from.page import Row, read_moves, read_policy, read_rows
from tests.coming_from.rows import AROUND_CALLS, OF_ARGUMENTS, OF_ERRORS, Observation
from tests.coming_from.observations import works
from tests.coming_from.sides import CHANNEL, OursSync, Place, Side, combined
from tests.coming_from.snippets import run_code
from tests.coming_from.theirs import OTHER_FACES, SIDES, Psqlpy, is_installed
from tests.conftest import Inspector
from tests.support import eventually, password_of
from tests.tlsfront import TLSFront

pytestmark = [
    pytest.mark.cluster,
    # pgmonkey makes its pool so.
    pytest.mark.filterwarnings("ignore:the default for the ConnectionPool 'open':DeprecationWarning"),
]

SESSIONS = f"SELECT pid FROM pg_stat_activity WHERE application_name IN ('{Side.name}', '{OursSync.name}', 'shop')"
NO_CONNECTIONS = pgroute.PoolOptions(min_size=0)

ROWS = [row for row in read_rows() if row.ours is not None]


def rows(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if row.kind in kinds], ids=str)


@pytest.fixture(scope="module", autouse=True)
def lasting(inspector: Inspector) -> Iterator[None]:
    """The table that rows write to, a router with which the others share their probes, and what psqlpy never gives up."""
    inspector.execute(inspector.cluster.nodes[0], "CREATE TABLE items (number int)")
    place = Place(inspector.cluster, inspector.execute, Path())
    if is_installed("psqlpy"):
        asyncio.run(listen(Psqlpy(place)))
    with pgroute.Router(OursSync(place).make_dsn(), writer=NO_CONNECTIONS, reader=NO_CONNECTIONS) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        yield
    inspector.execute(inspector.cluster.nodes[0], "DROP TABLE items")


async def listen(side: Side) -> None:
    """Make psqlpy start all that it starts once for the process."""
    async with side:
        listener = side.pool.listener()
        await listener.add_callback(CHANNEL, side.names["callback"])
        await listener.startup()
        await side.read(listener)
        await listener.shutdown()


@pytest.fixture
def place(inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The cluster of the whole run, in which no session may be left."""
    cluster = inspector.cluster
    place = Place(cluster, inspector.execute, tmp_path)
    password, node = password_of(cluster), cluster.nodes[0]
    place.services.write_text(
        f"[shop]\nhost={node.host}\nport={node.port}\nuser=postgres\npassword={password}\ndbname=postgres\n"
    )
    (tmp_path / "password").write_text(password + "\n")
    monkeypatch.setenv("PGSERVICEFILE", str(place.services))
    monkeypatch.setenv("PASSWORD", password)
    yield place

    def none_left() -> bool:
        return not any(place.execute(node, SESSIONS) for node in cluster.nodes)

    if not none_left():
        gc.collect()  # psqlpy's pool keeps the connection that a caller has waited for, and was cancelled
        eventually(none_left)


@pytest.fixture
def hosts(place: Place, tmp_path: Path) -> Iterator[Any]:
    """Return the place for an observation, with other hosts if it wants them."""
    with contextlib.ExitStack() as stack:

        def tls(*, mutual: bool) -> Place:
            authority = Authority(tmp_path, "root")
            issued, mine = authority.issue("server", "127.0.0.1"), authority.issue("postgres")
            front = TLSFront(place.cluster.nodes[0], issued, clients=authority.root if mutual else None)
            stack.enter_context(front)
            files = {"ca_file": str(authority.root), "certificate": str(mine.certificate), "key": str(mine.key)}
            context = ssl.create_default_context(cafile=str(authority.root))
            return replace(place, hosts=((front.host, front.port),), names={**files, "context": context})

        def choose(observation: Observation) -> Place:
            known = tuple((node.host, node.port) for node in place.cluster.nodes)
            match observation.hosts:
                case "all":
                    return replace(place, hosts=known)
                case "standby first":
                    return replace(place, hosts=known[::-1])
                case "primary":
                    return replace(place, hosts=known[:1])
                case "standby":
                    return replace(place, hosts=known[1:2])
                case "nowhere":
                    return replace(place, hosts=((known[0][0], 1),))
                case "tls" | "mutual tls":
                    return tls(mutual=observation.hosts == "mutual tls")
            return place

        yield choose


def sides_of(library: str, face: str = "") -> tuple[type[Side], type[Side]]:
    """Return both sides; skip if the package is not there."""
    if not is_installed(library):
        pytest.skip(f"{library} is not installed; the extra dev has it")
    return OTHER_FACES[library, face] if face else SIDES[library]


def shorter(code: str, observation: Observation, place: Place) -> str:
    """Return code with the test's numbers and files in place of the page's."""
    host, port = place.hosts[0] if place.hosts else (place.cluster.nodes[0].host, place.cluster.nodes[0].port)
    known = ",".join(f"{node.host}:{node.port}" for node in place.cluster.nodes)
    values = {"folder": place.folder, "hosts": known, "host": host, "port": port, "ca": place.names.get("ca_file")}
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


def observation_of(row: Row) -> Observation:
    return OF_ARGUMENTS[row.library][row.theirs[0]]


@rows("argument", "setting")
def test_an_argument_does_the_same(row: Row, hosts: Any, outcomes: Outcomes) -> None:
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
        together = []
        for row in cells.keys() - found.keys():
            more = await side.read_cell(shorter(cells[row], observation_of(row), place))
            if (both := combined(arguments, more, override=not together)) is not None:
                arguments = both
                together.append(row)
        side.arguments = arguments
        async with side:
            for row in together:
                try:
                    found[row] = await observation_of(row).observe(side)
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
            calls = [each for each in ROWS if each.library == row.library and each.kind in ("call", "connection")]
            chosen = [each for each in calls if around(each) == ("{}",)]
        outcomes.found |= asyncio.run(run_both(row.library, place, chosen))
    outcomes.compare(row)


@rows("error")
def test_an_error_comes_in_the_same_case(row: Row, hosts: Any) -> None:
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
    names = {**vars(pgroute), **theirs(place).names, "psycopg": psycopg, "TimeoutError": TimeoutError}
    assert row.ours is not None
    assert isinstance(there, tuple(eval(name, names) for name in row.theirs))
    assert isinstance(here, eval(row.ours, names))
    if "is a" in row.note:
        assert isinstance(here, eval(row.theirs[0], names))


@rows("elsewhere")
def test_a_router_takes_what_stands_for_theirs(row: Row) -> None:
    assert row.ours is not None
    arguments = row.ours if row.ours.startswith('"') else f'"postgresql://db1,db2/shop", {row.ours}'
    assert isinstance(eval(f"Router({arguments})", {**vars(pgroute)}), pgroute.Router)


@rows("command")
def test_a_command_is_one_of_ours(row: Row) -> None:
    assert row.ours is not None
    program, *arguments = row.ours.split()
    assert program == "pgroute"
    assert make_parser().parse_args(arguments).command in ("init", "check")


@pytest.mark.parametrize("library", SIDES)
def test_the_smallest_move_prints_the_same(
    library: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = sides_of(library)
    printed = []
    for kind, which in ((theirs, "before"), (ours, "after")):
        side: Any = kind(place)
        code = re.sub(r"postgresql://app@[\w,]+/shop", side.make_dsn(), read_moves()[library][which])
        if library == "pgmonkey":
            code = re.sub(r"\w+\.yaml", side.write({}), code)
        names: dict[str, Any] = {}
        exec(code, names)
        if "main" in names:
            asyncio.run(names["main"]())
        if "manager" in names:
            names["manager"].clear_cache()
        printed.append(re.sub(r"\D", "", capsys.readouterr().out))
    assert printed == ["42", "42"]
