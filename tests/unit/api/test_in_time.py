"""One timer for all requests ends the ones that take too long, and only those."""

from __future__ import annotations

import asyncio

import pytest

from payfirst.api import in_time
from payfirst.api.in_time import InTime


async def _held(limit: InTime, until: asyncio.Event) -> str:
    with limit:
        await until.wait()
    return "in time"


async def test_what_takes_too_long_is_ended_and_what_comes_later_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of the first one passes while the second one is under way."""
    monkeypatch.setattr(in_time, "REQUEST_TIMEOUT_S", 0.01)
    limit, never, soon = InTime(), asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(_held(limit, never))
    await asyncio.sleep(0)
    monkeypatch.setattr(in_time, "REQUEST_TIMEOUT_S", 60.0)
    second = asyncio.create_task(_held(limit, soon))
    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    soon.set()
    assert await second == "in time"
    assert first.cancelling() == 0


async def test_each_of_many_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer looks again for those that are left."""
    monkeypatch.setattr(in_time, "REQUEST_TIMEOUT_S", 0.01)
    limit, never = InTime(), asyncio.Event()

    async def begin_later(after_s: float) -> str:
        await asyncio.sleep(after_s)
        return await _held(limit, never)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(begin_later(n / 500) for n in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 10


async def test_a_client_that_goes_is_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled by the server: CancelledError, also when the limit passes in the same moment, in either order."""
    limit, never = InTime(), asyncio.Event()
    task = asyncio.create_task(_held(limit, never))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(in_time, "REQUEST_TIMEOUT_S", 0.0)
    for server_first in (True, False):
        task = asyncio.create_task(_held(limit, never))
        await asyncio.sleep(0)
        for end in (task.cancel, limit._look) if server_first else (limit._look, task.cancel):
            end()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_it_holds_together_raises_what_it_raised() -> None:
    """An error inside is not hidden, and no timer stays when nobody is in there."""
    limit = InTime()
    with pytest.raises(ZeroDivisionError), limit:
        _ = 1 / 0
    assert limit._timer is None
    assert await _held(limit, _set()) == "in time"
    assert limit._timer is None


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
