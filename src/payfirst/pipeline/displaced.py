"""Account nonces that a transaction which payfirst did not send has used: whoever has the key can do that.

Proved by three things together: a final block at which the chain's nonce is past ours, a scan that has read every
block up to it without meeting any of our hashes, and no endpoint with a receipt for one (two have to say so). Then,
and only then, what the displaced transaction carried had no effect through it and goes back to its queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from payfirst.chain.rpc import RpcClient
from payfirst.ops.log import get_logger
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.terms import Terms
from payfirst.store import attempts, crediting, heads, mints, refunds, signers, transactions
from payfirst.store.attempts import UsedUp
from payfirst.store.database import Pool, session, transaction
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockHash, BlockNumber, hex_text

log = get_logger()


class DisplacedWatch:
    """Any number may run: the state that a transaction is in is named by every statement."""

    def __init__(self, pool: Pool, rpc: RpcClient, *, terms: Terms, head: HeadWatch, on_changed: OnChanged) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._head = head
        self._on_changed = on_changed
        # Where the chain was first seen past the nonce of an unresolved transaction. A restart begins anew.
        self._seen: dict[int, tuple[BlockNumber, BlockHash]] = {}

    async def step(self) -> None:
        """Look once. Raises RetriedError, with nothing changed."""
        async with session(self._pool, "look for nonces used by others") as connection:
            in_flight = await attempts.signers_in_flight(connection, self._terms.network)
            # Of a fenced signer the database has lost some of its own hashes: that is the audit's to judge.
            fenced = await signers.fenced(connection, self._terms.network)
        suspects = [one for signer in in_flight if signer not in fenced for one in await self._used_up(signer)]
        self._seen = {one.id: self._seen[one.id] for one in suspects}
        final = await self._final(suspects)
        if final:
            await self._displace(final)

    async def _used_up(self, signer: Address) -> list[UsedUp]:
        head = self._head.head
        chain_nonce = await self._rpc.account_nonce(signer, hex(head.number))
        async with session(self._pool, "look for nonces used by others") as connection:
            found = await attempts.used_up(connection, self._terms.network, signer, chain_nonce=chain_nonce)
        for one in found:
            self._seen.setdefault(one.id, (head.number, head.hash))
        return found

    async def _final(self, suspects: Sequence[UsedUp]) -> list[UsedUp]:
        """Those whose sighting lies in a final block that the scan has read, and that no endpoint has a receipt of."""
        if not suspects:
            return []
        sightings = {self._seen[one.id] for one in suspects}
        async with session(self._pool, "read the chain cursor") as connection:
            final_height = (await heads.cursor(connection, self._terms.network)).final_height
            read_as = {height: await heads.hash_at(connection, self._terms.network, height) for height, _ in sightings}
        final: list[UsedUp] = []
        for one in suspects:
            height, seen_hash = self._seen[one.id]
            if read_as[height] not in (None, seen_hash):
                del self._seen[one.id]  # a reorg took that block: looked at again
            elif height <= final_height and await self._is_gone(one):
                final.append(one)
        return final

    async def _is_gone(self, one: UsedUp) -> bool:
        """Whether its nonce is used and no endpoint has it; two have to agree, because its items are sent anew."""

        async def ask(rpc: RpcClient) -> tuple[bool, bool]:
            is_past = await rpc.account_nonce(one.signer) > one.nonce
            return is_past, any(await rpc.receipts(one.hashes))

        if any(await self._rpc.receipts(one.hashes)):
            return False
        about = f"whether another transaction used account nonce {one.nonce} of {hex_text(one.signer)}"
        is_past, is_mined = await self._rpc.agreed(ask, subject="nonce", about=about)
        return is_past and not is_mined

    async def _displace(self, final: Sequence[UsedUp]) -> None:
        hashes = [h for one in final for h in one.hashes]
        async with transaction(self._pool, "give up displaced transactions") as connection:
            undone = await transactions.displace(connection, [one.id for one in final])
            await crediting.return_reverted(connection, undone.payments, mined=hashes)
            await mints.return_to_queue(connection, undone.units, mined=hashes)
            refunded = await refunds.return_unpaid(connection, hashes)
        self._on_changed({*undone.payments, *refunded})
        for one in final:
            if one.id in undone.transactions:
                log.error(
                    "nonce_used_by_other",
                    message=f"Nonce {one.nonce} was used by a transaction that payfirst did not send: somebody else"
                    " signs with this key. What it carried goes back to the queue",
                    nonce=one.nonce,
                    tx_hash=hex_text(one.hashes[0]),
                )
