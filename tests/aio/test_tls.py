"""TLS for real: each host is verified by its own name, by sessions and probes, with the files as they are now."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, ConfigError, HostState, NoHostAvailable
from pgroute.testing import LocalCluster, Node, available_versions
from pgroute.testing.plugin import ClusterFactory
from tests.certificates import Authority, Issued
from tests.support import async_eventually, dsn_at, dsn_with
from tests.tlsfront import TLSFront

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

NAMES = ("db1.test", "db2.test", "db3.test")
WRONG = {
    "another authority": "certificate verify failed",
    "another name": 'server certificate for "other.test" does not match host name "db2.test"',
    "expired": r"certificate verify failed",
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "root")


@pytest.fixture
def fronts(shared: LocalCluster, authority: Authority) -> Iterator[list[TLSFront]]:
    """Give the nodes of a cluster behind TLS, each with a certificate for its own name."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(TLSFront(node, authority.issue(name, name)))
            for name, node in zip(NAMES, shared.nodes, strict=True)
        ]


def dsn_of(fronts: list[TLSFront], root: Path | str, **params: str) -> str:
    """Return a DSN that names the hosts as their certificates do, and their addresses beside."""
    hosts = ",".join(f"{name}:{front.port}" for name, front in zip(NAMES, fronts, strict=False))
    addresses = ",".join(front.host for front in fronts)
    tls = {"sslmode": "verify-full", "sslrootcert": str(root), "hostaddr": addresses}
    return dsn_with(dsn_at(hosts, fronts[0]), **(tls | params))


def states(router: AsyncRouter[Any]) -> list[HostState]:
    return [host.state for host in router.topology.hosts]


def up(router: AsyncRouter[Any]) -> bool:
    return states(router) == [HostState.UP] * len(router.topology.hosts)


async def test_each_host_is_verified_by_its_own_name(fronts: list[TLSFront], authority: Authority) -> None:
    async with AsyncRouter(dsn_of(fronts, authority.root)) as router:
        await async_eventually(lambda: up(router))
        async with router.writer() as conn:
            assert conn.pgconn.ssl_in_use
            assert (conn.info.host, conn.info.port) == (NAMES[0], fronts[0].port)
        async with router.reader() as conn:
            assert conn.pgconn.ssl_in_use
            assert conn.info.host in NAMES[1:]
    assert not any(front.refused for front in fronts)
    assert all(front.told for front in fronts)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_host_whose_certificate_is_wrong_is_told_nothing_and_the_others_serve(
    fronts: list[TLSFront], authority: Authority, tmp_path: Path, wrong: str
) -> None:
    match wrong:
        case "another authority":
            fronts[1].use(Authority(tmp_path, "strange").issue("other", NAMES[1]))
        case "another name":
            fronts[1].use(authority.issue("other", "other.test"))
        case "expired":
            fronts[1].use(authority.issue("other", NAMES[1], expired=True))
    async with AsyncRouter(dsn_of(fronts, authority.root)) as router:
        await async_eventually(lambda: states(router) == [HostState.UP, HostState.REJECTED, HostState.UP])
        for _ in range(5):
            async with router.reader() as conn:
                assert conn.info.port == fronts[2].port
        async with router.writer() as conn:
            assert conn.info.port == fronts[0].port
        assert WRONG[wrong] in router.topology.hosts[1].reason
    assert fronts[1].told == 0, "no name of a user, nor a password, by probe or session"


async def test_a_primary_whose_certificate_is_wrong_gets_no_writer(
    fronts: list[TLSFront], authority: Authority
) -> None:
    fronts[0].use(authority.issue("other", "other.test"))
    async with AsyncRouter(dsn_of(fronts, authority.root)) as router:
        with pytest.raises(NoHostAvailable, match=r"does not match host name .db1\.test.") as caught:
            await router.getconn("writer", timeout=1.0)
        async with router.reader() as conn:
            assert conn.info.port != fronts[0].port
        assert NAMES[0] in str(caught.value)
    assert fronts[0].told == 0


async def more_sessions(router: AsyncRouter[Any], count: int) -> list[Any]:
    """Have so many writer sessions at the same time, which takes connections that were not there."""
    conns = [await router.getconn("writer", timeout=5.0) for _ in range(count)]
    for conn in conns:
        await conn.execute("SELECT 1")
        await router.putconn(conn)
    return conns


async def test_a_servers_new_certificate_is_taken_by_new_connections_and_disturbs_none(
    fronts: list[TLSFront], authority: Authority
) -> None:
    async with AsyncRouter(dsn_of(fronts, authority.root)) as router:
        await async_eventually(lambda: up(router))
        [old] = await more_sessions(router, 1)
        renewed = authority.issue("renewed", NAMES[0])
        fronts[0].use(renewed)
        conns = await more_sessions(router, 3)
        assert old in conns, "open connections serve on"
        assert fronts[0].handshakes[-1].certificate == renewed.serial
        assert fronts[0].handshakes[0].certificate != renewed.serial
        assert up(router)
    assert fronts[0].refused == 0


async def test_the_file_of_authorities_is_read_anew_by_each_connection(
    fronts: list[TLSFront], authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.root.read_bytes())
    following = Authority(tmp_path, "following")
    async with AsyncRouter(dsn_of(fronts, trusted)) as router:
        await async_eventually(lambda: up(router))
        await more_sessions(router, 1)
        trusted.write_bytes(authority.root.read_bytes() + following.root.read_bytes())
        renewed = [following.issue(f"following-{name}", name) for name in NAMES]
        for front, credentials in zip(fronts, renewed, strict=True):
            front.use(credentials)
        await more_sessions(router, 2)
        assert fronts[0].handshakes[-1].certificate == renewed[0].serial
        trusted.write_bytes(following.root.read_bytes())
        await more_sessions(router, 3)
        fronts[0].use(authority.issue("late", NAMES[0]))
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            await more_sessions_of_another(dsn_of(fronts, trusted))
        await more_sessions(router, 3)  # open connections serve on


async def more_sessions_of_another(dsn: str) -> None:
    """Log in at the first host, as a new process would."""
    async with AsyncRouter(dsn) as router:
        await router.getconn("writer", timeout=1.0)


async def test_a_clients_new_certificate_is_shown_by_new_connections(
    fronts: list[TLSFront], authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    for name, front in zip(NAMES, fronts, strict=True):
        front.use(authority.issue(f"{name}-strict", name), clients=clients.root)
    old, new = clients.issue("old"), clients.issue("new")
    mine = {"sslcert": str(tmp_path / "mine.crt"), "sslkey": str(tmp_path / "mine.key")}

    def show(credentials: Issued) -> None:
        for source, path in zip((credentials.certificate, credentials.key), mine.values(), strict=True):
            fresh = Path(f"{path}.new")
            fresh.touch(mode=0o600)
            fresh.write_bytes(source.read_bytes())
            fresh.rename(path)

    show(old)
    async with AsyncRouter(dsn_of(fronts, authority.root, **mine)) as router:
        await async_eventually(lambda: up(router))
        await more_sessions(router, 1)
        assert {handshake.client for front in fronts for handshake in front.handshakes} == {old.serial}
        show(new)
        await more_sessions(router, 3)
        assert fronts[0].handshakes[-1].client == new.serial
        assert up(router)
    async with AsyncRouter(dsn_of(fronts, authority.root, sslcertmode="disable")) as router:
        await async_eventually(lambda: set(states(router)) == {HostState.REJECTED})
        with pytest.raises(NoHostAvailable, match="certificate required"):
            await router.getconn("writer", timeout=1.0)


async def test_the_systems_authorities(
    fronts: list[TLSFront], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncRouter(dsn_of(fronts, "system")) as router:
        with pytest.raises(NoHostAvailable, match="certificate verify failed"):
            await router.getconn("writer", timeout=1.0)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    async with AsyncRouter(dsn_of(fronts, "system")) as router:
        await async_eventually(lambda: up(router))
        async with router.writer() as conn:
            assert conn.pgconn.ssl_in_use


async def test_the_systems_authorities_are_not_trusted_without_the_name(fronts: list[TLSFront]) -> None:
    with pytest.raises(ConfigError, match="sslmode"):
        AsyncRouter(dsn_of(fronts, "system", sslmode="require"))


async def test_require_without_an_authority_encrypts_and_verifies_nothing(
    fronts: list[TLSFront], tmp_path: Path
) -> None:
    fronts[0].use(Authority(tmp_path, "strange").issue("strange", "other.test"))
    dsn = dsn_with(dsn_of(fronts, tmp_path / "there-is-none.crt"), sslmode="require")
    async with AsyncRouter(dsn) as router, router.writer() as conn:
        assert conn.pgconn.ssl_in_use


async def test_channel_binding_finds_whoever_ends_tls_in_between(
    fronts: list[TLSFront], authority: Authority
) -> None:
    dsn = dsn_of(fronts, authority.root, channel_binding="require")
    async with AsyncRouter(dsn) as router:
        await async_eventually(lambda: set(states(router)) == {HostState.REJECTED})
        with pytest.raises(NoHostAvailable, match="channel binding"):
            await router.getconn("writer", timeout=1.0)


def server_with_tls() -> str:
    """Return the version of a PostgreSQL that was built with OpenSSL; those in the wheel were not."""
    for server in available_versions():
        if b"libssl.so" in (server.bindir / "postgres").read_bytes():
            return server.version
    pytest.skip("no PostgreSQL that was built with OpenSSL is installed")


def install(node: Node, name: str, source: Path) -> None:
    """Put a file into a server's folder, as its user's own."""
    path, owner = node.data_dir / name, node.data_dir.stat()
    path.touch(mode=0o600)
    path.write_bytes(source.read_bytes())
    shutil.chown(path, owner.st_uid, owner.st_gid)


async def test_client_certificates_and_channel_binding_at_a_server_with_tls_of_its_own(
    authority: Authority, pgroute_cluster_factory: ClusterFactory
) -> None:
    cluster = pgroute_cluster_factory(0, version=server_with_tls())
    node, mine = cluster.primary, authority.issue("server", "127.0.0.1")
    for name, source in {
        "server.crt": mine.certificate,
        "server.key": mine.key,
        "root.crt": authority.root,
    }.items():
        install(node, name, source)
    rules = node.data_dir / "pg_hba.conf"
    rules.write_text("hostssl all app 127.0.0.0/8 cert\n" + rules.read_text())
    for statement in (
        "CREATE ROLE app LOGIN",
        "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
        "ALTER SYSTEM SET ssl = on",
    ):
        node.execute(statement)
    node.execute("SELECT pg_reload_conf()")
    tls = {"sslmode": "verify-full", "sslrootcert": str(authority.root)}

    def shows(name: str) -> dict[str, str]:
        issued = authority.issue(name)
        return {"sslcert": str(issued.certificate), "sslkey": str(issued.key)}

    async with AsyncRouter(dsn_with(cluster.dsn, user="app", **tls, **shows("app"))) as router:
        async with router.writer(5.0) as conn:
            [user] = await (await conn.execute("SELECT current_user")).fetchone() or [None]
            assert (user, conn.pgconn.used_password) == ("app", False)
        await async_eventually(lambda: up(router))
    async with AsyncRouter(dsn_with(cluster.dsn, user="app", **tls, **shows("somebody"))) as router:
        with pytest.raises(NoHostAvailable, match='certificate authentication failed for user "app"'):
            await router.getconn("writer", timeout=1.0)
    async with AsyncRouter(dsn_with(cluster.dsn, **tls, channel_binding="require")) as router:
        async with router.writer(5.0) as conn:
            assert conn.pgconn.used_password
        await async_eventually(lambda: up(router))
