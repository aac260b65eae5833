"""The loop of what sends: round after round while there is work, woken at once when there is, and looking by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from payfirst.errors import RetriedError
from payfirst.ops.log import get_logger
from payfirst.pipeline.outbox import Outbox

POLL_S = 1.0
RETRY_S = 0.5

log = get_logger()


class Rounds:
    """Runs one sender's rounds until stopped; a round returns whether it found work."""

    def __init__(self, name: str, round_of_work: Callable[[], Awaitable[bool]], *, outbox: Outbox) -> None:
        self._name = name
        self._round = round_of_work
        self._outbox = outbox
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return after the round that is under way."""
        self._stopped.set()
        self._outbox.stop()
        self._wake.set()

    async def run(self) -> None:
        """Work until stopped. What is retried leaves no belief about the signer behind."""
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                worked = await self._round()
            except RetriedError as error:
                if self._stopped.is_set():
                    return
                log.warning(f"{self._name}_postponed", message=f"The {self._name} round is tried again: {error}")
                await self._outbox.give_up_claims()
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                self._outbox.note_failure()  # or the same rows would be read first, each time
                raise
            if not worked and not self._stopped.is_set():
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            return
