"""Random faults by seed in the simulation of fleets: what must hold in every history, and in the scenarios."""

from __future__ import annotations

import pytest

from benchmarks.fleet.client import Pool
from benchmarks.fleet.fleet import Violation
from benchmarks.fleet.history import History
from benchmarks.fleet.scenarios import SCENARIOS
from pgroute.core.routing.admission import Admission
from pgroute.core.routing.lending import Lending
from pgroute.core.transactions.retry_budget import Usage

FEW, MANY = 12, 400
"""Histories in each test; the long ones are 4,000."""
CLIENTS = 8
STUCK = "nothing will wake them|waits since|was not served"


@pytest.mark.parametrize("first", range(0, 5 * FEW, FEW))
def test_in_no_history_of_random_faults_an_invariant_is_broken(first):
    lendings = 0
    for seed in range(first, first + FEW):
        lendings += History(seed).run().lendings
    assert lendings > 50 * FEW


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 1000 + 10 * MANY, MANY))
def test_in_no_one_of_thousands_of_histories_an_invariant_is_broken(first):
    for seed in range(first, first + MANY):
        History(seed).run()


def test_a_history_depends_on_its_seed_alone():
    fleets = [History(seed).run() for seed in (7, 7, 8)]
    figures = [(f.sim.events, f.lendings, [c.served for c in f.clients]) for f in fleets]
    served = [[[w[:3] for w in each] for each in figure[2]] for figure in figures]
    assert figures[0][:2] == figures[1][:2]
    assert served[0] == served[1]
    assert figures[0][:2] != figures[2][:2]


def close_without_waking(books):
    books.closed = True
    return []


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ((Usage, "refusal", lambda *_: ""), "retries, "),
        ((Admission, "refused", lambda *_: 1e9), STUCK),
        ((Lending, "close", close_without_waking), STUCK),
        ((Pool, "wake", lambda _: None), STUCK),
    ],
    ids=["budget", "refused", "close", "wake"],
)
def test_what_breaks_an_invariant_is_found(monkeypatch, broken, told):
    monkeypatch.setattr(*broken)
    with pytest.raises(Violation, match=told):
        for seed in range(360, 510):
            History(seed).run()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name in ("full", "return") else ()) for name in SCENARIOS],
)
def test_a_fleet_gets_over_each_scenario_within_the_capacity_of_the_server(name):
    figures = SCENARIOS[name](3, clients=CLIENTS).run()
    assert figures["logins_peak"] < figures["capacity"]
    assert figures["probes_steady"] < 1.1
    if name != "full":
        assert figures["served_last"] < 2.0
    else:
        assert figures["refused"] < CLIENTS * 6.0 / 0.1
