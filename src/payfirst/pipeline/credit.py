"""Credit a payment: completed together with all its mint rows, in the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.chain.blocks import Head
from payfirst.lifecycle import MintStatus
from payfirst.ops import metrics
from payfirst.pipeline.confirm_plan import Credit
from payfirst.pipeline.settle_plan import NONCE_USED, SENTENCES
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, mints, owed, tokens
from payfirst.store.crediting import Completion
from payfirst.store.database import Connection
from payfirst.store.ids import Ids
from payfirst.store.mints import NewMint
from payfirst.store.owed import Debt
from payfirst.units import Address
from payfirst.x402.mint_id import mint_id

NO_SUPPLY = "no_supply"
NO_SUPPLY_SENTENCE = "The payment came after its supply had been given back, and the token is sold out."


@dataclass(frozen=True, slots=True)
class Created:
    """A payment that has just been completed, with its mint rows."""

    payment_id: uuid.UUID
    quantity: int


async def write(connection: Connection, credits_: Sequence[Credit], *, block: Head, terms: Terms) -> list[Created]:
    """Complete payments and create their mint rows; what cannot be delivered is `owed`, never missing."""
    if not credits_:
        return []
    deliverable = await _reserve_late(connection, credits_, terms)
    ids = Ids()
    completions: list[Completion] = []
    new_mints: list[NewMint] = []
    for one in credits_:
        units = _mint_rows(one, terms, delivered=one.payment.id in deliverable, ids=ids)
        new_mints += units
        completions.append(
            completion(one, block, reserved=one.payment.id in deliverable, queue_ids=[str(u.id) for u in units])
        )
    await crediting.mark_completed(connection, completions)
    await owed.settle_claimed(connection, [c.id for c in completions])
    await mints.insert(connection, network=terms.network, mints=new_mints)
    debts = [Debt(m.payment_id, m.unit) for m in new_mints if m.status is MintStatus.OWED]
    if debts:
        await owed.write(connection, debts, direction="to_buyer", reason=NO_SUPPLY)
    return [Created(one.payment.id, one.payment.quantity) for one in credits_]


def count(credits_: Sequence[Credit]) -> None:
    """For the metrics: call it after the commit."""
    metrics.PAYMENTS_COMPLETED.add(by=len(credits_))
    for one in credits_:
        metrics.STAGE.observe(one.payment.age_s, *metrics.ACCEPTED_TO_COMPLETED)
        if one.payment.sent_s is not None:
            metrics.STAGE.observe(one.payment.sent_s, *metrics.SENT_TO_COMPLETED)


async def _reserve_late(connection: Connection, credits_: Sequence[Credit], terms: Terms) -> set[uuid.UUID]:
    """The payments whose units can be delivered: those that hold supply, and as many others as still fit."""
    late = [one.payment for one in credits_ if not one.payment.supply_reserved]
    deliverable = {one.payment.id for one in credits_ if one.payment.supply_reserved}
    if not late:
        return deliverable
    supply = await tokens.lock_supply(connection, terms.network, sorted({p.token for p in late}))
    taken: dict[Address, int] = {}
    for payment in late:
        stock = supply.get(payment.token)
        if stock is None or stock.max_mint_count is None:
            continue
        promised = stock.minted + stock.reserved + taken.get(payment.token, 0)
        if promised + payment.quantity <= stock.max_mint_count:
            taken[payment.token] = taken.get(payment.token, 0) + payment.quantity
            deliverable.add(payment.id)
    await tokens.add_reserved(connection, terms.network, taken)
    return deliverable


def completion(one: Credit, block: Head, *, reserved: bool = True, queue_ids: Sequence[str] = ()) -> Completion:
    """A credit as the row wants it."""
    ids = ",".join(f'"{queue_id}"' for queue_id in queue_ids)
    return Completion(
        id=one.payment.id,
        expected=one.payment.status,
        tx_hash=one.transfer.tx_hash,
        block=block.number,
        block_hash=block.hash,
        log_index=one.transfer.log_index,
        ours=one.ours,
        was_reserved=one.payment.supply_reserved,
        reserved=reserved,
        result_json=f'{{"queueIds":[{ids}],"quantity":{one.payment.quantity}}}',
    )


def _mint_rows(one: Credit, terms: Terms, *, delivered: bool, ids: Ids) -> list[NewMint]:
    payment = one.payment
    # When anyone else submitted the authorization, only the payer is known to have wanted it.
    recipient = payment.recipient if one.ours else payment.payer
    return [
        NewMint(
            id=ids.draw(),
            payment_id=payment.id,
            unit=unit,
            payment_tx_hash=one.transfer.tx_hash,
            token=payment.token,
            recipient=recipient,
            mint_id=mint_id(
                chain_id=terms.chain_id,
                token=payment.token,
                asset=terms.asset,
                payer=payment.payer,
                nonce=payment.nonce,
                unit=unit,
            ),
            status=MintStatus.PENDING if delivered else MintStatus.OWED,
            error=None if delivered else NO_SUPPLY_SENTENCE,
            error_code=None if delivered else NO_SUPPLY,
        )
        for unit in range(payment.quantity)
    ]


async def refuse_used_before(connection: Connection, ids: Sequence[uuid.UUID]) -> None:
    """The authorization had been used at or below the acceptance height: that was not for us."""
    await crediting.fail_used_before(connection, ids, code=NONCE_USED, sentence=SENTENCES[NONCE_USED])
