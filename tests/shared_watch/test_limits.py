"""What sharing may not cost: descriptors of the application, files of a forked child, and the watch itself."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgroute import ProbeOptions, Router
from pgroute.monitor.shared import identity, watcher
from pgroute.monitor.shared.audience import room_for
from pgroute.runtime.fork import Inherited
from pgroute.testing import LocalCluster
from tests.shared_watch.entered import entered
from tests.support import eventually


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
    yield 400
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_other_processes_get_a_part_of_the_descriptors(few_descriptors: int) -> None:
    assert room_for(few_descriptors // 4 - 1)
    assert not room_for(few_descriptors // 4)


def test_a_forked_child_closes_what_it_has_inherited_and_no_file_of_its_own(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    inherited = Inherited(fd)
    os.close(fd)
    own = os.open(tmp_path / "own", os.O_CREAT | os.O_RDWR)
    assert own == fd, "the number is used again"
    inherited.close()
    os.write(own, b"still open")
    os.close(own)
    inherited.close()  # nothing is left to close
    os.dup2(again := os.open(tmp_path, os.O_RDONLY), fd)
    if again != fd:
        os.close(again)
    inherited.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def mode(router: Router) -> set[str]:
    return {sharing.mode for sharing in router.stats().watches.values()}


@pytest.mark.cluster
def test_a_place_that_was_of_no_use_when_the_router_opened_is_tried_again(
    shared: LocalCluster, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "RETRY", 0.1)
    own = place / f"pgroute-{os.geteuid()}"
    own.mkdir()
    own.chmod(0o755)
    with Router(shared.dsn, probe=ProbeOptions(share=True)) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        assert mode(router) == {"alone"}
        own.chmod(0o700)
        eventually(lambda: mode(router) == {"shared"})


@pytest.mark.cluster
def test_what_could_not_be_told_of_the_process_when_the_router_opened_is_asked_again(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise identity.NotKnown("no descriptor is left")

    monkeypatch.setattr(watcher, "RETRY", 0.1)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(identity, "_process", broken)
        router = stack.enter_context(Router(shared.dsn, probe=ProbeOptions(share=True)))
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        [told] = {(each.mode, each.reason) for each in router.stats().watches.values()}
        assert told == ("alone", "no descriptor is left")
        patch.undo()
        eventually(lambda: mode(router) == {"shared"})


@pytest.mark.cluster
def test_whatever_fails_while_the_identity_is_made_the_hosts_are_watched(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise LookupError("unheard of")

    monkeypatch.setattr(identity, "_process", broken)
    with Router(shared.dsn, probe=ProbeOptions(share=True)) as router:
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        [told] = {(each.mode, each.reason) for each in router.stats().watches.values()}
        assert told == ("alone", "a fault in pgroute: LookupError")


@pytest.mark.cluster
def test_a_fault_of_sharing_is_logged_once_while_it_lasts_and_the_hosts_are_watched(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def broken(*_: object) -> str:
        nonlocal asked
        asked += 1
        raise ValueError("unheard of")

    def faults() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        return [text for text in texts if text.startswith("sharing the watch")]

    monkeypatch.setattr(watcher, "RETRY", 0.05)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(identity.Identity, "digest", broken)
        router = stack.enter_context(Router(shared.dsn, probe=ProbeOptions(share=True)))
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        eventually(lambda: asked > 5 * len(shared.nodes))
        eventually(
            lambda: (
                {(each.mode, each.reason) for each in router.stats().watches.values()}
                == {("alone", "a fault in pgroute, see the log")}
            )
        )
        eventually(lambda: len(set(faults())) == len(shared.nodes))
        assert len(faults()) == len(shared.nodes), "each host's once"
        patch.undo()
        eventually(lambda: mode(router) == {"shared"})


def test_a_place_that_is_gone_for_good_is_left_for_another(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with contextlib.closing(entered()) as folder:
        assert folder.location == str(runtime / "pgroute")
        for path in (runtime / "pgroute").iterdir():
            path.unlink()
        (runtime / "pgroute").rmdir()
        runtime.rmdir()
        folder.renew()
        assert folder.location == str(place / f"pgroute-{os.geteuid()}")
