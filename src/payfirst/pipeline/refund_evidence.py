"""What the chain shows already of refunds that are due: the refund itself, or its unit minted after all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from payfirst.chain import contracts
from payfirst.chain.blocks import Head
from payfirst.chain.evidence import AUTHORIZATION_USED, paid_transfers
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.ops.log import get_logger
from payfirst.pipeline import minted, used_ids
from payfirst.pipeline.terms import Terms
from payfirst.store import heads, refunds, tokens, treasuries
from payfirst.store.database import Pool, session, transaction
from payfirst.store.mints import ClaimedMint
from payfirst.store.refunds import DueRefund, Refunded, SignedRefund
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockNumber, hex_text

LOOK_UP_AGAIN_S = 2.0

USED_SENTENCE = "its authorization is used on chain: waiting until that block is final"
CANCELLED_SENTENCE = (
    "its authorization was used without paying it, or cancelled with the treasury's key: pay it by hand, then payfirst"
    " owed resolve"
)
ENDED_SENTENCE = "its debt ended otherwise: given up once a final block is past the authorization that was sent for it"
MINTED_SENTENCE = "the token holds this unit's mint id: it is not refunded, and completed once that block is final"

log = get_logger()


class RefundEvidence:
    """Looks outside the scan, in final blocks only: no transaction of the row would bring back what a reorg takes."""

    def __init__(self, pool: Pool, rpc: RpcClient, *, terms: Terms, on_changed: OnChanged) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._on_changed = on_changed

    async def look_up(self, refund: DueRefund | SignedRefund, by: Address) -> None:
        """The nonce is used: by a transaction whose row was lost, or by anyone who saw the authorization.

        Where it paid nothing, it never will: the refund ends, and a person may settle the debt.
        Only a final block counts: no transaction of this row would bring it back if a reorg took it. One of ours that
        carries it is seen by the scan, at the usual depth.
        """
        async with session(self._pool, "read how far the chain was read") as connection:
            final = (await heads.cursor(connection, self._terms.network)).final_height
        topics = [hex_text(bytes(12) + by), hex_text(refund.nonce)]
        why = USED_SENTENCE
        if final >= refund.since:
            hashes = await self._rpc.logs(
                address=self._terms.asset,
                topics=[hex_text(AUTHORIZATION_USED), *topics],
                first=refund.since,
                last=final,
            )
            for receipt in await self._rpc.receipts(hashes):
                if receipt is None:
                    raise RpcUnavailable("RPC: a log was found, its receipt was not")
                for paid in paid_transfers(receipt, asset=self._terms.asset):
                    found = Refunded(paid.payer, paid.nonce, paid.pay_to, paid.value, paid.tx_hash)
                    if (paid.payer, paid.nonce) == (by, refund.nonce) and receipt.block_number <= final:
                        if await self._complete(refund, found, receipt.block_number):
                            return
                        why = CANCELLED_SENTENCE
            cancelled = await self._rpc.logs(
                address=self._terms.asset,
                topics=[hex_text(contracts.AUTHORIZATION_CANCELED_TOPIC), *topics],
                first=refund.since,
                last=final,
            )
            if cancelled:
                why = CANCELLED_SENTENCE
        if why == CANCELLED_SENTENCE:
            async with session(self._pool, "end a refund that can pay nobody") as connection:
                ended = await refunds.end_impossible(connection, refund.id, why=why)
            self._on_changed(ended)
            if ended:
                log.error("refund_impossible", message=f"Refund {refund.id}: {why}", refund_id=refund.id)
            return
        async with session(self._pool, "let a refund wait") as connection:
            await refunds.postpone(connection, [refund.id], why=why, delay_s=LOOK_UP_AGAIN_S)

    async def paid_elsewhere(self, fresh: Sequence[DueRefund], head: Head) -> set[uuid.UUID]:
        """Those of `fresh` that an account paid which the database does not know: a treasury of before a restore.

        The nonce's use, and the whole amount to the beneficiary right after it, by anyone but the beneficiary.
        """
        by_nonce = {refund.nonce: refund for refund in fresh}
        hashes = await self._rpc.logs(
            address=self._terms.asset,
            topics=[hex_text(AUTHORIZATION_USED), None, [hex_text(nonce) for nonce in by_nonce]],
            first=BlockNumber(min(refund.since for refund in fresh)),
            last=head.number,
        )
        if not hashes:
            return set()
        async with session(self._pool, "read how far the chain was read") as connection:
            final = (await heads.cursor(connection, self._terms.network)).final_height
        paid: set[uuid.UUID] = set()
        for receipt in await self._rpc.receipts(hashes):
            if receipt is None:
                raise RpcUnavailable("RPC: a log was found, its receipt was not")
            for one in paid_transfers(receipt, asset=self._terms.asset):
                refund = by_nonce.get(one.nonce)
                if refund is None or (one.pay_to, one.value) != (refund.beneficiary, refund.amount):
                    continue
                if one.payer == refund.beneficiary:
                    continue  # to itself: nothing was given back
                paid.add(refund.id)
                async with session(self._pool, "note who paid a refund") as connection:
                    await treasuries.remember_payer(connection, self._terms.network, self._terms.asset, one.payer)
                    if receipt.block_number > final:
                        await refunds.postpone(connection, [refund.id], why=USED_SENTENCE, delay_s=LOOK_UP_AGAIN_S)
                if receipt.block_number <= final:
                    found = Refunded(one.payer, one.nonce, one.pay_to, one.value, one.tx_hash)
                    await self._complete(refund, found, receipt.block_number)
        return paid

    async def unusable(self, ended: Sequence[SignedRefund], known: Sequence[Address], head: Head) -> list[uuid.UUID]:
        """Those of `ended` whose authorizations were not used, and cannot be any more: a final block is past them."""
        async with session(self._pool, "read how far the chain was read") as connection:
            final = (await heads.cursor(connection, self._terms.network)).final_height
        blocks = await self._rpc.blocks(final, final)
        calls = [
            (self._terms.asset, contracts.encode_call("authorizationState(address,bytes32)", treasury, refund.nonce))
            for refund in ended
            for treasury in known
        ]
        answers = contracts.decode_aggregate3(
            await self._rpc.eth_call(to=self._terms.multicall3, data=contracts.encode_aggregate3(calls), at=head.hash)
        )
        found: list[uuid.UUID] = []
        for n, refund in enumerate(ended):
            said = answers[n * len(known) : (n + 1) * len(known)]
            # An answer that is none counts as used: then nothing is given up.
            users = [by for by, (ok, data) in zip(known, said, strict=True) if not ok or int.from_bytes(data) != 0]
            if users:
                await self.look_up(refund, users[0])
            elif blocks and refund.valid_before is not None and blocks[0].head.time >= refund.valid_before:
                found.append(refund.id)
            else:
                async with session(self._pool, "let a refund wait") as connection:
                    await refunds.postpone(connection, [refund.id], why=ENDED_SENTENCE, delay_s=LOOK_UP_AGAIN_S)
        return found

    async def _complete(self, refund: DueRefund | SignedRefund, found: Refunded, block: BlockNumber) -> bool:
        async with transaction(self._pool, "complete a refund that the chain shows") as connection:
            done, changed = await refunds.complete(
                connection, self._terms.network, self._terms.asset, [found], block=block
            )
        self._on_changed(changed)
        if done:
            log.warning(
                "refunded_before",
                message=f"Refund {refund.id} stands on chain already, by {hex_text(found.tx_hash)}: not sent again",
                refund_id=refund.id,
                tx_hash=hex_text(found.tx_hash),
            )
        return bool(done)

    async def close_minted(self, refund: DueRefund) -> None:
        """The unit was minted after all: it is completed by the token's own log, in a final block, and not refunded."""
        async with session(self._pool, "read how far the chain was read") as connection:
            final = (await heads.cursor(connection, self._terms.network)).final_height
            offered = await tokens.read(connection, self._terms.network)
        synced = next((t.synced_height for t in offered if t.address == refund.token), None)
        last = BlockNumber(min(final, -1 if synced is None else synced))
        unit = ClaimedMint(
            id=refund.queue_id,
            payment_id=refund.payment_id,
            unit=refund.unit,
            recipient=refund.recipient,
            mint_id=refund.mint_id,
            attempts=0,
            suspected_code=None,
            suspected_height=None,
            accepted_height=refund.accepted_height,
        )
        by = (await used_ids.find(self._rpc, refund.token, [unit], last=last)).get(refund.mint_id)
        if by is None:
            async with session(self._pool, "let a refund wait") as connection:
                await refunds.postpone(connection, [refund.id], why=MINTED_SENTENCE, delay_s=LOOK_UP_AGAIN_S)
            return
        async with transaction(self._pool, "complete a unit that was minted after all") as connection:
            changed = await minted.write(
                connection, self._terms.network, [(refund.mint_id, by.tx_hash)], block=by.block
            )
        self._on_changed({unit.payment_id for unit in changed})
        log.warning(
            "minted_instead",
            message=f"Unit {refund.unit} of payment {refund.payment_id} was minted after all by"
            f" {hex_text(by.tx_hash)}: it is not refunded",
            payment_id=refund.payment_id,
            queue_id=refund.queue_id,
            tx_hash=hex_text(by.tx_hash),
        )
