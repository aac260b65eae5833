"""Buying: ask, check, sign, save; `pursuit` does the rest. What may be signed is decided in `limits`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from payfirst.client.answers import Again, Asked, Refused, judge_offer, plain
from payfirst.client.errors import NoOfferNow, OfferRefused, OrderRefused
from payfirst.client.http import Http
from payfirst.client.limits import Limits, choose
from payfirst.client.order import Order
from payfirst.client.patience import Patience
from payfirst.client.purchases import Folder, Purchase
from payfirst.client.pursuit import Pursuit
from payfirst.client.steps import Offered, Signed, Step, Stopped, Waiting
from payfirst.errors import PayfirstError
from payfirst.units import Address, AuthorizationNonce, UnixTime
from payfirst.x402.payload import Authorization
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.signing import address_of, header_v2, sign_authorization

# Above the 15 minutes for which a payment usually may be settled: the end is seen then, whatever it is.
PATIENCE_S = 1_200.0
RESUMED_AT_ONCE_MAX = 16


@dataclass(frozen=True, slots=True)
class Wallet:
    """A key and its account."""

    key: bytes = field(repr=False)
    address: Address

    def sign(self, order: Order, reference: str | None, requirements: PaymentRequirements) -> Purchase:
        """The one payment of a purchase, valid from now on for as long as the offer asks."""
        now = int(time.time())
        asset = requirements.asset
        authorization = Authorization(
            payer=self.address,
            pay_to=requirements.pay_to,
            value=requirements.amount,
            valid_after=UnixTime(0),
            valid_before=UnixTime(now + requirements.max_timeout_s),
            nonce=AuthorizationNonce(secrets.token_bytes(32)),
        )
        signature = sign_authorization(asset, authorization, self.key)
        return Purchase(
            order=order,
            reference=reference,
            payer=authorization.payer,
            pay_to=authorization.pay_to,
            network=asset.network.caip2,
            asset=asset.address,
            asset_name=plain(asset.name),
            decimals=asset.decimals,
            amount=authorization.value,
            nonce=authorization.nonce,
            valid_before=authorization.valid_before,
            signed_at=UnixTime(now),
            header=header_v2(authorization, signature, requirements=requirements),
        )


class Buyer:
    """Buys with one key, and keeps each purchase in `folder`. Use it as a context manager.

    Without a key it can only `resume`: what is unfinished is signed already.
    """

    def __init__(
        self, key: bytes | None, *, folder: Path, limits: Limits | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """`patience_s` is how long each purchase is followed at most. Raises ValueError when the key is none."""
        self._wallet = None if key is None else Wallet(key, address_of(key))
        self._folder = Folder(folder)
        self._limits = Limits() if limits is None else limits
        self._patience_s = patience_s
        self._http = Http()
        self._pursuit = Pursuit(self._http, self._folder)

    async def __aenter__(self) -> Self:
        """Raises FolderUnusable."""
        await asyncio.to_thread(self._folder.open)
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def buy(self, order: Order, *, reference: str | None = None) -> AsyncIterator[Step]:
        """Buy, and report each step; the last one is `Ended`.

        A `reference` is the caller's name for this one purchase: given again, also after a crash, it goes on with
        what was signed for it, or says how that ended, and never pays a second time.

        Raises OfferRefused, OrderRefused, AlreadyUnderWay, NotAnOffer or NoOfferNow, when nothing was signed;
        StillUnderWay when its end was not seen in time; FolderUnusable.
        """
        wallet = self._wallet
        if wallet is None:
            raise OfferRefused("There is no key to sign with.")
        patience = Patience(self._patience_s)
        known = await asyncio.to_thread(self._folder.find, order, wallet.address, reference)
        if known is not None:
            if reference is None:
                raise self._folder.under_way()
            async for step in self._pursuit.to_the_end(known, patience):
                yield step
            return
        async for offering in self._offer(order, patience):
            yield offering
            if isinstance(offering, Offered):
                purchase = wallet.sign(order, reference, offering.requirements)
                # Saved before it is sent: from here on there is exactly one payment for this purchase.
                await asyncio.to_thread(self._folder.add, purchase)
                yield Signed(purchase)
                async for step in self._pursuit.to_the_end(purchase, patience):
                    yield step

    async def resume(self) -> AsyncIterator[Step]:
        """Go on with everything unfinished, each with the header that was signed for it, and report each step.

        The last step of each is `Ended`, or `Stopped` with the reason for which it is still unfinished.
        Raises FolderUnusable.
        """
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        slots = asyncio.Semaphore(RESUMED_AT_ONCE_MAX)

        async def go_on(purchase: Purchase) -> None:
            async with slots:
                try:
                    async for step in self._pursuit.to_the_end(purchase, Patience(self._patience_s)):
                        await steps.put(step)
                except PayfirstError as error:
                    await steps.put(Stopped(purchase, error))

        async def all_of(purchases: list[Purchase]) -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for purchase in purchases:
                        group.create_task(go_on(purchase))
            finally:
                await steps.put(None)

        task = asyncio.create_task(all_of(await asyncio.to_thread(self._folder.unfinished)))
        try:
            while (step := await steps.get()) is not None:
                yield step
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _offer(self, order: Order, patience: Patience) -> AsyncIterator[Waiting | Offered]:
        """The seller's offer within the limits, as the last step."""
        if not (order.is_private_on_the_way or self._limits.plain_http):
            raise OfferRefused(
                f"{order.base_url} is not https: whoever is between could be paid instead. Use https, or allow http."
            )
        while True:
            answer = await self._http.ask("POST", order.url, body=order.body)
            match judge_offer(answer, now=time.time()):
                case Asked(header):
                    yield Offered(choose(header, self._limits))
                    return
                case Refused(code, sentence):
                    raise OrderRefused(f"{sentence} ({code})")
                case Again(reason, after_s):
                    pause_s = patience.next_pause_s(after_s)
                    if pause_s is None:
                        raise NoOfferNow(f"{order.url} made no offer in time: {reason}. Nothing was signed.")
                    yield Waiting(reason, pause_s)
                    await asyncio.sleep(pause_s)
