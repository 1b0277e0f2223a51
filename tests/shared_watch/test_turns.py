"""Which process watches for all: simulated processes that end, are killed, hang and come back, on real files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgroute.monitor.shared.folder import Folder
from pgroute.monitor.shared.turns import Follow, Lead, Nobody, take_place
from tests.shared_watch.entered import entered

WATCH = "0123456789abcdef"


@pytest.fixture
def folder() -> Iterator[Folder]:
    folder = entered()
    yield folder
    folder.close()


def lead(folder: Folder, after: int = -1) -> Lead:
    place = take_place(folder, WATCH, after=after)
    assert isinstance(place, Lead)
    return place


def follow(folder: Folder, turn: int, after: int = -1) -> None:
    place = take_place(folder, WATCH, after=after)
    assert isinstance(place, Follow)
    place.sock.close()
    assert place.turn == turn


def kill(lead: Lead) -> None:
    """Release what the kernel releases of a process that is killed; the files stay."""
    lead.after_fork()


def test_the_first_leads_and_the_second_follows(folder: Folder) -> None:
    with contextlib.closing(lead(folder)):
        follow(folder, 0)


def test_after_the_end_of_the_first_no_file_is_left_and_the_next_one_leads(folder: Folder) -> None:
    lead(folder).close()
    assert folder.names() == ["key"]
    with contextlib.closing(lead(folder)):
        follow(folder, 0)


def test_the_turn_of_a_killed_process_goes_on_with_the_next_one(folder: Folder) -> None:
    kill(lead(folder))
    assert sorted(folder.names()) == [f"{WATCH}.0", f"{WATCH}.0.s", "key"]
    with contextlib.closing(lead(folder)) as second:
        assert second.turn == 0
        follow(folder, 0)


def test_whoever_hears_nothing_begins_the_next_turn_and_the_one_that_hangs_learns_of_it(
    folder: Folder,
) -> None:
    with contextlib.closing(lead(folder)) as hangs, contextlib.closing(lead(folder, after=0)) as second:
        assert (second.turn, second.latest, hangs.latest) == (1, True, False)
        follow(folder, 1)
        hangs.close()
        assert sorted(folder.names()) == [f"{WATCH}.1", f"{WATCH}.1.s", "key"]
        follow(folder, 1)


def test_a_second_one_that_hears_nothing_follows_the_first(folder: Folder) -> None:
    with contextlib.closing(lead(folder)), contextlib.closing(lead(folder, after=0)):
        follow(folder, 1, after=0)


def test_a_lock_that_a_forked_child_has_kept_stops_nobody(folder: Folder) -> None:
    first = lead(folder)
    child = os.dup(first._lock)
    kill(first)
    try:
        assert take_place(folder, WATCH) == Nobody(0)
        with contextlib.closing(lead(folder, after=0)):
            follow(folder, 1)
    finally:
        os.close(child)


def test_a_turn_that_was_begun_anew_under_the_number_of_one_that_hangs_is_left_alone_by_it(
    folder: Folder,
) -> None:
    hangs = lead(folder)
    lead(folder, after=0).close()  # it removes the files of the first
    with contextlib.closing(lead(folder)) as third:
        assert third.turn == 0
        assert not hangs.latest
        hangs.close()
        assert third.latest
        follow(folder, 0)


def test_watches_do_not_mind_each_other(folder: Folder) -> None:
    with contextlib.closing(lead(folder)), contextlib.closing(take_place(folder, WATCH + "0")) as other:  # type: ignore[type-var]
        assert isinstance(other, Lead)
        assert other.turn == 0


def test_files_that_somebody_has_removed_end_the_turn(folder: Folder) -> None:
    with contextlib.closing(lead(folder)) as first:
        folder.remove(f"{WATCH}.0")
        assert not first.latest
        with contextlib.closing(lead(folder)) as second:
            follow(folder, 0)
            first.close()
            assert second.latest


class Processes(RuleBasedStateMachine):
    """Processes that do at any moment what processes do. A place is what one believes to be its own."""

    MOST = 5

    def __init__(self) -> None:
        super().__init__()
        self.folder = entered()
        self.places: dict[int, Lead | int] = {}
        self.hung: dict[int, Lead] = {}
        self.serial = 0

    @rule()
    @precondition(lambda self: len(self.places) + len(self.hung) < self.MOST)
    def start(self) -> None:
        self.serial += 1
        self.take(self.serial, -1)

    def take(self, process: int, after: int) -> None:
        """As a process does until it has a place where it hears something: a bounded number of times."""
        for _ in range(2 * self.MOST):
            place = take_place(self.folder, WATCH, after=after)
            if isinstance(place, Lead):
                self.places[process] = place
                return
            if isinstance(place, Follow):
                place.sock.close()
            leader = self.leader_of(place.turn)
            if leader is not None:
                self.places[process] = place.turn
                return
            after = place.turn
        raise AssertionError("no place is found")

    def leader_of(self, turn: int) -> Lead | None:
        return next(
            (p for p in self.places.values() if isinstance(p, Lead) and p.turn == turn and p.latest), None
        )

    def leaders(self) -> list[int]:
        return [process for process, place in self.places.items() if isinstance(place, Lead)]

    @rule(data=st.data())
    @precondition(lambda self: self.leaders())
    def end(self, data: st.DataObject) -> None:
        place = self.places.pop(data.draw(st.sampled_from(self.leaders())))
        assert isinstance(place, Lead)
        place.close()
        self.notice()

    @rule(data=st.data())
    @precondition(lambda self: self.leaders())
    def die(self, data: st.DataObject) -> None:
        place = self.places.pop(data.draw(st.sampled_from(self.leaders())))
        assert isinstance(place, Lead)
        kill(place)
        self.notice()

    @rule(data=st.data())
    @precondition(lambda self: self.leaders())
    def hang(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.leaders()))
        place = self.places.pop(process)
        assert isinstance(place, Lead)
        self.hung[process] = place
        self.notice()

    @rule(data=st.data())
    @precondition(lambda self: self.hung)
    def go_on(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted(self.hung)))
        place = self.hung.pop(process)
        if place.latest:
            self.places[process] = place
        else:
            place.close()
            self.take(process, -1)
        self.notice()

    @rule(data=st.data())
    @precondition(lambda self: self.hung)
    def die_hanging(self, data: st.DataObject) -> None:
        kill(self.hung.pop(data.draw(st.sampled_from(sorted(self.hung)))))

    def notice(self) -> None:
        """Whoever does not lead the latest turn, or follows one that nobody leads, looks for another place."""
        for process, place in list(self.places.items()):
            if isinstance(place, Lead):
                if not place.latest:
                    place.close()
                    self.take(process, -1)
            elif self.leader_of(place) is None:
                self.take(process, place if any(p.turn == place for p in self.hung.values()) else -1)

    @invariant()
    def one_leads_and_all_others_follow_it(self) -> None:
        self.notice()
        leading = [place for place in self.places.values() if isinstance(place, Lead)]
        assert len(leading) == min(1, len(self.places))
        assert all(place == leading[0].turn for place in self.places.values() if not isinstance(place, Lead))

    @invariant()
    def few_files_are_left(self) -> None:
        assert len(self.folder.names()) <= 1 + 2 * (1 + len(self.hung))

    def teardown(self) -> None:
        for place in (*self.places.values(), *self.hung.values()):
            if isinstance(place, Lead):
                place.close()
        path = Path(self.folder.location)
        self.folder.close()
        assert not path.exists()


def test_at_any_time_one_leads_and_all_others_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    case = Processes.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
    case("runTest").runTest()
