"""Find the use of one authorization in the logs, whoever submitted it, and credit it under that hash.

For the payment whose block the scan had passed before its row was there, and for the one that the asset calls
used at pre-flight.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payfirst.chain.blocks import Head, Receipt
from payfirst.chain.evidence import AUTHORIZATION_USED, PaidTransfer
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.pipeline import credit, scan
from payfirst.pipeline.confirm_plan import PaymentKey, plan_block
from payfirst.pipeline.terms import Terms
from payfirst.store import audit_log, heads, waiting
from payfirst.store.crediting import CreditCandidate
from payfirst.store.database import Pool, transaction
from payfirst.units import Address, AuthorizationNonce, BlockNumber, hex_text


@dataclass(frozen=True, slots=True)
class Use:
    """An authorization to look for, above the height at which its payment was accepted."""

    payment_id: uuid.UUID
    payer: Address
    nonce: AuthorizationNonce
    accepted_height: BlockNumber


class Recrediter:
    """Looks for uses of authorizations outside the scan."""

    def __init__(self, pool: Pool, rpc: RpcClient, *, terms: Terms) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._caution = terms.caution(two_endpoints=rpc.can_agree)

    async def find(self, use: Use) -> bool:
        """True when a use above acceptance pays for it: credited now, or left to the scan that will reach it.

        False means: used at or below the acceptance height, cancelled, or spent on another transfer than the one that
        was promised here (the payer may sign a nonce twice). Two endpoints have to agree on that. Raises RetriedError.
        """
        head = await self._rpc.head()
        if head.number <= use.accepted_height:
            return True  # the node is behind the acceptance: it cannot know yet

        async def look(rpc: RpcClient) -> list[Receipt]:
            return await self._uses(rpc, use, last=head.number)

        if await self._credit_all(await look(self._rpc), use):
            return True
        if not self._rpc.can_agree:
            return False
        about = f"the uses of the authorization of payment {use.payment_id}"
        agreed = await self._rpc.agreed(look, subject="used", about=about, same=_as_evidence)
        return await self._credit_all(agreed, use)

    async def _uses(self, rpc: RpcClient, use: Use, *, last: BlockNumber) -> list[Receipt]:
        """The receipts of every transaction above acceptance that used the authorization."""
        hashes = await rpc.logs(
            address=self._terms.asset,
            topics=[hex_text(AUTHORIZATION_USED), hex_text(bytes(12) + use.payer), hex_text(use.nonce)],
            first=BlockNumber(use.accepted_height + 1),
            last=last,
        )
        receipts = await rpc.receipts(hashes)
        found = [receipt for receipt in receipts if receipt is not None]
        if len(found) < len(receipts):
            raise RpcUnavailable("RPC: a log was found, its receipt was not")
        return found

    async def _credit_all(self, receipts: Sequence[Receipt], use: Use) -> bool:
        found = False
        for receipt in receipts:
            found = await self.credit(receipt, of=use) or found
        return found

    async def credit(self, receipt: Receipt, *, of: Use | None = None, actor: str | None = None) -> bool:
        """Complete the payments that a transaction paid, in a block that the scan has passed; `actor` is logged.

        Those that are believed later wait, as in the scan.

        True when it pays for `of`, or when the scan will judge that.
        """
        blocks = await self._rpc.blocks(receipt.block_number, receipt.block_number)
        if not blocks or blocks[0].head.hash != receipt.block_hash:
            raise RpcUnavailable("RPC: the node changed chains between two answers")
        head: Head = blocks[0].head
        found = scan.FoundBlock(head, (receipt,))
        async with transaction(self._pool, "credit a use found in the logs") as connection:
            cursor = (await heads.lock_cursor(connection, self._terms.network)).block
            if cursor.height < head.number:
                return True  # the scan comes by there
            remembered = await heads.hash_at(connection, self._terms.network, head.number)
            if remembered is not None and remembered != head.hash:
                raise RpcUnavailable("RPC: the node is on another chain than the one that was read")
            evidence = await scan.payment_evidence(connection, found, terms=self._terms)
            plan = plan_block(evidence, self._caution)
            credits_ = plan.credits
            await waiting.note(connection, self._terms.network, plan.waiting, block=head.number, block_hash=head.hash)
            created = await credit.write(connection, credits_, block=head, terms=self._terms)
            for one in created if actor is not None else ():
                details = {"tx_hash": hex_text(receipt.tx_hash), "block": head.number, "quantity": one.quantity}
                subject = str(one.payment_id)
                await audit_log.record(
                    connection, actor=actor or "", action="payment_credited", subject=subject, details=details
                )
        credit.count(credits_)
        return of is not None and any(_pays(transfer, evidence.candidates, of) for transfer in evidence.paid)


def _as_evidence(receipts: Sequence[Receipt]) -> object:
    """What has to be the same: nodes differ in what they say beside the logs."""
    return [(receipt.tx_hash, receipt.block_hash, receipt.logs) for receipt in receipts]


def _pays(transfer: PaidTransfer, candidates: Mapping[PaymentKey, CreditCandidate], use: Use) -> bool:
    payment = candidates.get((transfer.payer, transfer.nonce))
    return (
        payment is not None
        and payment.id == use.payment_id
        and (transfer.value, transfer.pay_to) == (payment.amount, payment.pay_to)
    )
