"""The policies with a memory or an eye on the load: what share each host gets, and what a host's absence changes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.routing.adaptive import SLACK, WINDOW, Adaptive
from pgroute.core.routing.balance import Policy, Uniform
from pgroute.core.routing.least_busy import LeastBusy
from pgroute.core.routing.round_robin import RoundRobin

KEYS = [HostKey(f"h{i}", 5432) for i in range(60)]
Group = tuple[Candidate, ...]


def hosts(*weights: float, rtts: Sequence[float] = (), generation: int = 0) -> Group:
    return tuple(
        Candidate(KEYS[i], generation, HostRole.STANDBY, i, weight=weight, rtt=rtts[i] if rtts else 0.001)
        for i, weight in enumerate(weights)
    )


def idle(key: HostKey) -> int:
    return 0


def turns(policy: Policy, group: Group, count: int, rng: Random) -> list[int]:
    return [policy.pick(group, idle, rng).order for _ in range(count)]


class Clients:
    """So many sessions that are always in use; each ends after a random time, and the next begins at once."""

    def __init__(self, policy: Policy, sessions: int, seed: int = 1) -> None:
        self.policy = policy
        self.sessions = sessions
        self.rng = Random(seed)
        self.open: list[Candidate] = []
        self.in_use: Counter[HostKey] = Counter()

    def load(self, key: HostKey) -> int:
        return self.in_use[key]

    def shares(
        self, group: Group, count: int, slow: Callable[[Candidate], float] = lambda _: 1.0
    ) -> list[float]:
        """Return each host's share of the next sessions; *slow* tells by how much its sessions take longer."""
        got: Counter[int] = Counter()
        while sum(got.values()) < count:
            if len(self.open) >= self.sessions:
                ends = self.rng.choices(self.open, [1 / slow(c) for c in self.open])[0]
                self.open.remove(ends)
                self.in_use[ends.key] -= 1
            chosen = self.policy.pick(group, self.load, self.rng)
            self.open.append(chosen)
            self.in_use[chosen.key] += 1
            got[chosen.order] += 1
        return [got[c.order] / count for c in group]


# All policies.


@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
@given(
    weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 100.0]), min_size=1, max_size=8),
    rtts=st.lists(st.floats(0, 2), min_size=8, max_size=8),
    loads=st.lists(st.integers(0, 20), min_size=8, max_size=8),
    seed=st.integers(0, 100),
)
def test_any_choice_is_a_candidate_and_of_weight_zero_only_if_all_are(
    policy, weights, rtts, loads, seed
) -> None:
    group = hosts(*weights, rtts=rtts)
    made, rng = policy(), Random(seed)
    for _ in range(5):
        chosen = made.pick(group, lambda key: loads[KEYS.index(key)], rng)
        assert chosen in group
        assert chosen.weight > 0 or not any(weights)
        if hasattr(made, "acquired"):
            made.acquired(chosen, rng.random())


@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
def test_the_only_candidate_is_taken_without_a_look_at_the_load(policy) -> None:
    def load(key: HostKey) -> int:
        raise AssertionError("nothing to choose")

    rng = Random(3)
    state = rng.getstate()
    group = hosts(0.0)
    assert policy().pick(group, load, rng) is group[0]
    assert rng.getstate() == state


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
@pytest.mark.parametrize("sessions", [1, 3, 30])
def test_equal_hosts_get_equal_shares(policy, sessions) -> None:
    shares = Clients(policy(), sessions).shares(hosts(1, 1, 1), 6000)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
def test_shares_follow_the_weights_under_load(policy) -> None:
    shares = Clients(policy(), 60).shares(hosts(3, 1, 2), 6000)
    assert shares == pytest.approx([3 / 6, 1 / 6, 2 / 6], abs=0.04)


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
@pytest.mark.parametrize("sessions", [1, 4, 40])
def test_a_small_weight_is_a_small_share_with_few_sessions_too(policy, sessions) -> None:
    """As a host has that warms up: one idle host of a tenth must not draw all sessions."""
    tenth = Clients(policy(), sessions).shares(hosts(1, 1, 0.1), 6000)[2]
    assert 0.01 < tenth < 0.15


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
def test_the_share_of_a_host_that_is_down_is_spread_over_all_others(policy) -> None:
    group = hosts(1, 1, 1, 1)
    clients = Clients(policy(), 8)
    clients.shares(group, 400)
    left = group[:1] + group[2:]
    assert clients.shares(left, 6000) == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.many
@pytest.mark.parametrize("policy", [Uniform, RoundRobin, LeastBusy, Adaptive])
def test_a_host_that_returns_gets_no_burst(policy) -> None:
    group = hosts(1, 1, 1)
    clients = Clients(policy(), 9)
    clients.shares(group, 300)
    clients.shares(group[:2], 3000)
    assert clients.shares(group, 60)[2] < 0.55
    assert clients.shares(group, 6000) == pytest.approx([1 / 3] * 3, abs=0.03)


# round-robin


@given(
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 1000),
)
def test_round_robin_is_exact_at_every_moment(weights: list[int], seed: int) -> None:
    """No host is ever more than a session and a bit from its share of what was given so far, and in the end none is."""
    policy, rng = RoundRobin(), Random(seed)
    group = hosts(*weights)
    total = sum(weights)
    got: Counter[int] = Counter()
    for n in range(1, 8 * total + 1):
        got[policy.pick(group, idle, rng).order] += 1
        for i, weight in enumerate(weights):
            assert abs(got[i] - n * weight / total) < 2
    assert [got[i] for i in range(len(weights))] == pytest.approx([8 * w for w in weights], abs=1)


@given(st.integers(2, 9), st.integers(0, 1000))
def test_round_robin_of_equal_hosts_is_a_circle(count: int, seed: int) -> None:
    policy, rng = RoundRobin(), Random(seed)
    first = turns(policy, hosts(*[1.0] * count), count, rng)
    assert sorted(first) == list(range(count))
    assert turns(policy, hosts(*[1.0] * count), 3 * count, rng) == 3 * first


def test_round_robin_does_not_begin_with_the_same_host_in_each_process() -> None:
    starts = {turns(RoundRobin(), hosts(1, 1, 1), 1, Random(seed))[0] for seed in range(40)}
    assert starts == {0, 1, 2}


@given(
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    away=st.data(),
    seed=st.integers(0, 1000),
)
def test_round_robin_is_fair_through_every_absence(
    weights: list[int], away: st.DataObject, seed: int
) -> None:
    """Whoever is away, and for how long: those that are there share by their weights, at most three sessions off."""
    policy, rng = RoundRobin(), Random(seed)
    group = hosts(*weights)
    for _ in range(4):
        present = away.draw(st.lists(st.sampled_from(group), min_size=1, unique=True))
        there = tuple(sorted(present, key=lambda c: c.order))
        count = away.draw(st.integers(1, 60))
        got = Counter(turns(policy, there, count, rng))
        total = sum(c.weight for c in there)
        for c in there:
            assert abs(got[c.order] - count * c.weight / total) <= 3


def test_round_robin_passes_over_a_host_of_weight_zero() -> None:
    got = turns(RoundRobin(), hosts(1, 0, 1), 10, Random(1))
    assert Counter(got) == {0: 5, 2: 5}
    assert sorted(turns(RoundRobin(), hosts(0, 0), 2, Random(1))) == [0, 1], "unless all are"


def test_round_robin_forgets_hosts_that_left_for_good() -> None:
    policy, rng = RoundRobin(), Random(1)
    turns(policy, hosts(*[1.0] * 60), 60, rng)
    turns(policy, hosts(1, 1), 10, rng)
    assert len(policy._credit) == 2


@pytest.mark.many
def test_round_robin_shared_by_threads_stays_fair() -> None:
    policy, group = RoundRobin(), hosts(2, 1, 1)
    got: Counter[int] = Counter()
    lock = threading.Lock()

    def work(seed: int) -> None:
        mine = Counter(turns(policy, group, 4000, Random(seed)))
        with lock:
            got.update(mine)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] / 16000 for i in range(3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


# least-busy


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(0, 1000))
def test_least_busy_takes_one_with_the_fewest_sessions(loads: list[int], seed: int) -> None:
    group = hosts(*[1.0] * len(loads))
    chosen = LeastBusy().pick(group, lambda key: loads[KEYS.index(key)], Random(seed))
    assert loads[chosen.order] == min(loads)


def test_least_busy_counts_sessions_per_weight() -> None:
    loads = {KEYS[0]: 5, KEYS[1]: 3}
    group = hosts(2, 1)
    assert {LeastBusy().pick(group, loads.__getitem__, Random(i)).order for i in range(50)} == {0}


@pytest.mark.many
def test_least_busy_sends_little_to_a_slow_host() -> None:
    shares = Clients(LeastBusy(), 12).shares(
        hosts(1, 1, 1), 6000, slow=lambda c: 10.0 if c.order == 2 else 1.0
    )
    assert shares[2] < 0.08
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


# adaptive


def test_adaptive_leaves_out_a_host_outside_the_window() -> None:
    shares = Clients(Adaptive(), 3).shares(hosts(1, 1, 1, rtts=[0.0005, 0.0006, 0.005]), 2000)
    assert shares == pytest.approx([0.5, 0.5, 0], abs=0.04)


@pytest.mark.parametrize(("beyond", "near"), [(-1e-6, True), (1e-6, False)])
def test_adaptive_window_ends_where_it_says(beyond: float, near: bool) -> None:
    edge = WINDOW * 0.002 + SLACK
    shares = Clients(Adaptive(), 1).shares(hosts(1, 1, rtts=[0.002, edge + beyond]), 200)
    assert (shares[1] > 0) is near


def test_adaptive_takes_the_less_busy_of_two() -> None:
    loads = {KEYS[0]: 9, KEYS[1]: 2}
    group = hosts(1, 1)
    assert {Adaptive().pick(group, loads.__getitem__, Random(i)).order for i in range(50)} == {1}


def test_adaptive_draws_two_different_hosts() -> None:
    """The busiest of three is never chosen: one of any two others is less busy."""
    loads = {KEYS[0]: 9, KEYS[1]: 2, KEYS[2]: 3}
    policy, rng = Adaptive(), Random(1)
    group = hosts(1, 1, 1)
    assert {policy.pick(group, loads.__getitem__, rng).order for _ in range(300)} == {1, 2}


def test_adaptive_is_not_misled_by_one_slow_probe() -> None:
    policy, rng = Adaptive(), Random(1)
    turns(policy, hosts(1, 1, rtts=[0.001, 0.001]), 10, rng)
    assert set(turns(policy, hosts(1, 1, rtts=[0.001, 0.006]), 60, rng)) == {0, 1}


def test_adaptive_sees_within_three_probes_that_a_host_slowed_tenfold_and_that_it_recovered() -> None:
    policy, rng = Adaptive(), Random(1)
    turns(policy, hosts(1, 1, rtts=[0.001, 0.001]), 10, rng)
    for probe in range(3):
        slow = hosts(1, 1, rtts=[0.001, 0.010 + probe / 1e6])
        turns(policy, slow, 10, rng)
    assert set(turns(policy, slow, 60, rng)) == {0}
    for probe in range(10):
        well = hosts(1, 1, rtts=[0.001, 0.001 + probe / 1e6])
        turns(policy, well, 10, rng)
    assert set(turns(policy, well, 60, rng)) == {0, 1}


def test_adaptive_learns_from_sessions_that_wait() -> None:
    policy, rng = Adaptive(), Random(1)
    group = hosts(1, 1)
    turns(policy, group, 4, rng)
    for _ in range(20):
        policy.acquired(group[0], 0.1)
    turns(policy, group, 4, rng)  # looks at the latencies again after so many choices
    assert set(turns(policy, group, 60, rng)) == {1}


def test_adaptive_forgets_with_the_probes_that_sessions_waited() -> None:
    """Sessions no longer go there, so nothing else could tell that they would not wait now."""
    policy, rng = Adaptive(), Random(1)
    group = hosts(1, 1)
    turns(policy, group, 4, rng)
    for _ in range(20):
        policy.acquired(group[0], 0.1)
    for probe in range(8):
        group = hosts(1, 1, rtts=[0.001 + probe / 1e6, 0.001])
        turns(policy, group, 4, rng)
    assert set(turns(policy, group, 60, rng)) == {0, 1}


def test_adaptive_learns_anew_of_a_host_that_restarted() -> None:
    policy, rng = Adaptive(), Random(1)
    turns(policy, hosts(1, 1, rtts=[0.001, 0.5]), 4, rng)
    assert set(turns(policy, hosts(1, 1, generation=1), 60, rng)) == {0, 1}


def test_adaptive_does_not_hold_a_slow_first_probe_against_a_host_that_has_just_started() -> None:
    policy, rng = Adaptive(), Random(1)
    turns(policy, hosts(1, 1, rtts=[0.001, 0.05]), 10, rng)
    assert set(turns(policy, hosts(1, 1, rtts=[0.001, 0.0011]), 60, rng)) == {0, 1}


def test_adaptive_learns_nothing_of_a_host_that_it_never_looked_at() -> None:
    policy = Adaptive()
    policy.acquired(hosts(1)[0], 5.0)
    assert policy._latencies == {}


def test_adaptive_forgets_hosts_that_left_for_good() -> None:
    policy, rng = Adaptive(), Random(1)
    turns(policy, hosts(*[1.0] * 60), 2, rng)
    turns(policy, hosts(1, 1), 10, rng)
    assert len(policy._latencies) == 2


@pytest.mark.many
def test_adaptive_sends_less_to_a_host_whose_sessions_take_longer() -> None:
    shares = Clients(Adaptive(), 12).shares(
        hosts(1, 1, 1), 6000, slow=lambda c: 10.0 if c.order == 2 else 1.0
    )
    assert shares[2] < 0.12
