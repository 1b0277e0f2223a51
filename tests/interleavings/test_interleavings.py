"""Histories of each face, in which nothing may be found; and the faults put back, each of which they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interleavings.faults import FAULTS, Patch
from tests.interleavings.history import play
from tests.interleavings.threads import Crew

COUNTS = [pytest.param(100), pytest.param(10_000, marks=(pytest.mark.long, pytest.mark.timeout(1200)))]
MOST = 1000
"""Histories that may be played until a fault is found; 2 to 200 are enough, it depends on which."""


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.mark.parametrize("face", ["async", "sync"])
@pytest.mark.parametrize("count", COUNTS)
def test_nobody_is_forgotten_and_nothing_is_lost(count: int, face: str, crew: Crew) -> None:
    found = [history for seed in range(count) if (history := play(seed, face, crew)).violations]
    if found:
        print(found[0].tell())
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("fault", "face"),
    [
        pytest.param(fault, face, id=f"{fault.__name__}-{face}")
        for fault, faces in FAULTS.items()
        for face in faces
    ],
)
def test_a_fault_that_is_put_back_is_found(fault: Callable[[], Patch], face: str, crew: Crew) -> None:
    with fault():
        assert any(play(seed, face, crew).violations for seed in range(MOST))


@pytest.mark.parametrize("face", ["async", "sync"])
def test_a_seed_gives_the_same_history_each_time(face: str, crew: Crew) -> None:
    for seed in range(20):
        assert play(seed, face, crew).tell() == play(seed, face, crew).tell()
