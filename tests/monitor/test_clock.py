"""A wait counts only the time in which this process could have noticed the answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from pgroute.monitor.alarm import Alarm
from pgroute.monitor.stalls import stall_aware_wait


@pytest.mark.parametrize(
    ("stall", "answer_after", "in_time"),
    [
        (0.0, 0.05, True),
        (0.0, 60.0, False),
        (0.4, 0.5, True),  # 0.5 s have gone by, but this loop ran for 0.1 of them
        (0.4, 60.0, False),
    ],
)
async def test_a_stall_of_the_loop_is_not_held_against_the_host(
    stall: float, answer_after: float, in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[float] = []
    wait = Alarm.wait

    async def noted(alarm: Alarm, due: float) -> bool:
        rang = await wait(alarm, due)
        late.append(loop.time() - due)
        return rang

    monkeypatch.setattr(Alarm, "wait", noted)
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    arrival = loop.call_later(answer_after, answer.set_result, None)
    loop.call_soon(time.sleep, stall)
    assert await stall_aware_wait(answer, 0.2) is in_time
    assert not answer.cancelled()
    assert [seconds for seconds in late[:-1] if seconds < 0.05] == [], "it waited again without a stall"
    arrival.cancel()


async def test_a_loop_that_stalls_again_and_again_comes_to_an_end() -> None:
    loop = asyncio.get_running_loop()
    ended = False

    def stall() -> None:
        time.sleep(0.15)
        if not ended:
            loop.call_soon(stall)

    loop.call_soon(stall)
    assert not await stall_aware_wait(loop.create_future(), 0.01)
    ended = True
