"""What is imported when it is first used, in whichever thread that is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pgroute import AsyncRouter, Router
from pgroute._async.router import manager_of as async_manager_of
from pgroute._sync.router import manager_of

FORK_AMID_IMPORT = """
import importlib.abc, os, signal, sys, threading, time
from pgroute import Router

begun = threading.Event()

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "pgroute._sync.{module}" and not begun.is_set():
            begun.set()
            time.sleep(0.5)

sys.meta_path.insert(0, Slow())
use = lambda: Router("host=127.0.0.1 port=1").{call}
thread = threading.Thread(target=use)
thread.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    use()
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("listener", 'listen("a")'),
        ("copying.stream", 'copy_rows("t")'),
        ("copying.wire", 'copy_chunks("t")'),
    ],
)
def test_a_fork_waits_for_an_import_of_another_thread(module, call):
    program = FORK_AMID_IMPORT.format(module=module, call=call)
    done = subprocess.run(
        # That the other thread is there is the point.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_hubs_of_listeners_are_made_once_and_closed_in_a_closed_router():
    routers = manager_of(Router("host=db")), async_manager_of(AsyncRouter("host=db"))
    for listening in (manager.listening for manager in routers):
        before = listening.made
        assert before is None
        listening.close()
        hub = listening.hub
        assert listening.hub is listening.made is hub
        assert hub.closed
        assert listening.closed


def test_a_hub_that_is_made_amid_the_end_of_the_router_is_closed(monkeypatch):
    import pgroute._sync.listening.hub as module

    listening = manager_of(Router("host=db")).listening

    class Late(module.ListeningHub):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            listening.close()  # finds no hub

    monkeypatch.setattr(module, "ListeningHub", Late)
    assert listening.hub.closed


def test_of_two_hubs_made_at_the_same_time_both_callers_get_one(monkeypatch):
    import pgroute._sync.listening.hub as module

    listening = manager_of(Router("host=db")).listening
    inner: list[object] = []

    class Twice(module.ListeningHub):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if not inner:
                inner.append(None)
                inner.append(listening.hub)

    monkeypatch.setattr(module, "ListeningHub", Twice)
    assert listening.hub is inner[1]
