"""Which installations of PostgreSQL the servers' user can run, and which are copied for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgroute.testing import ClusterError, ServerBinaries
from pgroute.testing.account import Account, copy_server, reachable
from pgroute.testing.binaries import TOOLS

OTHER = Account("other", 65533, 65533)


@pytest.fixture
def server(temporary: Path) -> ServerBinaries:
    bindir = temporary / "pgsql" / "bin"
    bindir.mkdir(parents=True)
    for tool in TOOLS:
        (bindir / tool).touch(0o755)
    return ServerBinaries(bindir, 16, "16.1")


def test_a_server_among_the_programs_of_the_system_is_used_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgroute.testing.account.TOOLS", ("env",))
    assert reachable(ServerBinaries(Path("/usr/bin"), 16, "16.1"), OTHER)


def test_programs_beside_the_server_may_be_closed(server: ServerBinaries) -> None:
    (server.bindir / "sudo").touch()
    (server.bindir / "sudo").chmod(0o4111)
    assert reachable(server, OTHER)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_server_is_not_used_where_one_of_its_programs_is_closed(server: ServerBinaries, tool: str) -> None:
    (server.bindir / tool).chmod(0o711)
    assert not reachable(server, OTHER)


def test_a_server_is_not_used_where_its_program_is_a_link_into_a_closed_folder(
    server: ServerBinaries, temporary: Path
) -> None:
    closed = temporary / "closed"
    closed.mkdir(0o700)
    program = server.bindir / "postgres"
    program.rename(closed / "postgres")
    program.symlink_to(closed / "postgres")
    assert not reachable(server, OTHER)


@pytest.mark.parametrize("file", ["pgsql/share/postgresql/postgres.bki", "libs/libpq.so"])
def test_a_server_is_not_used_where_one_of_its_files_is_closed(
    server: ServerBinaries, temporary: Path, file: str
) -> None:
    path = temporary / file.replace("libs", f"../{temporary.name}.libs")
    path.parent.mkdir(parents=True)
    try:
        path.touch(0o600)
        assert not reachable(server, OTHER)
        path.chmod(0o644)
        assert reachable(server, OTHER)
    finally:
        path.unlink()
        path.parent.rmdir()


@pytest.mark.parametrize("bindir", ["/usr/bin", "/bin", "/usr/local/bin"])
def test_nothing_of_the_system_is_copied(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, bindir: str
) -> None:
    def copy(*_: Any, **__: Any) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr("shutil.copytree", copy)
    with pytest.raises(ClusterError, match=f"cannot run {bindir}/postgres"):
        copy_server(ServerBinaries(Path(bindir), 16, "16.1"), temporary / "server")
