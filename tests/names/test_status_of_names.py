"""What the command line tells of names."""

from __future__ import annotations

import json

import pytest

from pgroute import Router
from pgroute.cli.hosts import show_hosts
from pgroute.cli.status import as_json, assess, observe
from pgroute.cli.terminal import open_console
from pgroute.testing import LocalCluster
from tests.names.nameserver import NameServer
from tests.support import dsn_at

pytestmark = pytest.mark.cluster


def test_status_shows_addresses_and_where_they_came_from(capsys):
    with NameServer() as server, LocalCluster(addresses=["127.0.0.2", "127.0.0.3"]) as cluster:
        port = cluster.nodes[0].port
        server.zone |= {
            "_pg._tcp.test": [(0, 0, port, "n1.test")],
            "n1.test": ["127.0.0.2"],
            "n2.test": ["127.0.0.3"],
        }
        dsn = dsn_at(f"_pg._tcp.test,n2.test:{port}", cluster)
        with Router(dsn, resolver=server.resolver) as router:
            topology = observe(router, 10.0)
        show_hosts(open_console(), topology)
        head, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
        columns = [
            "host",
            "address",
            "role",
            "state",
            "timeline",
            "lag",
            "staleness",
            "rtt",
            "from",
            "reason",
        ]
        assert head == columns
        assert first[:4] == [f"n1.test:{port}", "127.0.0.2", "primary", "up"]
        assert first[-2:] == ["SRV", "_pg._tcp.test"]
        assert second[:4] == [f"n2.test:{port}", "127.0.0.3", "standby", "up"]
        assert second[-1] == "DSN"
        told = json.loads(json.dumps(as_json(topology, assess(topology))))
        assert [(h["host"], h["address"], h["origin"]) for h in told["hosts"]] == [
            ("n1.test", "127.0.0.2", "SRV _pg._tcp.test"),
            ("n2.test", "127.0.0.3", ""),
        ]
