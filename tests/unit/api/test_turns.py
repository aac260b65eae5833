"""Whose request is begun next, and what goes on in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from payfirst.api.turns import BEGUN_A_ROUND, BEHIND_A_ROUND, Turns

MANY = 10 * BEGUN_A_ROUND


class Seen:
    """In which order requests were begun, and what is under way came between."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def begin(self, name: str) -> Callable[[], None]:
        """What Turns calls."""
        return lambda: self.order.append(name)

    async def until_all_are_begun(self, count: int) -> None:
        """What is under way has its say once in each round."""
        async with asyncio.timeout(5):
            while len([name for name in self.order if name != "under way"]) < count:
                await asyncio.sleep(0)
                self.order.append("under way")


def _most_between(order: list[str]) -> int:
    most = run = 0
    for name in order:
        run = 0 if name == "under way" else run + 1
        most = max(most, run)
    return most


async def test_who_comes_when_nobody_waits_is_begun_at_once() -> None:
    """Nothing is waited for where there is nothing to wait for."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    turns.take(seen.begin("behind"), is_behind=True)
    turns.take(seen.begin("other"), is_behind=False)
    assert seen.order == ["behind", "other"]


async def test_what_is_under_way_goes_on_between_a_few() -> None:
    """However many have come at once; and they keep their order."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(MANY):
        turns.take(seen.begin(str(number)), is_behind=False)
    await seen.until_all_are_begun(MANY)
    assert _most_between(seen.order) <= 2 * BEGUN_A_ROUND  # those of the round in which they came, and of the next
    assert _most_between(seen.order[seen.order.index("under way") :]) <= BEGUN_A_ROUND
    assert [int(name) for name in seen.order if name != "under way"] == list(range(MANY))


async def test_who_was_refused_again_and_again_waits_until_no_other_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those who came first among them, too; then one is begun in each round."""
    monkeypatch.setattr("payfirst.api.turns.BEHIND_S_MAX", 60.0)
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    turns.take(seen.begin("other"), is_behind=False)
    turns.take(seen.begin("other"), is_behind=False)
    for _ in range(MANY):
        turns.take(seen.begin("behind"), is_behind=True)
    for _ in range(2 * MANY):
        await asyncio.sleep(0)
    turns.ended()
    await asyncio.sleep(0)
    assert seen.order == ["other", "other"]
    turns.ended()
    await seen.until_all_are_begun(2 + MANY)
    assert _most_between(seen.order[2:]) == BEHIND_A_ROUND
    turns.take(seen.begin("late"), is_behind=True)
    await seen.until_all_are_begun(3 + MANY)


async def test_who_was_refused_again_and_again_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some answers take minutes. Those who have waited long enough are begun one a round, before others that come."""
    monkeypatch.setattr("payfirst.api.turns.BEHIND_S_MAX", 0.5)
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    turns.take(seen.begin("for minutes"), is_behind=False)
    for number in range(2):  # and those who come after them wait anew
        for _ in range(MANY):
            turns.take(seen.begin("behind"), is_behind=True)
        await asyncio.sleep(0.01)
        assert seen.order.count("behind") == number * MANY
        turns.take(seen.begin("other"), is_behind=False)
        turns.ended()
        await seen.until_all_are_begun(1 + (number + 1) * (MANY + 1))
    assert _most_between(seen.order[seen.order.index("under way") :]) <= BEHIND_A_ROUND + 1


class Loop:
    """An event loop that is moved by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: dict[Loop.Timer, Callable[[], None]] = {}

    class Timer:
        """What `call_later` returns."""

        def __init__(self, loop: Loop) -> None:
            self._loop = loop

        def cancel(self) -> None:
            """It is not called."""
            self._loop.timers.pop(self, None)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """In the next round."""
        self.soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> Timer:
        """When the test says so."""
        timer = Loop.Timer(self)
        self.timers[timer] = callback
        return timer

    def until_idle(self) -> None:
        """Round after round, while anything is to be called."""
        while self.soon:
            due, self.soon = self.soon, []
            for callback in due:
                callback()


def test_each_wait_has_its_own_time() -> None:
    """Once all of those behind are begun, the timer that was theirs makes nobody overdue who comes after them."""
    loop, seen = Loop(), Seen()
    turns = Turns(cast("asyncio.AbstractEventLoop", loop))
    turns.take(seen.begin("other"), is_behind=False)
    turns.take(seen.begin("behind"), is_behind=True)
    loop.until_idle()
    assert (seen.order, len(loop.timers)) == (["other"], 1)
    turns.ended()
    loop.until_idle()
    assert (seen.order, len(loop.timers)) == (["other", "behind"], 0)
    turns.take(seen.begin("other"), is_behind=False)
    turns.take(seen.begin("behind"), is_behind=True)
    loop.until_idle()
    assert len(loop.timers) == 1
    for callback in list(loop.timers.values()):
        callback()
    loop.until_idle()
    assert seen.order == ["other", "behind"] * 2


async def test_others_go_on_being_begun_while_the_late_ones_are() -> None:
    """All of them wait when those behind become overdue: eight of the others a round, one of them."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    turns.take(seen.begin("for minutes"), is_behind=False)
    for _ in range(MANY):
        turns.take(seen.begin("behind"), is_behind=True)
    async with asyncio.timeout(5):
        while "behind" not in seen.order:  # noqa: ASYNC110 - a begun request sets no event
            await asyncio.sleep(0)
    assert seen.order.count("behind") < MANY / 2
    for _ in range(MANY):
        turns.take(seen.begin("other"), is_behind=False)
    await seen.until_all_are_begun(1 + 2 * MANY)
    begun = [name for name in seen.order if name != "under way"]
    last_other = len(begun) - begun[::-1].index("other")
    assert begun[:last_other].count("behind") <= begun.index("other") + MANY / BEGUN_A_ROUND + 1


async def test_who_comes_while_others_wait_waits_too() -> None:
    """A place that is free in a later round is theirs who came before."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(BEGUN_A_ROUND + 1):
        turns.take(seen.begin(str(number)), is_behind=False)
    turns.take(seen.begin("late"), is_behind=False)
    assert seen.order == [str(number) for number in range(BEGUN_A_ROUND)]
    await seen.until_all_are_begun(BEGUN_A_ROUND + 2)
    assert [name for name in seen.order if name != "under way"][-2:] == [str(BEGUN_A_ROUND), "late"]


async def test_at_the_end_nobody_waits() -> None:
    """What has come is begun, so that the application knows of it before it ends; what comes later too."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(MANY):
        turns.take(seen.begin(str(number)), is_behind=number % 2 == 1)
    turns.stop()
    turns.take(seen.begin("late"), is_behind=True)
    assert len(seen.order) == MANY + 1
    await asyncio.sleep(0)
    assert len(seen.order) == MANY + 1
