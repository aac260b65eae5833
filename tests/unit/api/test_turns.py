"""Whose request is begun next, and what goes on in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from payfirst.api.turns import BEGUN_A_ROUND, REFUSED_IN_A_ROW, Turns

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
    turns.take(seen.begin("a"), refused_in_a_row=0)
    turns.take(seen.begin("b"), refused_in_a_row=100)
    assert seen.order == ["a", "b"]


async def test_what_is_under_way_goes_on_between_a_few() -> None:
    """However many have come at once; and they keep their order."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(MANY):
        turns.take(seen.begin(str(number)), refused_in_a_row=0)
    await seen.until_all_are_begun(MANY)
    assert _most_between(seen.order) <= 2 * BEGUN_A_ROUND  # those of the round in which they came, and of the next
    assert _most_between(seen.order[seen.order.index("under way") :]) <= BEGUN_A_ROUND
    assert [int(name) for name in seen.order if name != "under way"] == list(range(MANY))


async def test_who_was_refused_again_and_again_waits_behind_the_others() -> None:
    """All of them came first; only one a round is begun, and the last of them is begun too."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for _ in range(MANY):
        turns.take(seen.begin("refused"), refused_in_a_row=REFUSED_IN_A_ROW)
    for _ in range(MANY):
        turns.take(seen.begin("other"), refused_in_a_row=REFUSED_IN_A_ROW - 1)
    await seen.until_all_are_begun(2 * MANY)
    begun = [name for name in seen.order if name != "under way"]
    last_other = len(begun) - begun[::-1].index("other")
    assert begun[:last_other].count("refused") <= MANY / BEGUN_A_ROUND + 1
    assert begun.count("refused") == MANY


async def test_who_comes_while_others_wait_waits_too() -> None:
    """A place that is free in a later round is theirs who came before."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(BEGUN_A_ROUND + 1):
        turns.take(seen.begin(str(number)), refused_in_a_row=0)
    turns.take(seen.begin("late"), refused_in_a_row=0)
    assert seen.order == [str(number) for number in range(BEGUN_A_ROUND)]
    await seen.until_all_are_begun(BEGUN_A_ROUND + 2)
    assert [name for name in seen.order if name != "under way"][-2:] == [str(BEGUN_A_ROUND), "late"]


async def test_at_the_end_nobody_waits() -> None:
    """What has come is begun, so that the application knows of it before it ends; what comes later too."""
    seen, turns = Seen(), Turns(asyncio.get_running_loop())
    for number in range(MANY):
        turns.take(seen.begin(str(number)), refused_in_a_row=number % 2 * REFUSED_IN_A_ROW)
    turns.stop()
    turns.take(seen.begin("late"), refused_in_a_row=REFUSED_IN_A_ROW)
    assert len(seen.order) == MANY + 1
    await asyncio.sleep(0)
    assert len(seen.order) == MANY + 1
