# Generated from tests/aio/test_order.py by .ci/unasync.py: edit that file, not this one.
"""An order of the hosts holds from the first session of a process on, whichever of them answers first."""

from __future__ import annotations

import time

import pytest

from pgroute import Router, ProbeOptions
from pgroute.core.routing import acquisition
from pgroute.testing import FaultProxy
from tests.sync.conftest import Proxied
from tests.sync.workload import read
from tests.support import Background, dsn_with, within

pytestmark = pytest.mark.cluster

ROUTERS = 24
AT_ONCE = 8


def first_reader(dsn: str, number: int) -> int:
    """Return the port at which a router's first session is; its watch is its own, as in a fresh process."""
    asked = "ordered" if number % 2 else None
    further = {} if asked else {"load_balance_hosts": "disable"}
    own = dsn_with(dsn, application_name=f"fresh{number}", **further)
    # On a busy machine an answer takes long.
    with Router(own, balance=asked, probe=ProbeOptions(timeout=10.0)) as router:
        return (read(router, 20.0)).port


def first_readers(dsn: str, numbers: range) -> list[int]:
    with Background() as background:
        readers = [background.start(first_reader, dsn, number) for number in numbers]
        return [reader.result() for reader in readers]


@pytest.mark.long
def test_first_sessions_of_many_routers_go_to_the_first_host_although_it_answers_last(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the pool's connection takes long too; after that time a reader goes to another host.
    monkeypatch.setattr(acquisition, "PATIENCE", 20.0)
    primary, first, second = proxied.proxies
    first.delay(0.05, "to_client", jitter=0.05)  # three or four times on the way to the first answer
    dsn = FaultProxy.dsn((first, second, primary))
    found = []
    for number in range(0, ROUTERS, AT_ONCE):
        found += first_readers(dsn, range(number, number + AT_ONCE))
    assert found == [proxied.cluster.nodes[1].port] * ROUTERS


def test_first_host_that_never_answers_is_waited_for_as_long_as_a_probe_takes(
    proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition, "PATIENCE", 20.0)  # as above
    primary, first, second = proxied.proxies
    first.hang()
    # Long enough for the others to answer on a busy machine.
    probe = ProbeOptions(interval=0.1, timeout=1.0, share=False)
    with Router(
        FaultProxy.dsn((first, second, primary)), balance="ordered", probe=probe
    ) as router:
        begun = time.monotonic()
        assert (read(router, 20.0)).port == proxied.cluster.nodes[2].port
        assert probe.timeout * 0.9 < time.monotonic() - begun < within(probe.timeout + 0.8)


def test_first_host_that_refuses_is_passed_over_at_once(proxied: Proxied) -> None:
    primary, first, second = proxied.proxies
    first.refuse()
    with Router(FaultProxy.dsn((first, second, primary)), balance="ordered") as router:
        begun = time.monotonic()
        assert (read(router, 5.0)).port == proxied.cluster.nodes[2].port
        assert time.monotonic() - begun < within(1.0)
