"""Every command takes a configuration file in the place of a DSN."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgroute.cli import main
from pgroute.testing import LocalCluster
from tests.support import password_of

pytestmark = pytest.mark.cluster

Capsys = pytest.CaptureFixture[str]

# What belongs to the application: none of it may run, or be used, in a command.
OF_THE_APPLICATION = """
configure = "os:abort"
reset = "os:abort"
acquire_timeout = 600
row_factory = "psycopg.rows:dict_row"
[routers.shop.writer]
min_size = 10
setup = "os:abort"
[routers.shop.kwargs]
row_factory = "psycopg.rows:dict_row"
autocommit = true
password = {from_file = "password"}
"""


@pytest.fixture
def file(shared: LocalCluster, tmp_path: Path) -> Iterator[str]:
    """A file with two routers, to a database of this test's own; the second one leads nowhere."""
    shared.primary.execute("CREATE DATABASE of_a_file")
    shared.catch_up()
    (tmp_path / "password").write_text(password_of(shared))
    hosts = ",".join(f"{node.host}:{node.port}" for node in shared.nodes)
    path = tmp_path / "pgroute.toml"
    path.write_text(
        f'default = "shop"\n[routers.shop]\nkind = "async_pool"\nschema = "shop"\n'
        f'dsn = "postgresql://postgres@{hosts}/of_a_file"\n{OF_THE_APPLICATION}'
        '[routers.nowhere]\ndsn = "postgresql://postgres@127.0.0.1:1/x"\n'
    )
    yield str(path)
    shared.primary.execute("DROP DATABASE of_a_file")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder with a file x.toml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("[routers.a]\n")


def told(capsys: Capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_every_command_takes_a_file(shared: LocalCluster, file: str, capsys: Capsys) -> None:
    primary, standbys = str(shared.nodes[0].port), {str(node.port) for node in shared.nodes[1:]}
    status, out, _ = told(capsys, "status", file, "--json")
    assert (status, json.loads(out)["primary"]) == (0, f"127.0.0.1:{primary}")

    status, out, err = told(capsys, "wait", file)
    assert (status, err) == (0, "")
    assert re.fullmatch(rf"writer at 127\.0\.0\.1:{primary} after [\d.]+ s\n", out)

    status, out, err = told(capsys, "dsn", file, "--role", "reader", "--with-password")
    assert (status, err) == (0, "")
    with psycopg.connect(out.strip()) as conn:
        assert (conn.info.dbname, str(conn.info.port) in standbys) == ("of_a_file", True)
    status, out, _ = told(capsys, "dsn", file)
    assert password_of(shared) not in out

    status, out, err = told(capsys, "watch", file, "--duration", "1")
    assert (status, err) == (0, "")
    assert f"primary is 127.0.0.1:{primary}, timeline 1" in out

    status, out, err = told(capsys, "install", file)
    assert (status, err) == (0, "")
    assert f"The schema shop exists in database of_a_file at 127.0.0.1:{primary}." in out
    assert told(capsys, "batch", "list", file) == (0, "no jobs\n", "")
    status, _, err = told(capsys, "batch", "show", file, "nightly", "--schema", "pgroute")
    assert (status, "no tables of pgroute" in err) == (2, True), "the command's option wins"
    assert 'CREATE SCHEMA "shop"' in told(capsys, "install", file, "--sql")[1]


@pytest.mark.parametrize("command", ["status", "wait", "dsn", "install", "check"])
def test_the_router_is_chosen_by_its_name(tmp_path: Path, command: str, capsys: Capsys) -> None:
    path = tmp_path / "pgroute.yaml"
    path.write_text("routers:\n  a: {dsn: 'host=127.0.0.1 port=1'}\n  b: {dsn: 'host=127.0.0.1 port=2'}\n")
    for name, port in (("a", 1), ("b", 2)):
        status, out, err = told(capsys, command, str(path), "--router", name, "--timeout", "0.2")
        assert status in (1, 2)
        assert f"127.0.0.1:{port}" in out + err
    status, _, err = told(capsys, command, str(path))
    assert (status, "invalid name None: expected one of a, b" in err) == (2, True)


@pytest.mark.parametrize("command", ["status", "watch", "wait", "dsn", "install", "check", "batch list"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.toml"], "cannot be read: No such file or directory"),
        (["host=h", "--router", "a"], "--router is for a configuration file"),
        (["x.toml", "--addresses", "one-host"], "are for a DSN: a file has its own"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_does_not_go_together_is_told_in_one_line(
    command: str, arguments: list[str], said: str, capsys: Capsys
) -> None:
    status, out, err = told(capsys, *command.split(), *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
