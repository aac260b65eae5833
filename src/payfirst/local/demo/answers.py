"""The API's answers, as a buyer reads them."""

from __future__ import annotations

import asyncio
import time
import uuid

import aiohttp
import msgspec

POLL_S = 0.5


class MintAnswer(msgspec.Struct):
    """One unit of a payment."""

    status: str


class ErrorAnswer(msgspec.Struct):
    """Why a payment failed."""

    code: str


class PaymentAnswer(msgspec.Struct, rename="camel"):
    """`GET /api/payment/{id}`, and the body of a 202 as far as both agree."""

    payment_queue_id: uuid.UUID
    status: str
    quantity: int
    mints: list[MintAnswer] = []
    error: ErrorAnswer | None = None

    @property
    def is_minted(self) -> bool:
        """Whether all units are in the buyer's wallet."""
        return (
            self.status == "completed"
            and len(self.mints) == self.quantity
            and all(mint.status == "completed" for mint in self.mints)
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.is_minted or self.status == "failed"


class RefusalAnswer(msgspec.Struct):
    """A 402 of x402 (`error`) or a problem document (`code`)."""

    error: str = ""
    code: str = ""


async def follow(
    http: aiohttp.ClientSession, url: str, *, first_look_s: float, deadline_s: float
) -> PaymentAnswer | None:
    """Ask for a payment's status until it has ended; None when it has not by the deadline."""
    deadline = time.monotonic() + deadline_s
    await asyncio.sleep(first_look_s)
    while True:
        async with http.get(url) as response:
            if response.status == 200:
                answer = msgspec.json.decode(await response.read(), type=PaymentAnswer)
                if answer.has_ended:
                    return answer
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(POLL_S)
