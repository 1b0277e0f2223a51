"""An adviser over REST beside a real cluster: what it says counts, what it does wrong costs nothing."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgroute import (
    AdviserInfo,
    Event,
    EventKind,
    HostAdvice,
    HostRole,
    HostState,
    NoHostAvailable,
    PatroniDiscovery,
    ProbeOptions,
    Router,
)
from pgroute.testing import LocalCluster, Node
from tests.certificates import Authority
from tests.discovery.rest_api import Answering, RestApi, endless, member, raw, silent, slow, whole
from tests.names.nameserver import NameServer
from tests.names.relay import relay
from tests.support import dsn_at, eventually

pytestmark = pytest.mark.cluster


@pytest.fixture
def api() -> Iterator[RestApi]:
    with RestApi() as api:
        yield api


def told(cluster: LocalCluster, *names: int, **more: Any) -> dict[str, Any]:
    """Return an answer with the nodes of these numbers, or all."""
    nodes = dict(enumerate(cluster.nodes, 1))
    members = [member(f"n{n}", node.host, node.port) for n, node in nodes.items() if n in (names or nodes)]
    return {"members": members, "scope": "shop", **more}


def tagged(answer: dict[str, Any], name: str, **tags: Any) -> dict[str, Any]:
    """Return an answer in which a member has tags."""
    members = [{**m, "tags": tags} if m["name"] == name else m for m in answer["members"]]
    return {**answer, "members": members}


def first_dsn(cluster: LocalCluster) -> str:
    return dsn_at(f"{cluster.nodes[0].host}:{cluster.nodes[0].port}", cluster)


def asking(*apis: RestApi, **more: Any) -> PatroniDiscovery:
    """Return the options of a discovery that is quick."""
    return PatroniDiscovery(**{"urls": [api.url for api in apis], "interval": 0.1, "timeout": 10.0, **more})


def ports(router: Router) -> list[int]:
    return [host.port for host in router.topology.hosts]


def port_of(router: Router, role: str) -> int:
    with router.writer() if role == "writer" else router.reader() as conn:
        return int(conn.info.port)


def up(router: Router, *nodes: Node) -> bool:
    """Return whether these are the hosts of the router, all up."""
    states = [host.state for host in router.topology.hosts]
    return ports(router) == [node.port for node in nodes] and set(states) == {HostState.UP}


def adviser(router: Router) -> AdviserInfo:
    known = router.topology.adviser
    return AdviserInfo("none") if known is None else known


def advice(router: Router, number: int) -> HostAdvice | None:
    return router.topology.hosts[number - 1].advice


def error(router: Router) -> str:
    return adviser(router).error


def test_members_join_and_leave_and_roles_are_what_probes_find(shared: LocalCluster, api: RestApi) -> None:
    first, second, third = shared.nodes
    lie = told(shared)
    lie["members"][2]["role"] = "leader"
    api.answer = whole(lie)
    events: list[Event] = []
    router = Router(first_dsn(shared), discovery=asking(api))
    router.subscribe(events.append)
    with router:
        eventually(lambda: up(router, first, second, third))
        assert [host.role for host in router.topology.hosts] == [HostRole.PRIMARY, *2 * [HostRole.STANDBY]]
        assert [host.origin for host in router.topology.hosts] == ["", "member n2", "member n3"]
        assert port_of(router, "writer") == first.port
        # Whoever joined last warms up, and gets few sessions at first.
        seen: list[int] = []

        def both() -> bool:
            seen.append(port_of(router, "reader"))
            return {*seen} == {second.port, third.port}

        eventually(both)
        with router.reader() as conn:
            other = third if conn.info.port == second.port else second
            api.answer = whole(told(shared, 1, 2 if other is second else 3))
            eventually(lambda: up(router, first, other))
            assert conn.execute("SELECT 1").fetchone() == (1,), "a session in flight goes on"
        api.answer = whole(told(shared))
        eventually(lambda: len(ports(router)) == 3)
    assert {api_line.split()[1] for api_line in api.asked} == {"/cluster"}
    eventually(lambda: {event.kind for event in events} >= {EventKind.HOST_REMOVED, EventKind.ADVICE})


def test_hosts_of_the_dsn_stay_whatever_the_adviser_says(shared: LocalCluster, api: RestApi) -> None:
    api.answer = whole(told(shared, 3))
    with Router(shared.dsn, discovery=asking(api)) as router:
        eventually(lambda: up(router, *shared.nodes) and adviser(router).members == 1)
        assert [h.advice and h.advice.member for h in router.topology.hosts] == [None, None, "n3"]


def test_member_that_is_all_that_is_left_of_the_cluster_joins(
    any_cluster: LocalCluster, api: RestApi
) -> None:
    first, second, _ = any_cluster.nodes
    api.answer = whole(told(any_cluster, 1))
    with Router(first_dsn(any_cluster), discovery=asking(api)) as router:
        eventually(lambda: up(router, first) and adviser(router).answering)
        first.kill()
        eventually(lambda: router.topology.hosts[0].state is HostState.DOWN)
        second.promote()
        api.answer = whole(told(any_cluster, 2))
        assert port_of(router, "writer") == second.port


def test_member_of_another_name_is_known_by_what_its_server_says(shared: LocalCluster, api: RestApi) -> None:
    answer = tagged(told(shared), "n2", noloadbalance=True)
    answer["members"] = [{**m, "host": "localhost"} for m in answer["members"]]
    api.answer = whole(answer)
    with Router(shared.dsn, discovery=asking(api)) as router:
        eventually(lambda: all(h.advice for h in router.topology.hosts))
        assert up(router, *shared.nodes)
        assert [h.advice.member for h in router.topology.hosts if h.advice] == ["n1", "n2", "n3"]
        assert {port_of(router, "reader") for _ in range(20)} == {shared.nodes[2].port}


def test_member_that_joined_may_have_another_name_beside_it(shared: LocalCluster, api: RestApi) -> None:
    first, second, _ = shared.nodes
    api.answer = whole(told(shared, 1, 2))
    with Router(first_dsn(shared), discovery=asking(api)) as router:
        eventually(lambda: up(router, first, second))
        answer = told(shared, 1, 2)
        answer["members"].append(member("a2", "localhost", second.port))
        api.answer = whole(answer)
        eventually(lambda: adviser(router).members == 3 and adviser(router).settled)
        eventually(lambda: adviser(router).strangers == ())
        assert up(router, first, second)


def test_renamed_member_is_heard_while_its_old_name_is_still_listed(
    shared: LocalCluster, api: RestApi
) -> None:
    answer = tagged(told(shared), "n2", noloadbalance=True)
    _, second, third = shared.nodes
    answer["members"].append(member("old", second.host, second.port) | {"state": "stopped"})
    api.answer = whole(answer)
    with Router(shared.dsn, discovery=asking(api)) as router:
        eventually(lambda: up(router, *shared.nodes) and advice(router, 2))
        assert {port_of(router, "reader") for _ in range(20)} == {third.port}


def test_alias_whose_server_restarts_does_not_join_at_an_address_that_leads_nowhere(
    any_cluster: LocalCluster, api: RestApi
) -> None:
    _, second, third = any_cluster.nodes
    answer = tagged(told(any_cluster, 1, 2), "n2", noloadbalance=True)
    private = ("127.0.0.77", second.port)
    answer["members"][1]["host"] = private[0]
    api.answer = whole(answer)
    events: list[Event] = []
    router = Router(any_cluster.dsn, discovery=asking(api))
    router.subscribe(events.append)
    with router:
        with relay(private, (second.host, second.port)):
            eventually(lambda: up(router, *any_cluster.nodes) and advice(router, 2))
        started = router.topology.hosts[1].started_at
        second.stop()
        second.start()
        eventually(lambda: router.topology.hosts[1].started_at != started and up(router, *any_cluster.nodes))
        asked = len(api.asked)
        eventually(lambda: len(api.asked) >= asked + 5)
        known = advice(router, 2)
        assert known is not None
        assert known.no_reads
        assert up(router, *any_cluster.nodes)
        # An answer tells otherwise.
        with relay(private, (third.host, third.port)):
            eventually(lambda: advice(router, 3))
            assert advice(router, 2) is None
    assert [event.kind for event in events if event.kind is EventKind.HOST_ADDED] == []


def test_member_at_a_private_name_is_no_host_and_no_trouble(shared: LocalCluster, api: RestApi) -> None:
    answer = told(shared, 1, 2)
    answer["members"] += [member("n3", "n3.invalid", 5432), member("n4", "127.0.0.1", 1)]
    api.answer = whole(answer)
    with Router(first_dsn(shared), discovery=asking(api)) as router:
        eventually(lambda: up(router, *shared.nodes[:2]))
        eventually(lambda: adviser(router).settled)
        reasons = dict(adviser(router).strangers)
        assert reasons.keys() == {"n3", "n4"}
        assert "could not resolve 'n3.invalid'" in reasons["n3"]
        assert "refused" in reasons["n4"]


def test_member_joins_although_the_first_address_of_its_name_hangs(
    shared: LocalCluster, api: RestApi
) -> None:
    first, second, _ = shared.nodes
    answer = told(shared, 1, 2)
    answer["members"][1]["host"] = "n2.test"
    api.answer = whole(answer)
    probe = ProbeOptions(timeout=1.0)
    with NameServer() as names, socket.create_server(("127.0.0.2", second.port)):
        names.zone["n2.test"] = ["127.0.0.2", second.host]
        with Router(first_dsn(shared), discovery=asking(api), resolver=names.resolver, probe=probe) as router:
            eventually(lambda: up(router, first, second))


def test_names_of_members_lead_where_the_user_says(shared: LocalCluster, api: RestApi) -> None:
    answer = told(shared)
    answer["members"] = [{**m, "host": f"{m['name']}-peer", "port": 5432} for m in answer["members"]]
    api.answer = whole(answer)
    hosts = {f"n{n}": f"{node.host}:{node.port}" for n, node in enumerate(shared.nodes, 1)}
    with Router(first_dsn(shared), discovery=asking(api, hosts=hosts)) as router:
        eventually(lambda: up(router, *shared.nodes))


def test_tags_keep_readers_away_and_give_zones(shared: LocalCluster, api: RestApi) -> None:
    _, second, third = shared.nodes
    api.answer = whole(tagged(told(shared), "n3", noloadbalance=True, nofailover=True, zone="east"))
    with Router(shared.dsn, discovery=asking(api), zone="east") as router:
        eventually(lambda: up(router, *shared.nodes) and advice(router, 3))
        assert {port_of(router, "reader") for _ in range(20)} == {second.port}
        expected = HostAdvice("n3", "replica", "streaming", no_reads=True, no_failover=True, zone="east")
        assert advice(router, 3) == expected
        assert router.topology.hosts[2].zone == "east"
        api.answer = whole(tagged(told(shared), "n3", zone="east"))
        eventually(lambda: advice(router, 3) == HostAdvice("n3", "replica", "streaming", zone="east"))
        assert {port_of(router, "reader") for _ in range(20)} == {third.port}, "the own zone comes first"
        assert router.stats().adviser == router.topology.adviser


FAULTS: dict[str, tuple[Answering, str]] = {
    "silent": (silent, "no answer in 0.5 s"),
    "endless": (endless, "more than|no answer in"),
    "slow": (slow, "no answer in 0.5 s"),
    "hung up": (raw(b""), "without an answer"),
    "not http": (raw(b"\x00\xff" * 100), "no answer in HTTP"),
    "not json": (raw(b"HTTP/1.0 200 OK\r\n\r\n<html>"), "not a JSON object"),
    "wrong types": (whole({"members": [{"name": ["n1"]}]}), "not a text"),
    "no members": (whole({"members": []}), "lists no members"),
    "redirect": (raw(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), "not followed"),
    "unavailable": (whole({}, "503 Service Unavailable"), "status 503"),
    "deep": (raw(b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200_000), "not a JSON object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_api_costs_nothing(shared: LocalCluster, api: RestApi, fault: str) -> None:
    answer, reason = FAULTS[fault]
    api.answer = answer
    with Router(shared.dsn, discovery=asking(api, interval=0.2, timeout=0.5)) as router:
        eventually(lambda: up(router, *shared.nodes))
        eventually(lambda: re.search(reason, error(router) or ""))  # the first answer may be late
        assert api.url in error(router)
        # Probes go on, and so do sessions.
        seen = router.topology.hosts[0].last_seen
        eventually(lambda: router.topology.hosts[0].last_seen != seen)
        assert port_of(router, "writer") == shared.nodes[0].port


def test_last_word_stands_and_is_forgotten_in_the_end(shared: LocalCluster, api: RestApi) -> None:
    first, second, third = shared.nodes
    api.answer = whole(tagged(told(shared), "n3", noloadbalance=True))
    with Router(first_dsn(shared), discovery=asking(api, forget_after=1.0)) as router:
        eventually(lambda: up(router, first, second, third))
        api.answer = raw(b"")
        eventually(lambda: error(router))
        assert not adviser(router).answering
        assert advice(router, 3) == HostAdvice("n3", "replica", "streaming", no_reads=True)
        eventually(lambda: adviser(router).forgotten)
        assert up(router, first, second, third), "hosts that serve stay"
        assert [host.advice for host in router.topology.hosts] == [None] * 3
        api.answer = whole(told(shared, 1, 2))
        eventually(lambda: up(router, first, second))


def test_next_url_is_asked_if_one_is_dead_or_silent(shared: LocalCluster, api: RestApi) -> None:
    with RestApi(whole(told(shared))) as good:
        discovery = PatroniDiscovery(
            urls=["http://127.0.0.1:1", api.url, good.url], interval=0.1, timeout=0.2
        )
        with Router(first_dsn(shared), discovery=discovery) as router:
            eventually(lambda: len(ports(router)) == 3)
            assert adviser(router).source == good.url
            eventually(lambda: len(good.asked) >= 4)
            assert len(api.asked) < len(good.asked), "the one that answered is asked first"


def test_answer_about_another_cluster_is_none_and_its_url_is_left_again(
    shared: LocalCluster, api: RestApi
) -> None:
    foreign = whole({"members": [member("x1", "127.0.0.1", 1)], "scope": "billing"})
    api.answer = whole(told(shared))
    with (
        RestApi(foreign) as other,
        Router(first_dsn(shared), discovery=asking(api, other)) as router,
    ):
        eventually(lambda: up(router, *shared.nodes))
        api.answer = whole({"members": []})
        text = eventually(lambda: error(router))
        assert f"{other.url}: it tells of another cluster, billing, not of shop" in text
        assert up(router, *shared.nodes)
        api.answer = whole(told(shared))
        eventually(lambda: adviser(router).answering)
        assert adviser(router).source == api.url


def test_another_cluster_is_believed_once_the_first_is_forgotten(shared: LocalCluster, api: RestApi) -> None:
    api.answer = whole(told(shared))
    with Router(shared.dsn, discovery=asking(api, forget_after=0.5)) as router:
        eventually(lambda: adviser(router).scope == "shop")
        api.answer = whole(told(shared, scope="shop2"))
        eventually(lambda: adviser(router).scope == "shop2")
        assert up(router, *shared.nodes)


def test_routers_of_a_process_share_their_questions(shared: LocalCluster, api: RestApi) -> None:
    api.answer = whole(told(shared))
    discovery = asking(api, interval=60.0)
    with Router(first_dsn(shared), discovery=discovery) as one:
        eventually(lambda: len(ports(one)) == 3)
        with Router(first_dsn(shared), discovery=asking(api, interval=60.0), name="two") as two:
            eventually(lambda: len(ports(two)) == 3)
        assert len(api.asked) == 1
        assert len(ports(one)) == 3
    with Router(first_dsn(shared), discovery=discovery) as router:
        eventually(lambda: len(ports(router)) == 3)
    assert len(api.asked) == 2


def test_primary_makes_way_for_a_switchover_that_is_given_up(shared: LocalCluster, api: RestApi) -> None:
    def planned(seconds: float) -> Answering:
        """Tell of a switchover so many seconds from now."""
        at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        return whole(told(shared, scheduled_switchover={"at": at, "from": "n1", "to": "n2"}))

    def makes_way() -> bool:
        host = router.topology.hosts[0]
        return host.state is HostState.DRAINED and words in host.reason

    def turns_away() -> bool:
        # Not while an answer of the adviser's is late: the plan is in doubt then.
        try:
            router.putconn(router.getconn("writer", timeout=0.05))
        except NoHostAvailable as exc:
            return words in str(exc)
        return False

    words = "a switchover from n1 to n2 begins"
    api.answer = whole(told(shared))
    options: dict[str, Any] = {"drain_before": 0.3, "drain_for": 1000.0}
    with Router(shared.dsn, discovery=asking(api, **options)) as router:
        eventually(lambda: up(router, *shared.nodes) and router.topology.hosts[0].advice)
        with router.writer() as conn:
            api.answer = planned(0.6)
            eventually(makes_way)
            eventually(turns_away)
            assert conn.execute("SELECT 1").fetchone() == (1,), "a session in flight goes on"
        api.answer = planned(1.0 - 1000.0)  # in a second it has been waited for long enough
        begun = time.monotonic()
        assert port_of(router, "writer") == shared.nodes[0].port
        eventually(lambda: up(router, *shared.nodes) and time.monotonic() > begun + 1.5)
        assert port_of(router, "writer") == shared.nodes[0].port


def test_primary_serves_on_if_the_named_candidate_is_down(any_cluster: LocalCluster, api: RestApi) -> None:
    first, _, third = any_cluster.nodes
    third.kill()
    options: dict[str, Any] = {"drain_before": 1000.0, "drain_for": 1000.0}
    plan = {"at": (datetime.now(UTC) + timedelta(seconds=60)).isoformat(), "from": "n1", "to": "n3"}
    api.answer = whole(told(any_cluster, scheduled_switchover=plan))
    with Router(any_cluster.dsn, discovery=asking(api, **options)) as router:
        eventually(lambda: (known := advice(router, 1)) and known.handing_over)
        eventually(lambda: router.topology.hosts[1].usable)
        assert port_of(router, "writer") == first.port
        third.start()
        eventually(lambda: router.topology.hosts[0].state is HostState.DRAINED)


def test_switchover_that_is_taken_back_ends_the_wait_at_once(shared: LocalCluster, api: RestApi) -> None:
    options: dict[str, Any] = {"drain_before": 1000.0, "drain_for": 1000.0}
    plan = {"at": (datetime.now(UTC) + timedelta(seconds=60)).isoformat(), "from": "n1"}
    api.answer = whole(told(shared, scheduled_switchover=plan))
    with Router(shared.dsn, discovery=asking(api, **options)) as router:
        eventually(lambda: router.topology.hosts[0].state is HostState.DRAINED)
        api.answer = whole(told(shared))
        assert port_of(router, "writer") == shared.nodes[0].port
        assert adviser(router).switchover == ""


def test_paused_manager_is_told(shared: LocalCluster, api: RestApi) -> None:
    plan = {"at": datetime.now(UTC).isoformat(), "from": "n1"}
    api.answer = whole(told(shared, pause=True, scheduled_switchover=plan))
    with Router(shared.dsn, discovery=asking(api)) as router:
        eventually(lambda: up(router, *shared.nodes) and adviser(router).paused)


def test_api_by_https_is_verified(shared: LocalCluster, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "root"), Authority(tmp_path, "stranger")
    server, client = authority.issue("server", "localhost"), authority.issue("client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(authority.root)
    context.verify_mode = ssl.CERT_REQUIRED
    files: dict[str, str] = {
        "cafile": str(authority.root),
        "certfile": str(client.certificate),
        "keyfile": str(client.key),
    }
    with (
        RestApi(whole(told(shared)), context) as api,
        Router(first_dsn(shared), discovery=asking(api, timeout=5.0, **files)) as router,
    ):
        eventually(lambda: len(ports(router)) == 3)
    for wrong in (files | {"cafile": str(stranger.root)}, files | {"cafile": "/nowhere"}, {}):
        with RestApi(whole(told(shared)), context) as api:
            with Router(
                first_dsn(shared), discovery=asking(api, timeout=5.0, **{**files, **wrong} if wrong else {})
            ) as router:
                assert eventually(lambda: error(router))
            assert api.asked == []


def test_events_are_one_for_each_change(shared: LocalCluster, api: RestApi) -> None:
    api.answer = whole(told(shared))
    events: list[str] = []
    router = Router(shared.dsn, discovery=asking(api))
    router.subscribe(lambda event: events.append(event.text) if event.kind is EventKind.ADVICE else None)
    with router:
        eventually(lambda: len(api.asked) > 4)
        api.answer = raw(b"")
        eventually(lambda: error(router))
        asked = len(api.asked)
        eventually(lambda: len(api.asked) > asked + 3)
    assert [text.partition(":")[0] for text in events] == [
        "Patroni at http",
        "Patroni gives no advice, its last answer counts for some time",
    ], json.dumps(events)
