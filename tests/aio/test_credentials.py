"""A credentials function: rotated passwords, expiring tokens, users by role, and a function that misbehaves."""

from __future__ import annotations

import asyncio  # async-only
import dataclasses
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from pgroute import (
    AsyncRouter,
    CredentialRequest,
    HostState,
    NoHostAvailable,
    PoolOptions,
    ProbeOptions,
)
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import key, refused_until
from tests.core.config.test_discreet import shown
from tests.support import (
    AsyncBackground,
    as_coroutine,
    as_function,
    async_call,
    async_eventually,
    dsn_with,
    hang,
    within,
)

pytestmark = pytest.mark.cluster

SECRET = "s3cret-hunter2"
WRONG = "wr0ng-hunter3"
ALMOST_A_GAP = 4.5
"""Seconds: a host that has refused a login is tried again after five."""
ROLES = ("tea", "coffee", "cocoa")
FACES = pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(as_function, id="function"),
        pytest.param(as_coroutine, id="coroutine"),
    ],
)


@dataclasses.dataclass
class Vault:
    """Gives the password that it holds; with a cache, as of the last time that a login was refused.

    Attributes:
        password: the current one.
        user: of all connections.
        cached: the one that is given.
        asked: how often, by request.
    """

    password: str = SECRET
    user: str = "tea"
    cached: str = ""
    asked: Counter[CredentialRequest] = dataclasses.field(default_factory=Counter)

    def __call__(self, request: CredentialRequest) -> dict[str, str]:
        self.asked[request] += 1
        if request.refused or not self.cached:
            self.cached = self.password
        return {"user": self.user, "password": self.cached}

    def asked_by(self, role: str, *, refused: bool = False) -> int:
        return sum(
            n for request, n in self.asked.items() if (request.role, request.refused) == (role, refused)
        )


@pytest.fixture
def roles(mended: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster with the login roles of ROLES, whose password is SECRET."""
    for role in ROLES:
        mended.primary.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
    mended.catch_up()
    yield mended
    for role in ROLES:
        mended.primary.execute(f"DROP ROLE {role}")


def dsn(cluster: LocalCluster) -> str:
    """Return a DSN without a login: only the function lets anybody in."""
    return dsn_with(cluster.dsn, user="nobody", password="", passfile="/dev/null")


def one_host(cluster: LocalCluster) -> str:
    node = cluster.nodes[0]
    return f"postgresql://nobody@{node.host}:{node.port}/postgres?passfile=/dev/null"


def alter(cluster: LocalCluster, statement: str) -> None:
    cluster.primary.execute(statement)
    cluster.catch_up()


def refusals(node: Node, role: str) -> int:
    return len(re.findall(f'FATAL:  password authentication failed for user "{role}"', node.log()))


def users(node: Node) -> dict[str, set[str]]:
    """Return the users of the probes and of all other connections."""
    found: dict[str, set[str]] = {"probe": set(), "session": set()}
    for name, user in node.execute(
        "SELECT application_name, usename FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'pgroute-testing' AND pid <> pg_backend_pid()"
    ):
        found["probe" if name.endswith("pgroute-monitor") else "session"].add(user)
    return found


def logins(router: AsyncRouter[Any]) -> int:
    return router.stats().writer.totals["connections_num"]


def opened_since(router: AsyncRouter[Any], before: int) -> bool:
    """Return whether some connections were opened since then."""
    return logins(router) > before + 3


async def work(router: AsyncRouter[Any], role: Any, stop: threading.Event) -> tuple[int, float]:
    """Have sessions, one after the other; return how many and the longest wait. The first that fails raises."""
    served, longest = 0, 0.0
    while not stop.is_set():
        asked_at = time.monotonic()
        conn = await router.getconn(role, timeout=20)
        longest = max(longest, time.monotonic() - asked_at)
        try:
            await conn.execute("SELECT 1")
            await conn.commit()
        finally:
            await router.putconn(conn)
        served += 1
        await asyncio.sleep(0.001)  # the load leaves some of the processor to the server and the monitor
    return served, longest


# sync-only: @pytest.mark.long
@FACES
async def test_a_password_is_rotated_under_load(roles: LocalCluster, wrap: Any) -> None:
    vault = Vault()
    often = PoolOptions(min_size=2, max_size=4, max_lifetime=0.2)
    stop = threading.Event()
    before = [refusals(node, "tea") for node in roles.nodes]
    async with (
        AsyncRouter(dsn(roles), credentials=wrap(vault), writer=often, reader=often) as router,
        AsyncBackground() as background,
    ):
        await router.wait()
        working = [
            background.start(work, router, role, stop) for role in ("writer", "reader") for _ in range(4)
        ]
        try:
            for number in range(10):
                vault.password = f"{SECRET}-{number}"
                await async_call(alter, roles, f"ALTER ROLE tea PASSWORD '{vault.password}'")
                await async_eventually(partial(opened_since, router, logins(router)))
        finally:
            stop.set()
        done = [await handle.result() for handle in working]
    served = [count for count, _ in done]
    longest = max(seconds for _, seconds in done)
    refused = [refusals(node, "tea") - was for node, was in zip(roles.nodes, before, strict=True)]
    print(f"{sum(served)} sessions, 0 failed, longest wait {longest:.3f} s; logins refused {refused}")
    assert min(served) > 20
    assert longest < ALMOST_A_GAP, "nobody waits until the host is tried again"
    afresh = sum(vault.asked_by(role, refused=True) for role in ("writer", "reader", "probe"))
    assert afresh >= 5, "the old password was refused, and the new one taken"
    assert max(refused) <= 30, "at most one login of each of three kinds is refused in one rotation"


@FACES
async def test_a_wrong_password_once_costs_one_login_and_no_wait(roles: LocalCluster, wrap: Any) -> None:
    vault = Vault(cached=WRONG)
    before = refusals(roles.nodes[0], "tea")
    begun_at = time.monotonic()
    async with AsyncRouter(one_host(roles), credentials=wrap(vault)) as router:
        await router.wait()
        assert time.monotonic() - begun_at < ALMOST_A_GAP
        assert vault.asked_by("probe", refused=True) == 1
        host = router.topology.hosts[0]
        assert host.state is HostState.UP
    assert refusals(roles.nodes[0], "tea") - before == 1


async def test_a_wrong_password_is_not_tried_again_and_again(roles: LocalCluster) -> None:
    before = refusals(roles.nodes[0], "tea")
    begun_at = time.monotonic()
    vault = Vault(password=WRONG)
    async with AsyncRouter(one_host(roles), credentials=vault) as router:
        for role in ("writer", "reader"):
            with pytest.raises(NoHostAvailable, match="password authentication failed") as caught:
                await router.getconn(role, timeout=3.0)
            assert [text for text in shown(caught.value) if WRONG in text] == []
        await async_call(alter, roles, f"ALTER ROLE tea PASSWORD '{WRONG}'")
        assert refusals(roles.nodes[0], "tea") - before <= 1 + (time.monotonic() - begun_at) / 5
        # At the next attempt, not at the one after it.
        await async_eventually(lambda: router.topology.hosts[0].state is HostState.UP, 8.0)
        await router.wait()


async def test_pools_and_probes_have_users_of_their_own(roles: LocalCluster) -> None:
    by_role = {"writer": "tea", "reader": "coffee", "probe": "cocoa"}

    def function(request: CredentialRequest) -> dict[str, str]:
        return {"user": by_role[request.role], "password": SECRET}

    async with AsyncRouter(dsn(roles), credentials=function) as router:
        async with router.writer() as conn:
            assert conn.info.user == "tea"
        async with router.reader() as conn:
            assert conn.info.user == "coffee"
            standby = next(node for node in roles.nodes if node.port == conn.info.port)
        assert await async_call(users, roles.nodes[0]) == {"probe": {"cocoa"}, "session": {"tea"}}
        assert await async_call(users, standby) == {"probe": {"cocoa"}, "session": {"coffee"}}


async def test_a_role_that_is_refused_says_nothing_of_the_others(roles: LocalCluster) -> None:
    def function(request: CredentialRequest) -> dict[str, str]:
        return {"user": "tea", "password": SECRET if request.role != "reader" else WRONG}

    async with AsyncRouter(dsn(roles), credentials=function) as router:
        await router.wait()
        words = 'password authentication failed for user "tea"'
        error = await refused_until(lambda text: words in text, router, "reader")
        assert [text for text in shown(error) if WRONG in text] == []
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
        assert all(host.state is HostState.UP for host in router.topology.hosts)


@pytest.mark.long
async def test_a_token_that_expires_is_issued_again(roles: LocalCluster) -> None:
    issued: list[tuple[str, float]] = []
    lock = threading.Lock()

    def token(request: CredentialRequest) -> dict[str, str]:
        """Give a password that is good for a second; issued anew when it is near its end, or was refused."""
        with lock:
            if not issued or request.refused or time.monotonic() - issued[-1][1] > 0.8:
                password = f"{SECRET}-{len(issued)}"
                roles.nodes[0].execute(
                    f"ALTER ROLE tea PASSWORD '{password}' VALID UNTIL '"
                    + time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(time.time() + 2))
                    + "'"
                )
                issued.append((password, time.monotonic()))
            return {"user": "tea", "password": issued[-1][0]}

    often = PoolOptions(min_size=2, max_size=4, max_lifetime=0.2)
    stop = threading.Event()
    async with (
        AsyncRouter(one_host(roles), credentials=token, writer=often, reader=often) as router,
        AsyncBackground() as background,
    ):
        await router.wait()
        working = [background.start(work, router, "writer", stop) for _ in range(4)]
        try:
            await async_eventually(lambda: len(issued) >= 4, 30)
        finally:
            stop.set()
        served = [(await handle.result())[0] for handle in working]
    print(f"{len(issued)} tokens, {sum(served)} sessions, 0 failed")
    assert min(served) > 20


async def test_each_connection_asks_once(roles: LocalCluster) -> None:
    vault = Vault()
    size = 8
    async with AsyncRouter(one_host(roles), credentials=vault, writer=PoolOptions(max_size=size)) as router:
        await router.wait()
        conns = [await router.getconn("writer") for _ in range(size)]
        for conn in conns:
            await router.putconn(conn)
        opened = router.stats().writer.totals["connections_num"]
        assert opened == size
        assert vault.asked_by("writer") == opened
        assert vault.asked_by("probe") == 1


async def test_routers_do_not_share_probes_that_log_in_differently(roles: LocalCluster) -> None:
    async with (
        AsyncRouter(one_host(roles), credentials=Vault(user="tea")) as first,
        AsyncRouter(one_host(roles), credentials=Vault(user="coffee")) as second,
    ):
        await first.wait()
        await second.wait()
        assert (await async_call(users, roles.nodes[0]))["probe"] == {"tea", "coffee"}


def pgroute_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("pgroute")}


def seen_since(router: AsyncRouter[Any], host: Any, at: float) -> bool:
    return (router.topology.by_key[host].last_seen or 0.0) > at


def broken(what: Any) -> Any:
    def function(request: CredentialRequest) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what

    return function


@FACES
@pytest.mark.parametrize(
    ("what", "text"),
    [
        (LookupError("vault: permission denied"), "raised LookupError: vault: permission denied"),
        (RuntimeError(f"password={SECRET}"), "raised RuntimeError"),
        (SystemExit(1), "raised SystemExit: 1"),
        (None, "returned a NoneType, expected a mapping"),
        ([SECRET], "returned a list, expected a mapping"),
        ({"passwd": SECRET}, "returned an unknown key; did you mean 'password'?"),
        ({"password": SECRET.encode()}, "returned a bytes for 'password', expected a str"),
        ({"password": f"{SECRET}\0"}, "returned a NUL character or a lone surrogate in 'password'"),
    ],
)
async def test_what_goes_wrong_is_a_reason(
    roles: LocalCluster, caplog: pytest.LogCaptureFixture, wrap: Any, what: Any, text: str
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Any] = []
    router = AsyncRouter(dsn(roles), credentials=wrap(broken(what)))
    router.subscribe(events.append)
    async with router:
        await async_eventually(lambda: all(h.state is HostState.REJECTED for h in router.topology.hosts))
        with pytest.raises(NoHostAvailable) as caught:
            await router.getconn("writer", timeout=0.5)
        host = router.topology.hosts[0]
        told = [
            str(caught.value),
            repr(caught.value),
            str(router.topology),
            repr(router),
            repr(router.stats()),
        ]
    assert text in str(caught.value)
    assert "within 0.5 s" in str(caught.value), "not given up at once, as when all hosts refuse the login"
    assert text in host.reason
    assert host.state is HostState.REJECTED
    assert SECRET not in " ".join([*told, caplog.text, repr(events)])
    assert [text for text in shown(caught.value) if SECRET in text] == [], "in no frame of ours"
    assert "Traceback" not in caplog.text


async def test_a_pool_whose_function_fails_tells_why(roles: LocalCluster) -> None:
    def function(request: CredentialRequest) -> dict[str, str]:
        if request.role == "writer":
            raise LookupError("vault sealed")
        return {"user": "tea", "password": SECRET}

    async with AsyncRouter(dsn(roles), credentials=function) as router:
        async with router.reader():
            pass
        await refused_until(lambda text: "raised LookupError: vault sealed" in text, router, "writer")
        assert all(host.state is HostState.UP for host in router.topology.hosts)


async def test_it_recovers_soon_after_the_function_does(roles: LocalCluster) -> None:
    vault = Vault()
    fails = True

    def function(request: CredentialRequest) -> dict[str, str]:
        if fails:
            raise LookupError("vault sealed")
        return vault(request)

    async with AsyncRouter(dsn(roles), credentials=function) as router:
        async with AsyncBackground() as background:
            await async_eventually(lambda: all(h.state is HostState.REJECTED for h in router.topology.hosts))
            waiting = background.start(router.wait)
            fails = False
            begun_at = time.monotonic()
            await waiting.result()
        assert time.monotonic() - begun_at < ALMOST_A_GAP


async def test_a_function_that_hangs_is_a_reason_and_closing_does_not_wait_for_it(
    roles: LocalCluster,
) -> None:
    released = threading.Event()

    def function(request: CredentialRequest) -> dict[str, str]:
        released.wait(30)
        return {}

    try:
        router = AsyncRouter(dsn(roles), credentials=function, probe=ProbeOptions(timeout=0.2))
        async with router:
            await refused_until(lambda text: "gave no answer within 0.2 s" in text, router, "writer", 1.0)
            begun_at = time.monotonic()
        assert time.monotonic() - begun_at < within(2.0)
        await async_eventually(lambda: pgroute_threads() == {"pgroute-credentials"})
    finally:
        released.set()


async def test_a_coroutine_that_hangs_is_cancelled_when_the_router_closes(roles: LocalCluster) -> None:
    probe = ProbeOptions(timeout=0.2)
    async with AsyncRouter(dsn(roles), credentials=hang, probe=probe) as router:
        await refused_until(lambda text: "gave no answer within 0.2 s" in text, router, "writer", 1.0)
        begun_at = time.monotonic()
    assert time.monotonic() - begun_at < within(2.0)
    await async_eventually(lambda: not pgroute_threads())


async def test_a_pool_closes_while_its_function_hangs(roles: LocalCluster) -> None:
    released = threading.Event()

    def function(request: CredentialRequest) -> dict[str, str]:
        if request.role == "writer":
            released.wait(30)
        return {"user": "tea", "password": SECRET}

    try:
        async with AsyncRouter(dsn(roles), credentials=function, kwargs={"connect_timeout": 1}) as router:
            await refused_until(lambda text: "gave no answer within 1 s" in text, router, "writer", 1.5)
            async with router.reader():
                begun_at = time.monotonic()
        assert time.monotonic() - begun_at < within(2.0)
    finally:
        released.set()


async def test_a_slow_answer_serves_the_next_attempt(roles: LocalCluster) -> None:
    def function(request: CredentialRequest) -> dict[str, str]:
        time.sleep(0.5)  # longer than one attempt waits: that is what is tested
        return {"user": "tea", "password": SECRET}

    async with AsyncRouter(dsn(roles), credentials=function, probe=ProbeOptions(timeout=0.2)) as router:
        await router.wait()


async def test_open_probes_go_on_while_the_function_hangs(roles: LocalCluster) -> None:
    vault = Vault()
    released = threading.Event()
    hangs = False

    def function(request: CredentialRequest) -> dict[str, str]:
        if hangs:
            released.wait(30)
        return vault(request)

    probe = ProbeOptions(interval=0.05, timeout=0.3)
    primary = key(roles.nodes[0])
    try:
        async with AsyncRouter(dsn(roles), credentials=function, probe=probe) as router:
            await router.wait()
            hangs = True
            router._manager.watch.kick(primary, fresh=True)  # as once in a minute
            await async_eventually(lambda: "gave no answer" in router.topology.by_key[primary].reason)
            for _ in range(20):
                begun_at = time.monotonic()
                await async_eventually(partial(seen_since, router, primary, begun_at))
                assert time.monotonic() - begun_at < within(0.3), "probes do not wait for the function"
            assert router.topology.by_key[primary].state is HostState.UP
            released.set()
            await async_eventually(lambda: router.topology.by_key[primary].reason == "")
    finally:
        released.set()
