"""Resolvers and the watch on a name by themselves, without a cluster: dead servers, other loops, faults of ours."""

from __future__ import annotations

import builtins
import errno
import gc
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.asyncbackend
import dns.resolver
import pytest

from pgroute import ProbeOptions
from pgroute.core.config.dns_names import Question
from pgroute.monitor.dns_watch import NameWatcher
from pgroute.monitor.resolver import DnsResolver, LookupFailed, SystemResolver
from tests.names.nameserver import SILENCE, NameServer
from tests.support import async_eventually, within

DB = Question("db.test")


@pytest.fixture
def server() -> Iterator[NameServer]:
    """Give a name server with one name."""
    with NameServer() as server:
        server.zone["db.test"] = ["127.0.0.2"]
        yield server


@pytest.fixture
def dead(server: NameServer) -> Iterator[str]:
    """Give the address of a name server that says nothing, at the port of the one that does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.88", server.port))
        yield "127.0.0.88"


@pytest.mark.parametrize("count", [1, 2])
async def test_a_dead_name_server_ahead_of_a_good_one_costs_time_and_no_answer(
    server: NameServer, dead: str, count: int
) -> None:
    resolver = server.resolver
    resolver.nameservers = [dead] * count + ["127.0.0.1"]
    begun_at = time.monotonic()
    looked = await DnsResolver(resolver).look_up(DB, 1.0)
    assert looked.records == ["127.0.0.2"]
    assert time.monotonic() - begun_at < within(1.0)


async def test_a_datagram_that_is_lost_is_sent_again(server: NameServer) -> None:
    lost: list[Any] = []
    answer = server.answer

    def lose_the_first(data: bytes, *, tcp: bool) -> bytes | None:
        reply = answer(data, tcp=tcp)
        if len(lost) < 2:  # one of each family
            lost.append(reply)
            return None
        return reply

    server.answer = lose_the_first  # type: ignore[method-assign]
    assert (await DnsResolver(server.resolver).look_up(DB, 1.0)).records == ["127.0.0.2"]


async def test_a_lookup_ends_in_time_whatever_the_name_servers_do(server: NameServer, dead: str) -> None:
    resolver = server.resolver
    resolver.nameservers = [dead]
    for timeout in (0.05, 0.6):
        begun_at = time.monotonic()
        with pytest.raises(LookupFailed, match=f"no answer in {timeout:g} s"):
            await DnsResolver(resolver).look_up(DB, timeout)
        assert time.monotonic() - begun_at < timeout + within(1.0), "dnspython itself waits for 2 s or more"


@pytest.mark.parametrize("kind", ["A", "AAAA"])
async def test_a_family_of_which_nothing_is_heard_does_not_hold_up_the_other(
    server: NameServer, kind: str
) -> None:
    server.zone["both.test"] = ["127.0.0.2", "::1"]
    server.zone["both.test", kind] = SILENCE
    begun_at = time.monotonic()
    looked = await DnsResolver(server.resolver).look_up(Question("both.test"), 2.0)
    assert looked.records == (["::1"] if kind == "A" else ["127.0.0.2"])
    assert looked.error == "no answer in 0.5 s"
    assert time.monotonic() - begun_at < within(1.0)


async def test_faults_of_a_resolver_are_all_heard_of(
    server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = server.resolver
    resolver.search = "no list of names"  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        await DnsResolver(resolver).look_up(Question("db"), 1.0)
    gc.collect()
    assert not caplog.records


async def test_whatever_loop_the_application_has_the_lookups_run_in_ours(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dnspython keeps the backend that its first caller in the process had, which may have been trio's.
    monkeypatch.setattr(dns.asyncbackend, "_default_backend", object())
    assert (await DnsResolver(server.resolver).look_up(DB, 1.0)).records == ["127.0.0.2"]


async def test_the_servers_are_read_again_when_those_known_do_not_answer(
    server: NameServer, dead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("")
    read = dns.resolver.BaseResolver.read_resolv_conf

    def read_ours(self: Any, _: Any) -> None:
        read(self, str(conf))
        self.port = server.port

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", read_ours)
    resolver = DnsResolver(None)
    with pytest.raises(LookupFailed, match="no nameservers"):
        await resolver.look_up(DB, 0.2)
    conf.write_text(f"nameserver {dead}\n")
    with pytest.raises(LookupFailed, match="no answer"):
        await resolver.look_up(DB, 0.2)
    conf.write_text("nameserver 127.0.0.1\n")
    assert (await resolver.look_up(DB, 10.0)).records == ["127.0.0.2"]


@pytest.mark.parametrize("module", ["dns.exception", "dns.resolver", "dns.asyncresolver", "dns.asyncbackend"])
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), ImportError("no file")])
async def test_a_library_that_cannot_be_read_now_fails_the_lookup_and_is_read_by_the_next(
    server: NameServer, monkeypatch: pytest.MonkeyPatch, module: str, error: Exception
) -> None:
    load = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == module:
            raise error
        return load(name, *args, **kwargs)

    resolver = DnsResolver(server.resolver)
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", refuse)
        with pytest.raises(
            LookupFailed, match=r"no addresses of 'db\.test': .*(Too many open files|no file)"
        ):
            await resolver.look_up(DB, 1.0)
    assert (await resolver.look_up(DB, 1.0)).records == ["127.0.0.2"]


async def test_an_address_of_a_link_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    looked = await SystemResolver().look_up(DB, 1.0)
    assert looked.records == ["fe80::1%2", "fd00::1", "10.0.0.1"]


async def test_a_fault_in_the_systems_resolver_is_a_reason_and_the_next_lookup_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of luck")

    resolver = SystemResolver()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", stumble)
        with pytest.raises(LookupFailed, match="out of luck"):
            await resolver.look_up(Question("localhost"), 0.5)
    assert "127.0.0.1" in (await resolver.look_up(Question("localhost"), 2.0)).records


class Told:
    """A reader that notes when it is told, and fails as often as it is told to."""

    options = ProbeOptions(min_ttl=0.1, max_ttl=0.1)

    def __init__(self, faults: int = 0) -> None:
        self.count = 0
        self.faults = faults
        self.errors: list[str] = []

    def log_error(self, text: str, exc: BaseException | None) -> None:
        self.errors.append(f"{text}: {exc}")

    def renamed(self, question: Question) -> None:
        self.count += 1
        if self.count <= self.faults:
            raise RuntimeError("a fault of ours")

    def name_gap(self) -> float | None:
        return None


async def test_a_fault_in_one_router_leaves_a_name_watched_and_the_others_told(
    server: NameServer,
) -> None:
    watcher = NameWatcher(DB, DnsResolver(server.resolver))
    faulty, other = Told(1), Told()
    watcher.readers += [faulty, other]
    watcher.nudge()
    await async_eventually(lambda: other.count == 1)
    server.zone["db.test"] = ["127.0.0.3"]
    await async_eventually(lambda: (faulty.count, other.count) == (2, 2))
    await watcher.stop()
    assert faulty.errors == ["following db.test failed: a fault of ours"]
