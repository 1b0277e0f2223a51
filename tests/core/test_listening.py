"""Which channels are listened to, who gets what, and where a gap begins and ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute import ConfigError, Gap, Notification
from pgroute.core.faults.classify import FaultKind
from pgroute.core.listening import (
    Drop,
    Join,
    Promotions,
    Resume,
    Subscriptions,
    check_channels,
    listen,
    primary_to_listen_at,
    unlisten,
    why_leave,
)
from pgroute.core.mailbox import Mailbox
from pgroute.core.model.roles import HostKey
from tests.core.world import A, B, C, D, World


@dataclass(eq=False)
class Listener:
    channels: tuple[str, ...]
    limit: int = 1000
    mailbox: Mailbox = field(init=False)

    def __post_init__(self) -> None:
        self.mailbox = Mailbox(self.limit)

    def take_all(self) -> list[Notification | Gap]:
        found = []
        while (item := take(self.mailbox)) is not None:
            found.append(item)
        return found


def take(mailbox: Mailbox) -> Notification | Gap | None:
    taken: list[Notification | Gap] = []
    mailbox.take(taken)
    return taken[0] if taken else None


def note(channel: str = "a", payload: str = "") -> Notification:
    return Notification(channel, payload, 1)


@pytest.mark.parametrize(
    ("channel", "sent"),
    [
        ("a", 'LISTEN "a";'),
        ("A b", 'LISTEN "A b";'),
        ('say "x"; DROP', 'LISTEN "say ""x""; DROP";'),
        ("ä" * 31 + "b", f'LISTEN "{"ä" * 31}b";'),
    ],
)
def test_names_are_quoted(channel: str, sent: str) -> None:
    assert check_channels([channel, channel]) == (channel,)
    assert listen([channel]) == sent.encode()
    assert unlisten([channel]) == b"UN" + sent.encode()


@pytest.mark.parametrize("channel", ["", "a\0b", "x" * 64, "ä" * 32, "\udce4", b"a", None, 1])
def test_names_that_no_channel_can_have(channel: object) -> None:
    with pytest.raises(ConfigError) as caught:
        check_channels(["a", channel])
    assert caught.value.parameter == "channel"


def test_no_channel_at_all() -> None:
    with pytest.raises(ConfigError, match="at least one channel"):
        check_channels([])


def test_a_full_mailbox_drops_until_the_listener_has_taken_all() -> None:
    mailbox = Mailbox(2)
    for number in range(5):
        mailbox.put(note(payload=str(number)), float(number))
    assert take(mailbox) == note(payload="0")
    mailbox.put(note(payload="dropped too"), 5.0)
    assert take(mailbox) == note(payload="1")
    gap = take(mailbox)
    assert gap == Gap("the listener was slow: 2 notifications waited, and 4 more were dropped", 2.0, 4)
    mailbox.put(note(payload="kept"), 6.0)
    assert take(mailbox) == note(payload="kept")
    assert take(mailbox) is None


def test_a_gap_within_that_gap_is_part_of_it() -> None:
    mailbox = Mailbox(1)
    mailbox.put(note(), 3.0)
    mailbox.put(note(), 4.0)
    mailbox.add_gap("lost", 2.0)
    mailbox.put(note(), 6.0)
    assert take(mailbox) == note()
    gap = take(mailbox)
    assert isinstance(gap, Gap)
    assert (gap.since, gap.dropped) == (2.0, 2)
    assert take(mailbox) is None


def test_the_gap_that_comes_later_may_begin_earlier() -> None:
    mailbox = Mailbox(1)
    mailbox.add_gap("a", 10.0)
    mailbox.add_gap("b", 8.0)
    assert take(mailbox) == Gap("a; then b", 8.0)


def test_gaps_that_are_one_have_dropped_what_both_have() -> None:
    mailbox = Mailbox(1)
    for _ in range(2):
        mailbox.put(note(), 10.0)
    assert take(mailbox) == note()
    taken: list[Notification | Gap] = []
    mailbox.take(taken)
    mailbox.put_back(taken)
    mailbox.add_gap("lost", 12.0)
    gap = take(mailbox)
    assert isinstance(gap, Gap)
    assert (gap.since, gap.dropped) == (10.0, 1)


def test_gaps_with_nothing_in_between_are_one() -> None:
    mailbox = Mailbox(1)
    for number in range(1000):
        mailbox.add_gap(f"lost {number}", float(number))
    gap = take(mailbox)
    assert isinstance(gap, Gap)
    assert gap.since == 0.0
    assert gap.reason.startswith("lost 0; then lost 1")
    assert len(gap.reason) <= 500
    assert take(mailbox) is None


def test_what_was_taken_can_be_put_back() -> None:
    mailbox = Mailbox(2)
    mailbox.put(note(payload="1"), 1.0)
    mailbox.put(note(payload="2"), 2.0)
    for times in range(2):
        taken: list[Notification | Gap] = []
        mailbox.take(taken)
        assert taken == [note(payload="1")]
        for _ in range(times + 1):
            mailbox.put_back(taken)
    mailbox.put_back([])
    mailbox.put(note(payload="3"), 3.0)
    assert take(mailbox) == note(payload="1")
    assert take(mailbox) == note(payload="2")
    assert isinstance(take(mailbox), Gap)


def act(subscriptions: Subscriptions[Listener], now: float = 0.0, since: float = math.inf) -> list[str]:
    """Do every step; return the statements."""
    sent = []
    while (step := subscriptions.step()) is not None:
        match step:
            case Resume(channels):
                sent.append(listen(channels).decode())
                subscriptions.resumed(channels, since)
            case Join(_, channels):
                sent.append(listen(channels).decode())
                subscriptions.joined(step, now)
            case Drop(channels):
                sent.append(unlisten(channels).decode())
                subscriptions.dropped(step)
    return sent


def test_channels_are_listened_to_while_somebody_wants_them() -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    first, second = Listener(("a", "b")), Listener(("b", "c"))
    subscriptions.add(first)
    assert act(subscriptions) == ["", 'LISTEN "a";LISTEN "b";']
    subscriptions.add(second)
    assert act(subscriptions) == ['LISTEN "c";']
    subscriptions.remove(first)
    assert act(subscriptions) == ['UNLISTEN "a";']
    subscriptions.add(first)
    subscriptions.remove(second)
    assert act(subscriptions) == ['LISTEN "a";', 'UNLISTEN "c";']
    assert not subscriptions.empty
    subscriptions.remove(first)
    subscriptions.remove(first)
    assert subscriptions.empty


def test_each_listener_gets_what_it_listens_to() -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    first, second, late = Listener(("a", "b")), Listener(("b",)), Listener(("a",))
    subscriptions.add(first)
    subscriptions.add(second)
    act(subscriptions)
    subscriptions.add(late)
    assert subscriptions.deliver(note("a"), 0.0) == (first,)
    assert subscriptions.deliver(note("b"), 0.0) == (first, second)
    assert subscriptions.deliver(note("c"), 0.0) == ()
    assert not subscriptions.has_joined(late)
    assert first.take_all() == [note("a"), note("b")]
    assert second.take_all() == [note("b")]
    assert late.take_all() == []


def test_a_lost_connection_is_a_gap_once_the_next_one_listens() -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    early, late = Listener(("a",)), Listener(("b",))
    subscriptions.add(early)
    act(subscriptions, now=1.0)
    subscriptions.add(late)
    act(subscriptions, now=5.0)
    subscriptions.lost("the first", 4.0)
    subscriptions.lost("the second", 6.0)
    assert early.take_all() == []
    joining = Listener(("c",))
    subscriptions.add(joining)
    assert act(subscriptions, now=7.0) == ['LISTEN "a";LISTEN "b";', 'LISTEN "c";']
    assert early.take_all() == [Gap("the first", 4.0)]
    assert late.take_all() == [Gap("the first", 5.0)]
    assert joining.take_all() == []


def test_a_gap_reaches_back_to_where_the_new_primary_was_a_standby() -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    listener = Listener(("a",))
    subscriptions.add(listener)
    act(subscriptions, now=1.0)
    subscriptions.lost("old", 9.0)
    assert subscriptions.resumed(("a",), since=7.0) == (listener,)
    subscriptions.lost("older", 11.0)
    subscriptions.resumed(("a",), since=-math.inf)
    assert listener.take_all() == [Gap("old; then older", 1.0)], "it may always have been the primary"


def test_a_listener_that_left_while_it_joined() -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    gone = Listener(("a",))
    subscriptions.add(gone)
    subscriptions.resumed((), math.inf)
    step = subscriptions.step()
    assert isinstance(step, Join)
    subscriptions.remove(gone)
    assert not subscriptions.joined(step, 0.0)
    assert act(subscriptions) == ['UNLISTEN "a";']


ACTIONS = ["send", "take", "prove", "lose", "promote", "return", "resume"]
"""From "promote" on, notifications come from the new primary; "return" listens at the old one, "resume" at the new."""


@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3))),
    st.integers(1, 4),
)
def test_whatever_is_missing_lies_in_a_gap(actions: list[tuple[str, int]], limit: int) -> None:
    subscriptions: Subscriptions[Listener] = Subscriptions()
    listener = Listener(("a",), limit)
    subscriptions.add(listener)
    act(subscriptions)
    now, proven, live, promoted = 0.0, 0.0, True, math.inf
    sent: dict[str, float] = {}
    received: set[str] = set()
    gaps: list[tuple[float, float]] = []
    for action, count in [*actions, ("lose", 0), ("resume", 0), ("take", 10_000)]:
        now += 1.0
        if action == "send":
            for _ in range(count):
                now += 1.0
                number = str(len(sent))
                sent[number] = now
                if live and promoted == math.inf:
                    subscriptions.deliver(note("a", number), proven)
        elif action == "take":
            for _ in range(count):
                item = take(listener.mailbox)
                if isinstance(item, Gap):
                    gaps.append((item.since, now))
                elif item is not None:
                    received.add(item.payload)
        elif action == "lose" and live:
            subscriptions.lost("lost", proven)
            live = False
        elif action == "prove" and live:
            proven = now
        elif action == "promote":
            promoted = min(promoted, now)
        elif action in ("return", "resume") and not live:
            since, promoted = (math.inf, promoted) if action == "return" else (promoted, math.inf)
            act(subscriptions, now, since)
            live, proven = True, now
    for number, at in sent.items():
        assert number in received or any(since <= at <= until for since, until in gaps)


def test_where_and_how_long_to_listen() -> None:
    world = World()
    assert primary_to_listen_at(world.topology) is None
    world.settled()
    primary = primary_to_listen_at(world.topology)
    assert primary is not None
    assert primary.key == A

    def why(key: HostKey = A) -> str:
        return why_leave(world.topology, key, primary.generation)

    assert why() == ""
    assert why(D) == "d:5432 is not listed any more"
    assert world.timeout(A).host(A).usable
    assert why() == "", "an overloaded primary is still one"
    world.timeout(A)
    assert why().startswith("a:5432 is down: ")
    assert primary_to_listen_at(world.topology) is None
    world.primary(A, started_at=500.0)
    assert why() == "a:5432 was restarted, or is another server now"
    world.standby(A)
    assert why() == "a:5432 is a standby now"


def test_a_stale_primary_is_left() -> None:
    world = World().settled()
    generation = world.host(A).generation
    world.primary(B, 2)
    assert why_leave(world.topology, A, generation).startswith("a:5432 is stale: ")
    primary = primary_to_listen_at(world.topology)
    assert primary is not None
    assert primary.key == B


def test_since_when_a_host_may_be_the_primary() -> None:
    world = World().settled()
    promotions = Promotions()

    def see(act: Callable[[], object]) -> None:
        old = world.topology
        act()
        promotions.note(old, world.topology)

    asked_at = world.now + 0.005
    see(lambda: world.standby(B))
    assert promotions.since(B) == -math.inf
    see(lambda: world.pass_time(0.5).fail(B, FaultKind.STARTING))
    see(lambda: world.pass_time(0.5).primary(B, 2))
    assert promotions.since(B) == pytest.approx(asked_at), "a refusal does not tell that it was a standby"
    see(lambda: world.primary(B, 2))
    assert promotions.since(B) == pytest.approx(asked_at)
    assert promotions.since(C) == -math.inf


def test_hosts_that_have_left_are_forgotten_until_they_are_primaries_again() -> None:
    world = World().settled()
    promotions = Promotions()

    def see(act: Callable[[], object]) -> None:
        old = world.topology
        act()
        promotions.note(old, world.topology)

    see(lambda: world.standby(B))
    see(lambda: world.pass_time(0.5).primary(B, 2))
    assert promotions.since(B) != -math.inf
    see(lambda: world.members(A, C))
    assert not promotions._since
    see(lambda: world.members(A, B, C))
    see(lambda: world.primary(B, 2))
    assert promotions.since(B) == -math.inf
