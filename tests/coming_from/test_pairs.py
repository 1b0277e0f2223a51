"""docs/coming-from.md: the code in each row is run on another library's pool and on a router, and does the same."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgroute
from pgroute.cli.parser import make_parser
from pgroute.testing import LocalCluster
from tests.certificates import Authority
from tests.coming_from.page import Row, read_moves, read_policy, read_rows
from tests.coming_from.rows import AROUND_CALLS, OF_ARGUMENTS, OF_ERRORS, Observation
from tests.coming_from.sides import Place, Side
from tests.coming_from.snippets import run_code
from tests.coming_from.theirs import OTHER_FACES, SIDES, is_installed
from tests.conftest import Inspector
from tests.support import password_of
from tests.tlsfront import TLSFront

pytestmark = [
    pytest.mark.cluster,
    # pgmonkey makes its pool so.
    pytest.mark.filterwarnings("ignore:the default for the ConnectionPool 'open':DeprecationWarning"),
]

ROWS = [row for row in read_rows() if row.ours is not None]


def rows(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in ROWS if row.kind in kinds], ids=str)


@pytest.fixture(scope="module", autouse=True)
def items(inspector: Inspector) -> Iterator[None]:
    """The table that rows write to; and the threads and descriptors that psqlpy keeps for the process."""
    inspector.execute(inspector.cluster.nodes[0], "CREATE TABLE items (number int)")
    if is_installed("psqlpy"):
        asyncio.run(use(SIDES["psqlpy"][0](Place(inspector.cluster, inspector.execute, Path()))))
    yield
    inspector.execute(inspector.cluster.nodes[0], "DROP TABLE items")


async def use(side: Side) -> None:
    async with side:
        await side.give(await side.get())


@pytest.fixture
def place(
    shared: LocalCluster, inspector: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    place = Place(shared, inspector.execute, tmp_path)
    password, node = password_of(shared), shared.nodes[0]
    place.services.write_text(
        f"[shop]\nhost={node.host}\nport={node.port}\nuser=postgres\npassword={password}\ndbname=postgres\n"
    )
    (tmp_path / "password").write_text(password + "\n")
    monkeypatch.setenv("PGSERVICEFILE", str(place.services))
    monkeypatch.setenv("PASSWORD", password)
    return place


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


@rows("argument", "setting")
def test_an_argument_does_the_same(row: Row, hosts: Any) -> None:
    observation = OF_ARGUMENTS[row.library][row.theirs[0]]
    theirs, ours = sides_of(row.library, observation.face)
    place = hosts(observation)
    if row.library == "hasql":
        place = replace(place, names={**place.names, **read_policy()})

    async def observe(kind: type[Side], cell: str, extra: str) -> Any:
        async with kind(place, shorter(cell, observation, place), extra) as side:
            return await observation.observe(side)

    async def both() -> tuple[Any, Any]:
        assert row.ours is not None
        there = await observe(theirs, row.theirs[0], observation.theirs)
        return there, await observe(ours, row.ours, observation.ours)

    there, here = asyncio.run(both())
    assert here == there
    assert here is not None


Outcomes = dict[Row, tuple[Any, Any]]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcomes]:
    """What the rows of each library have given that do without a pool of their own."""
    return {}


def around(row: Row) -> tuple[str, ...]:
    return AROUND_CALLS[row.library].get(row.theirs[0], ("{}",))


async def run_rows(kind: type[Side], place: Place, codes: dict[Row, str]) -> dict[Row, Any]:
    """Return what each piece of code gives or raises, all with one pool."""
    found: dict[Row, Any] = {}
    async with kind(place, extra=kind.small) as side:
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


async def run_both(library: str, place: Place, chosen: list[Row]) -> Outcomes:
    theirs, ours = sides_of(library)
    there = await run_rows(theirs, place, {row: around(row)[0].format(row.theirs[0]) for row in chosen})
    here = await run_rows(ours, place, {row: around(row)[-1].format(row.ours) for row in chosen})
    return {row: (there[row], here[row]) for row in chosen}


def plain(library: str) -> list[Row]:
    """Return the rows of a library that do without a pool of their own."""
    return [
        row
        for row in ROWS
        if row.library == library and row.kind in ("call", "connection") and around(row) == ("{}",)
    ]


@rows("call", "connection")
def test_a_call_does_the_same(row: Row, place: Place, outcomes: dict[str, Outcomes]) -> None:
    if around(row) != ("{}",):
        found = asyncio.run(run_both(row.library, place, [row]))
    else:
        if row.library not in outcomes:
            outcomes[row.library] = asyncio.run(run_both(row.library, place, plain(row.library)))
        found = outcomes[row.library]
    there, here = found[row]
    for outcome in there, here:
        if isinstance(outcome, Exception):
            raise outcome
    assert here == there
    assert here


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
    assert isinstance(there, eval(row.theirs[0], names))
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
        code = re.sub(r"postgresql://app@[\w,]+/shop", kind(place).make_dsn(), read_moves()[library][which])
        if library == "pgmonkey":
            code = re.sub(r"\w+\.yaml", str(kind(place, kind.small).names["path"]), code)
        names: dict[str, Any] = {}
        exec(code, names)
        if "main" in names:
            asyncio.run(names["main"]())
        if "manager" in names:
            names["manager"].clear_cache()
        printed.append(re.sub(r"\D", "", capsys.readouterr().out))
    assert printed == ["42", "42"]
