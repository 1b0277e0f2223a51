"""A question to the REST API at a name of several addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pgroute.core.config.dns_names import Question
from pgroute.core.config.rest_urls import target_of
from pgroute.monitor.resolver import Looked
from pgroute.monitor.rest import get
from pgroute.monitor.sources import NoAnswer
from tests.discovery.rest_api import Answering, RestApi, raw, silent, whole

HERE, HUNG, DEAD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Names:
    """A resolver that knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def look_up(self, question: Question, timeout: float) -> Looked:
        return Looked([*self.addresses], None)


@contextlib.contextmanager
def hung(api: RestApi) -> Iterator[None]:
    """A server at the port of the API that takes connections and says nothing."""
    with socket.create_server((HUNG, api.port)):
        yield


def ask(api: RestApi, *addresses: str, timeout: float) -> bytes:
    target = target_of(f"http://api.test:{api.port}")
    asking = get(target, "/cluster", resolver=Names(*addresses), context=None, timeout=timeout)
    return asyncio.run(asking).body


def late(seconds: float) -> Answering:
    """Answer after a while."""

    def answer(conn: socket.socket, ended: threading.Event) -> None:
        ended.wait(seconds)
        whole({})(conn, ended)

    return answer


@pytest.mark.parametrize("addresses", [(HUNG, HERE), (DEAD, HUNG, HERE), (HUNG, DEAD, HERE), (HERE, HUNG)])
def test_address_that_hangs_does_not_keep_the_others_from_answering(addresses: tuple[str, ...]) -> None:
    with RestApi(whole({})) as api, hung(api):
        assert ask(api, *addresses, timeout=3.0) == b"{}"


def test_slow_address_has_all_of_the_time() -> None:
    with RestApi(late(1.8)) as api, hung(api):
        assert ask(api, HERE, HUNG, timeout=3.0) == b"{}"


def test_next_address_is_asked_at_once_if_one_is_of_no_use() -> None:
    with RestApi(whole({})) as api:
        begun = time.monotonic()
        assert ask(api, DEAD, HERE, timeout=100.0) == b"{}"
        assert time.monotonic() - begun < 50.0


def test_no_address_answers() -> None:
    with RestApi(silent) as api, hung(api), pytest.raises(NoAnswer, match=r"no answer in 0\.2 s"):
        ask(api, HERE, HUNG, timeout=0.2)
    with RestApi(raw(b"")) as api, pytest.raises(NoAnswer, match="without an answer"):
        ask(api, DEAD, HERE, timeout=10.0)
