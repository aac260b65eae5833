"""From a signed payment to its end: sent until the seller has it, then followed. Always the same header."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from payfirst.client.answers import (
    Again,
    Failure,
    Known,
    Missing,
    Payment,
    Refused,
    Taken,
    Unchanged,
    judge_paid,
    judge_status,
    plain,
)
from payfirst.client.errors import DeliveryOwed, FolderUnusable, PaymentFailed, PaymentRefused, StillUnderWay
from payfirst.client.http import ANSWER_TIMEOUT_S, Http
from payfirst.client.patience import Patience
from payfirst.client.purchases import Folder, Outcome, Purchase
from payfirst.client.steps import Accepted, Ended, Progress, Step, Waiting
from payfirst.errors import PayfirstError
from payfirst.x402.payload import HEADER_NAMES

HOLD_S = 20  # how long the seller is asked to hold a look until something changes
LOOK_S_MIN = 1.0  # between two looks at a seller who holds none
SOUGHT_AFTER_S = 30  # a payment signed so long ago is looked for before it is sent again

_PAYMENT_HEADER = HEADER_NAMES[2]


class Pursuit:
    """What is done for purchases that are signed and kept."""

    def __init__(self, http: Http, folder: Folder) -> None:
        self._http = http
        self._folder = folder

    async def to_the_end(self, purchase: Purchase, patience: Patience) -> AsyncIterator[Step]:
        """Each step of a purchase; the last one is `Ended`. Raises StillUnderWay or FolderUnusable."""
        if purchase.outcome is not None:
            yield Ended(purchase, purchase.outcome, why_not_minted(purchase))
            return
        if purchase.payment_id is None and purchase.signed_at + SOUGHT_AFTER_S < time.time():
            purchase = await self._sought(purchase)
        while True:
            if purchase.payment_id is None:
                async for step in self._send(purchase, patience):
                    yield step
                    if isinstance(step, Ended):
                        return
                    if isinstance(step, Accepted):
                        purchase = step.purchase
            async for step in self._follow(purchase, patience):
                yield step
                if isinstance(step, Ended):
                    return
                if isinstance(step, Progress):
                    purchase = step.purchase
            # The seller has lost it (a database put back, say): its authorization is as good as before.
            purchase = replace(purchase, payment_id=None)

    async def _sought(self, purchase: Purchase) -> Purchase:
        """With its id, if the seller can say it; if not, the header itself will find it."""
        url = purchase.order.search_url(payer=purchase.payer, nonce=purchase.nonce)
        found = judge_status(await self._http.ask("GET", url), now=time.time())
        if isinstance(found, Known):
            return await self._changed(purchase, payment_id=str(found.payment.payment_queue_id))
        return purchase

    async def _send(self, purchase: Purchase, patience: Patience) -> AsyncIterator[Step]:
        """The signed header until it is answered; the last step is Accepted or Ended."""
        if purchase.header is None:
            raise FolderUnusable(f"the file of the unfinished purchase {purchase.name} has lost its payment header")
        headers = {_PAYMENT_HEADER: purchase.header}
        while True:
            answer = await self._http.ask("POST", purchase.order.url, body=purchase.order.body, headers=headers)
            match judge_paid(answer, now=time.time()):
                case Taken(payment_id):
                    patience.begin_again()
                    yield Accepted(await self._changed(purchase, payment_id=str(payment_id)))
                    return
                case Known(payment):  # taken before, and settled or failed by now: following it sees which
                    yield Accepted(await self._changed(purchase, payment_id=str(payment.payment_queue_id)))
                    return
                case Refused(code, sentence):
                    refused = replace(purchase, error_code=code, error=sentence)
                    yield await self._ended(refused, Outcome.REFUSED)
                    return
                case Again(reason, after_s):
                    waiting = _waiting(purchase, patience, reason, after_s)
                    yield waiting
                    await asyncio.sleep(waiting.after_s)

    async def _follow(self, purchase: Purchase, patience: Patience) -> AsyncIterator[Step]:
        """Each change until the end; ends without `Ended` when the seller knows no such payment."""
        url = purchase.order.payment_url(str(purchase.payment_id))
        tag: str | None = None
        while True:
            asked_at = time.monotonic()
            # Without a tag the first look is answered at once: what is there is shown before a change is waited for.
            held_s = 0 if tag is None else min(HOLD_S, int(patience.left_s))
            headers = {} if tag is None else {"If-None-Match": tag, "Prefer": f"wait={held_s}"}
            answer = await self._http.ask("GET", url, headers=headers, within_s=held_s + ANSWER_TIMEOUT_S)
            match judge_status(answer, now=time.time()):
                case Known(payment, seen) if seen is None or seen != tag:
                    patience.begin_again()
                    tag = seen
                    purchase = await self._changed(purchase, tx_hash=payment.tx_hash, minted=payment.minted)
                    yield Progress(purchase, payment)
                    if payment.has_ended:
                        yield await self._ended(*_end(purchase, payment))
                        return
                    pause_s = LOOK_S_MIN if tag is None else 0.0
                case Known() | Unchanged():
                    patience.begin_again()
                    pause_s = max(0.0, asked_at + LOOK_S_MIN - time.monotonic())  # it was not held
                case Missing():
                    waiting = _waiting(purchase, patience, "the seller does not know this payment", None)
                    yield waiting
                    await asyncio.sleep(waiting.after_s)
                    return
                case Again(reason, after_s):
                    waiting = _waiting(purchase, patience, reason, after_s)
                    yield waiting
                    pause_s = waiting.after_s
            if patience.left_s <= pause_s:
                raise _still(purchase, "it has not ended yet")
            await asyncio.sleep(pause_s)

    async def _changed(self, purchase: Purchase, **changes: str | int | None) -> Purchase:
        """The purchase with what is new of it, kept in the folder."""
        changed = replace(purchase, **changes)  # type: ignore[arg-type]  # fields of Purchase, each named where called
        if changed != purchase:
            await asyncio.to_thread(self._folder.change, changed)
        return changed

    async def _ended(self, purchase: Purchase, outcome: Outcome) -> Ended:
        ended = await asyncio.to_thread(self._folder.finish, replace(purchase, outcome=outcome))
        return Ended(ended, outcome, why_not_minted(ended))


def why_not_minted(purchase: Purchase) -> PayfirstError | None:
    """Why a purchase that has ended is not minted; the error's kind says who acts."""
    sentence = purchase.error or ""
    match purchase.outcome:
        case Outcome.REFUSED:
            return PaymentRefused(f"The seller did not take the payment ({purchase.error_code}): {sentence}")
        case Outcome.FAILED:
            return PaymentFailed(f"The payment failed ({purchase.error_code}): {sentence}")
        case Outcome.OWED:
            return DeliveryOwed(
                f"Paid, but {purchase.order.quantity - purchase.minted} of {purchase.order.quantity} units could not be"
                f" minted: the seller owes them. Ask the seller, by payment {purchase.payment_id}."
            )
        case _:
            return None


def _end(purchase: Purchase, payment: Payment) -> tuple[Purchase, Outcome]:
    """A purchase whose payment has ended, and how."""
    if payment.status == "failed":
        failure = payment.error or Failure(code="unknown", message="The seller does not say why.")
        return replace(purchase, error_code=plain(failure.code), error=plain(failure.message)), Outcome.FAILED
    return purchase, Outcome.MINTED if payment.is_minted else Outcome.OWED


def _waiting(purchase: Purchase, patience: Patience, reason: str, after_s: float | None) -> Waiting:
    """A pause before the same is sent again. Raises StillUnderWay where that would be too late."""
    pause_s = patience.next_pause_s(after_s)
    if pause_s is None:
        raise _still(purchase, reason)
    return Waiting(reason, pause_s, purchase)


def _still(purchase: Purchase, reason: str) -> StillUnderWay:
    what = "The payment was sent, and whether it was taken is not known"
    if purchase.payment_id is not None:
        what = f"Payment {purchase.payment_id} was taken and has not ended"
    return StillUnderWay(f"{what}: {reason}. It is kept; resume goes on with it and pays nothing twice.")
