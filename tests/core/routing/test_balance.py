"""The balancing policies."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.routing.adaptive import Adaptive
from pgroute.core.routing.balance import Ordered, Uniform, listener_of, parse_policy
from pgroute.core.routing.least_busy import LeastBusy
from pgroute.core.routing.round_robin import RoundRobin
from pgroute.errors import ConfigError
from tests.core.world import A, B, C


def candidates(*weights: float) -> tuple[Candidate, ...]:
    keys = (A, B, C)
    return tuple(
        Candidate(keys[i], 0, HostRole.STANDBY, i, weight=weight) for i, weight in enumerate(weights)
    )


def load(key: HostKey) -> int:
    raise AssertionError("these policies do not look at the load")


def shares(*weights: float) -> dict[HostKey, float]:
    rng = Random(42)
    picked = Counter(Uniform().pick(candidates(*weights), load, rng).key for _ in range(4000))
    return {key: count / 4000 for key, count in picked.items()}


class Dice(Random):
    def __init__(self, roll: float) -> None:
        super().__init__()
        self.roll = roll

    def random(self) -> float:
        return self.roll


def test_ordered_takes_the_first():
    assert {Ordered().pick(candidates(0.0, 9.0), load, Random(i)).key for i in range(50)} == {A}


def test_random_spreads_evenly():
    assert shares(1, 1, 1) == pytest.approx({A: 1 / 3, B: 1 / 3, C: 1 / 3}, abs=0.03)


def test_random_spreads_in_proportion_to_the_weights():
    assert shares(3, 0.5, 1.5) == pytest.approx({A: 0.6, B: 0.1, C: 0.3}, abs=0.03)


def test_host_of_weight_zero_is_not_picked_while_another_can_serve():
    assert set(shares(0, 1, 0)) == {B}


def test_hosts_of_weight_zero_share_when_there_is_no_other():
    assert shares(0, 0) == pytest.approx({A: 0.5, B: 0.5}, abs=0.03)
    assert Uniform().pick(candidates(0.0, 0.0), load, Dice(0.999999)).key == B


def test_only_candidate_is_picked_without_a_roll():
    rng = Random(3)
    state = rng.getstate()
    assert Uniform().pick(candidates(0.0), load, rng).key == A
    assert rng.getstate() == state


@pytest.mark.parametrize(("roll", "key"), [(0.0, A), (0.49, A), (0.5, B), (0.99, B)])
def test_each_host_owns_its_part_of_the_scale(roll, key):
    assert Uniform().pick(candidates(1, 1), load, Dice(roll)).key == key


def test_rounding_at_the_end_of_the_scale_never_picks_a_host_of_weight_zero():
    assert Uniform().pick(candidates(1, 1, 0), load, Dice(1.0)).key == B


def test_policies_by_name():
    assert isinstance(parse_policy("ordered"), Ordered)
    assert isinstance(parse_policy("random"), Uniform)
    assert isinstance(parse_policy("round-robin"), RoundRobin)
    assert isinstance(parse_policy("least-busy"), LeastBusy)
    assert isinstance(parse_policy("adaptive"), Adaptive)


@pytest.mark.parametrize("name", ["random", "round-robin", "least-busy", "adaptive"])
def test_each_router_has_a_policy_of_its_own(name):
    assert parse_policy(name) is not parse_policy(name)


def test_policy_that_wants_to_hear_of_sessions_is_found_out_once():
    adaptive = Adaptive()
    assert listener_of(adaptive) == adaptive.acquired
    assert listener_of(Ordered()) is None


def test_listener_that_cannot_be_called_is_refused():
    policy: Any = Ordered()
    policy.acquired = 5
    with pytest.raises(ConfigError, match=r"balance.acquired.*5.*a method of \(candidate, seconds\)"):
        listener_of(policy)


def test_object_with_pick_is_a_policy():
    policy = Ordered()
    assert parse_policy(policy) is policy


@pytest.mark.parametrize("bad", ["Random", "", None, 5, Ordered, ["random"]])
def test_anything_else_is_no_policy(bad):
    with pytest.raises(
        ConfigError,
        match=r"balance.*'adaptive', 'least-busy', 'ordered', 'random', 'round-robin', or an object with a pick\(\)",
    ) as caught:
        parse_policy(bad)
    assert caught.value.parameter == "balance"
