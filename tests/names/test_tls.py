"""A name with an address beside it: TLS and the password file see the name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pgroute import Event, HostState, NoHostAvailable, Router
from pgroute.testing import LocalCluster
from tests.certificates import Authority
from tests.names.nameserver import NameServer
from tests.support import eventually
from tests.tlsfront import TLSFront

pytestmark = pytest.mark.cluster

ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, pgroute_shared_cluster: LocalCluster
) -> Iterator[tuple[TLSFront, Path]]:
    """Give a server with a certificate for db.test alone, which asks for a password, and the root's file."""
    node = pgroute_shared_cluster.nodes[0]
    authority = Authority(tmp_path_factory.mktemp("tls"), "root")
    node.execute("CREATE ROLE app LOGIN PASSWORD 'from the file'")
    node.execute("GRANT pg_monitor TO app")
    with TLSFront(node, authority.issue("server", "db.test"), host=ADDRESS) as front:
        yield front, authority.root
    node.execute("DROP ROLE app")


def open_router(server: NameServer, node, root: Path, name: str, passfile: Path, **options) -> Router:
    files = f"sslrootcert={quote(str(root))}&passfile={quote(str(passfile))}"
    dsn = f"postgresql://app@{name}:{node.port}/postgres?sslmode=verify-full&{files}"
    return Router(dsn, resolver=server.resolver, **options)


@pytest.fixture
def passfile(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("db.test:*:*:app:from the file\nother.test:*:*:app:from the file\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("addresses", ["one-host", "expand"])
def test_certificate_and_password_are_those_of_the_name(secured, passfile, addresses):
    node, root = secured
    with NameServer() as server:
        server.zone["db.test"] = [ADDRESS]
        with (
            open_router(server, node, root, "db.test", passfile, addresses=addresses) as router,
            router.writer(5.0) as conn,
        ):
            assert (conn.info.host, conn.info.hostaddr) == ("db.test", ADDRESS)
            assert conn.pgconn.ssl_in_use
            assert conn.execute("SELECT current_user").fetchone() == ("app",)


@pytest.mark.parametrize("addresses", ["one-host", "expand"])
def test_a_dot_at_the_end_of_a_name_is_for_the_lookup_alone(secured, passfile, addresses):
    node, root = secured
    with NameServer() as server:
        server.zone["db.test"] = [ADDRESS]
        with (
            open_router(server, node, root, "db.test.", passfile, addresses=addresses) as router,
            router.writer(5.0) as conn,
        ):
            assert (conn.info.host, conn.info.hostaddr) == ("db.test", ADDRESS)
            assert router.topology.hosts[0].host == "db.test."


def test_a_certificate_of_another_name_is_refused(secured, passfile):
    node, root = secured
    with NameServer() as server:
        server.zone["other.test"] = [ADDRESS]
        with open_router(server, node, root, "other.test", passfile) as router:
            with pytest.raises(NoHostAvailable, match=r'does not match host name "other\.test"'):
                router.wait(timeout=1.0)
            assert router.topology.hosts[0].state is HostState.REJECTED


def test_targets_of_a_service_are_verified_by_their_own_names(secured, passfile):
    node, root = secured
    with NameServer() as server:
        server.zone |= {"_pg._tcp.test": [(0, 0, node.port, "db.test")], "db.test": [ADDRESS]}
        with open_router(server, node, root, "_pg._tcp.test", passfile) as router, router.writer(5.0) as conn:
            assert conn.info.host == "db.test"


def test_a_name_that_the_dns_chose_is_not_verified_unless_its_domain_is_trusted(secured, passfile, caplog):
    node, root = secured
    service = "_pg._tcp.shop.example"
    caplog.set_level(logging.INFO, "pgroute")
    with NameServer() as server:
        # Who forges this answer has a certificate for that name.
        server.zone |= {service: [(0, 0, node.port, "db.test")], "db.test": [ADDRESS]}
        events: list[Event] = []
        router = open_router(server, node, root, service, passfile)
        router.subscribe(events.append)
        with router:
            told = r"SRV target db\.test is refused: it is not below shop\.example.*srv_domains="
            with pytest.raises(NoHostAvailable, match=told):
                router.wait(timeout=1.0)
            eventually(lambda: [event for event in events if re.search(told, event.text)])
            assert [host.host for host in router.topology.hosts] == [service]
            eventually(lambda: re.search(told, caplog.text))
        assert not server.asked["db.test", "A"]
        with (
            open_router(server, node, root, service, passfile, srv_domains=["test"]) as router,
            router.writer(5.0) as conn,
        ):
            assert conn.info.host == "db.test"
