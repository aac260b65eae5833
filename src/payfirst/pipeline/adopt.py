"""Adopt: what the chain holds of our signers and the database does not know is taken in, read, and judged."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from payfirst.chain import calldata, depth, raw
from payfirst.chain.blocks import MinedTransaction, Receipt
from payfirst.chain.evidence import TOKENS_MINTED, TRANSFER, paid_transfers
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.chain.signers import call_data
from payfirst.ops.log import get_logger
from payfirst.pipeline import apply, fence, scan
from payfirst.pipeline.audit_kinds import Finding, Kind
from payfirst.pipeline.audit_plan import SignerView, judge_signer
from payfirst.pipeline.confirm_plan import plan_block
from payfirst.pipeline.terms import Terms
from payfirst.store import adoption, audit_log, auditing, heads, signers, tokens, transactions
from payfirst.store.adoption import Adopted, Unresolved
from payfirst.store.database import Pool, session, transaction
from payfirst.store.signers import Purpose
from payfirst.store.transactions import UnresolvedHash
from payfirst.store.wake import OnChanged
from payfirst.units import (
    ZERO_ADDRESS,
    AccountNonce,
    Address,
    BlockNumber,
    checksum_address,
    hex_text,
)

# A routine look goes through so many of a signer's newest nonces; `payfirst audit` goes through all.
NONCES_BACK = 2_000
# Whole blocks are read only where no log leads to a transaction: so many at once, and so many at a look.
BLOCKS_AT_ONCE = 50
BLOCKS_READ_MAX = 20_000
# So many below the last block read, for a nonce that nothing bounds: a worker that lives through the loss of commits
# may have read on past the signer's first transaction before anybody missed it.
BLOCKS_BACK_MAX = 2_000

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Look:
    """A signer as chain and database show it, and what to act on."""

    view: SignerView
    purpose: Purpose
    adoptable: Sequence[MinedTransaction]
    unread: Sequence[tuple[Unresolved, Receipt]]


class Adopter:
    """Looks after the nonces of every registered signer. Any number may run: all it writes is conditional."""

    def __init__(self, pool: Pool, rpc: RpcClient, *, terms: Terms, on_changed: OnChanged) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._on_changed = on_changed

    async def fence_lost(self, *, cut: dt.datetime | None) -> None:
        """Fence every signer whose chain is ahead; `cut`: up to when rows are older than what was lost."""
        async with session(self._pool, "read the signers") as connection:
            registered = await signers.read_all(connection, self._terms.network)
        for signer in registered:
            _, waiting = await self._rpc.account_nonces(signer.address)
            async with session(self._pool, "fence a signer") as connection:
                await fence.if_behind(connection, self._terms.network, signer.address, chain_nonce=waiting, cut=cut)

    async def register(self, address: Address, purpose: Purpose, *, cut: dt.datetime | None) -> None:
        """Make the row of a signer that this database sees for the first time, and adopt what its logs show.

        It may have been in use after the backup that this database was restored from.
        """
        async with session(self._pool, "read the signer") as connection:
            if await signers.read(connection, self._terms.network, address) is not None:
                return
        mined, _ = await self._rpc.account_nonces(address)
        async with session(self._pool, "register the signer") as connection:
            await signers.register(connection, self._terms.network, address, purpose=purpose, chain_nonce=mined)
            first = (await heads.cursor(connection, self._terms.network)).block.height
        if mined:
            for found in await self._in_logs(address, purpose, first=first):
                await self._adopt(found, purpose, actor="worker", cut=cut)

    async def round(
        self,
        *,
        first: BlockNumber | None,
        repair: bool,
        actor: str,
        cut: dt.datetime | None = None,
        thorough: bool = False,
    ) -> list[Finding]:
        """Look at each signer and, with `repair`, adopt what is missing; returns what differed at the look.

        Searched from block `first` (None: the last block read) to the head. Raises RetriedError.
        """
        async with session(self._pool, "read the signers") as connection:
            registered = await signers.read_all(connection, self._terms.network)
            fenced = await signers.fenced(connection, self._terms.network)
        findings: list[Finding] = []
        for signer in registered:
            is_fenced = signer.address in fenced
            look = await self._look(signer.address, signer.purpose, first=first, fenced=is_fenced, thorough=thorough)
            findings += judge_signer(look.view)
            if not repair:
                continue
            for found in look.adoptable:
                trusted = fenced[signer.address] if is_fenced else cut
                await self._adopt(found, look.purpose, actor=actor, cut=trusted)
            if look.adoptable:  # what the scan has passed is read at once: what its rows carried waits for that
                adopted = await self._look(
                    signer.address, signer.purpose, first=first, fenced=is_fenced, thorough=thorough
                )
                look = replace(look, unread=adopted.unread)
            for unresolved, receipt in look.unread:
                await self._read_late(unresolved, receipt, actor=actor)
            complete = {f.nonce for f in look.adoptable}.issuperset(look.view.missing)
            if is_fenced and complete and await self._unfence(look.view):
                ended = (Kind.SIGNER_FENCED, checksum_address(signer.address))
                findings = [f for f in findings if (f.kind, f.subject) != ended]
        return findings

    # ---- looking -----------------------------------------------------------------------------------

    async def _look(
        self, address: Address, purpose: Purpose, *, first: BlockNumber | None, fenced: bool, thorough: bool
    ) -> _Look:
        mined, waiting = await self._rpc.account_nonces(address)
        async with session(self._pool, "read a signer's nonces") as connection:
            state = await signers.read(connection, self._terms.network, address)
            cursor = (await heads.cursor(connection, self._terms.network)).block
            back = 0 if thorough else max(0, mined - NONCES_BACK)
            missing = await adoption.missing_nonces(
                connection, self._terms.network, address, chain_nonce=mined, from_nonce=back
            )
            unresolved = await adoption.unresolved_below(connection, self._terms.network, address, mined)
        unread: list[tuple[Unresolved, Receipt]] = []
        displaced: dict[AccountNonce, Unresolved] = {}
        for row in unresolved:
            receipts = [r for r in await self._rpc.receipts(row.hashes) if r is not None]
            if not receipts:
                # Not for lack of a receipt: only when another transaction is found under its nonce.
                displaced[row.nonce] = row
            elif receipts[0].block_number <= cursor.height:
                unread.append((row, receipts[0]))
        wanted = {*missing, *displaced}
        start = cursor.height if first is None else min(first, cursor.height)
        found = await self._find(
            address, purpose, wanted, first=BlockNumber(start), unbounded=set(missing), thorough=thorough
        )
        adoptable = [t for t in found if t.nonce not in displaced or await self._stands(t, displaced[t.nonce])]
        view = SignerView(
            address=address,
            mined=mined,
            waiting=waiting,
            next_nonce=mined if state is None else state.next_nonce,
            missing=missing,
            found=[(f.nonce, f.hash) for f in found],
            unread=[(row.nonce, receipt.tx_hash) for row, receipt in unread],
            fenced=fenced,
        )
        return _Look(view, purpose, adoptable, unread)

    async def _stands(self, found: MinedTransaction, ours: Unresolved) -> bool:
        """Whether a transaction under a nonce of ours may resolve our row: the same call, or one that no reorg takes.

        Adopted earlier, what our row carries would be sent anew while our own bytes could still count.
        """
        if ours.signed is not None and (found.to, found.data) == (ours.to, call_data(ours.signed)):
            return True
        head = await self._rpc.head()
        return found.block <= await depth.final(self._rpc, self._terms.final_depth, head=head)

    async def _find(
        self,
        address: Address,
        purpose: Purpose,
        wanted: set[AccountNonce],
        *,
        first: BlockNumber,
        unbounded: set[AccountNonce],
        thorough: bool,
    ) -> list[MinedTransaction]:
        """The transactions of these nonces: by the logs of what they did, else by reading whole blocks.

        From block `first`, and from below it those of `unbounded` of which no earlier nonce is known. No state of the
        past is asked for, so no archive is needed.
        """
        if not wanted:
            return []
        found = {t.nonce: t for t in await self._in_logs(address, purpose, first=first) if t.nonce in wanted}
        head = (await self._rpc.head()).number
        budget = head if thorough else BLOCKS_READ_MAX
        for start, end in _runs(wanted - found.keys()):
            known = await self._block_below(address, start, found)
            low = first if known is None else known
            back = head if thorough else BLOCKS_BACK_MAX
            bottom = max(0, low - back) if known is None and start in unbounded else low
            high = min((t.block for nonce, t in found.items() if nonce > end), default=head)
            missing = set(range(start, end + 1))
            for block, last in _windows(low, high, bottom=bottom):
                if not missing or budget <= 0:
                    break
                budget -= last - block + 1
                for seen in await self._rpc.transactions_of([address], first=block, last=last):
                    if seen.nonce in missing:
                        missing.discard(seen.nonce)
                        found[seen.nonce] = seen
        return [found[nonce] for nonce in sorted(found)]

    async def _block_below(
        self, address: Address, nonce: AccountNonce, found: dict[AccountNonce, MinedTransaction]
    ) -> BlockNumber | None:
        """A block at or below that of a nonce: its predecessors are mined before it. None where none is known."""
        blocks = [t.block for n, t in found.items() if n < nonce]
        async with session(self._pool, "read where a signer's nonces were mined") as connection:
            known = await adoption.mined_below(connection, self._terms.network, address, nonce)
        if known is not None:
            blocks.append(known)
        return max(blocks, default=None)

    async def _in_logs(self, address: Address, purpose: Purpose, *, first: BlockNumber) -> list[MinedTransaction]:
        """The signer's unknown transactions that moved money to us, or minted a token on offer.

        Refunds are few: theirs are found in their blocks.
        """
        if purpose == "refund":
            return []
        head = (await self._rpc.head()).number
        async with session(self._pool, "read what to look for") as connection:
            pay_tos = await auditing.unsettled_pay_tos(connection, self._terms.network)
            offered = [t.address for t in await tokens.read(connection, self._terms.network)]
        if purpose == "settle":
            padded = [hex_text(bytes(12) + p) for p in {self._terms.pay_to, *pay_tos}]
            addresses, topics = [self._terms.asset], [hex_text(TRANSFER), None, padded]
        else:
            addresses, topics = offered, [hex_text(TOKENS_MINTED)]
        if not addresses:
            return []
        logs = await self._rpc.placed_logs(addresses=addresses, topics=topics, first=first, last=head)
        hashes = list(dict.fromkeys(log.tx_hash for log in logs))
        async with session(self._pool, "tell known transactions from others") as connection:
            known = await transactions.ours(connection, hashes)
        seen = await self._rpc.transactions([h for h in hashes if h not in known])
        return [t for t in seen if t is not None and t.sender == address]

    # ---- acting ------------------------------------------------------------------------------------

    async def _adopt(self, found: MinedTransaction, purpose: Purpose, *, actor: str, cut: dt.datetime | None) -> None:
        """One commit: its row and hash, what it carried, and the next nonce above it."""
        terms = self._terms
        taken = Adopted(
            signer=found.sender,
            nonce=found.nonce,
            purpose=purpose,
            to=found.to or ZERO_ADDRESS,
            gas_limit=found.gas_limit,
            hash=found.hash,
            signed=found.signed,
            max_fee=found.max_fee,
            max_priority_fee=found.max_priority_fee,
            # Bytes that the outbox could not bid higher for as they are: a reorg may let a no-op have their nonce.
            is_noop=found.to == found.sender or found.signed[:1] != raw.DYNAMIC_FEE,
            payments=tuple(
                calldata.authorizations_in(found.to, found.data, asset=terms.asset, multicall3=terms.multicall3)
            ),
            mints=tuple(calldata.mint_ids_in(found.data)),
        )
        next_nonce = AccountNonce(found.nonce + 1)
        async with transaction(self._pool, "adopt a transaction") as connection:
            adopted = await adoption.adopt(connection, terms.network, terms.asset, taken, cut=cut)
            await signers.advance(connection, terms.network, found.sender, next_nonce=next_nonce)
            if adopted:
                await audit_log.record(
                    connection,
                    actor=actor,
                    action="transaction_adopted",
                    subject=hex_text(found.hash),
                    details={"signer": hex_text(found.sender), "nonce": found.nonce, "block": found.block},
                )
        if adopted:
            log.warning(
                "transaction_adopted",
                message=f"Adopted nonce {found.nonce} of {checksum_address(found.sender)}: {hex_text(found.hash)}",
                nonce=found.nonce,
                tx_hash=hex_text(found.hash),
                height=found.block,
            )

    async def _read_late(self, row: Unresolved, receipt: Receipt, *, actor: str) -> None:
        """Apply a transaction of a block that the scan had passed before the row was there."""
        blocks = await self._rpc.blocks(receipt.block_number, receipt.block_number)
        if not blocks or blocks[0].head.hash != receipt.block_hash:
            raise RpcUnavailable("RPC: the node changed chains between two answers")
        head = blocks[0].head
        known = {h: UnresolvedHash(h, row.id, row.purpose, row.item_count, row.to) for h in row.hashes}
        async with session(self._pool, "read what a transaction concerns") as connection:
            evidence = await scan.evidence(
                connection,
                self._rpc,
                scan.FoundBlock(head, (receipt,)),
                terms=self._terms,
                pay_tos={t.pay_to for t in paid_transfers(receipt, asset=self._terms.asset)},
                unresolved=known,
                state="latest",
            )
        plan = plan_block(evidence)
        async with transaction(self._pool, "apply a transaction that was missed") as connection:
            cursor = (await heads.lock_cursor(connection, self._terms.network)).block
            if cursor.height < head.number:
                return  # the scan comes by there
            if head.hash != (await heads.hash_at(connection, self._terms.network, head.number) or head.hash):
                raise RpcUnavailable("RPC: the node is on another chain than the one that was read")
            applied = await apply.write(connection, plan, head, known, terms=self._terms)
            await audit_log.record(
                connection,
                actor=actor,
                action="transaction_read",
                subject=hex_text(receipt.tx_hash),
                details={"block": head.number, "completed": [str(c.payment_id) for c in applied.created]},
            )
        self._on_changed({*plan.payment_ids, *applied.payment_ids})

    async def _unfence(self, view: SignerView) -> bool:
        async with session(self._pool, "end a fence") as connection:
            ended = await signers.unfence(
                connection, self._terms.network, view.address, mined=view.mined, waiting=view.waiting
            )
        if ended:
            log.warning(
                "signer_unfenced",
                message=f"{checksum_address(view.address)} signs again: the database knows all its transactions",
                signer=hex_text(view.address),
            )
        return ended


def _windows(low: int, high: int, *, bottom: int) -> Iterator[tuple[BlockNumber, BlockNumber]]:
    """First and last block of each look: from `low` up to `high`, and then from below `low` down to `bottom`."""
    for block in range(low, high + 1, BLOCKS_AT_ONCE):
        yield BlockNumber(block), BlockNumber(min(block + BLOCKS_AT_ONCE - 1, high))
    for end in range(low - 1, bottom - 1, -BLOCKS_AT_ONCE):
        yield BlockNumber(max(bottom, end - BLOCKS_AT_ONCE + 1)), BlockNumber(end)


def _runs(nonces: Collection[AccountNonce]) -> Iterable[tuple[AccountNonce, AccountNonce]]:
    """Neighbouring nonces, from first to last."""
    ordered = sorted(nonces)
    starts = [n for n in ordered if n - 1 not in nonces]
    ends = [n for n in ordered if n + 1 not in nonces]
    return zip(starts, ends, strict=True)
