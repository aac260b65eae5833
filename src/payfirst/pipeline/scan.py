"""Read the chain block by block from a stored cursor, and find what each block proves. Only reads."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from payfirst.chain import contracts
from payfirst.chain.blocks import Block, Head, Receipt
from payfirst.chain.evidence import TRANSFER, PaidTransfer, minted_units, paid_transfers
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.pipeline.confirm_plan import BlockEvidence, Mined, PaymentKey
from payfirst.pipeline.terms import Terms
from payfirst.store import adoption, crediting, transaction_items, transactions
from payfirst.store.crediting import CreditCandidate
from payfirst.store.database import Connection
from payfirst.store.tokens import TokenFacts
from payfirst.store.transaction_items import MintItem, PaymentItem, RefundItem
from payfirst.store.transactions import UnresolvedHash
from payfirst.units import Address, BlockHash, MintId, TxHash, hex_text

NAME_CHARS_MAX = 100
# Nodes that are no archives keep the state of the newest 128 blocks: older ones are judged by the state at the head.
STATES_KEPT = 100


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A block's header and the receipts in it that may matter."""

    head: Head
    receipts: tuple[Receipt, ...]


async def find(
    rpc: RpcClient, blocks: Sequence[Block], *, asset: Address, pay_tos: Collection[Address], ours: Collection[TxHash]
) -> list[FoundBlock]:
    """The receipts of our transactions, and of every transaction that moved `asset` to one of `pay_tos`.

    Raises RpcUnavailable when the node does not have a receipt, or has it in another block: that node lags, and
    a missing receipt proves nothing.
    """
    padded = [hex_text(bytes(12) + pay_to) for pay_to in pay_tos]
    found: list[FoundBlock] = []
    transfers = await rpc.logs_of_blocks(
        [block.head.hash for block in blocks], addresses=[asset], topics=[hex_text(TRANSFER), None, padded]
    )
    for block, moved in zip(blocks, transfers, strict=True):
        hashes = list(dict.fromkeys([*(h for h in block.transactions if h in ours), *moved]))
        receipts: list[Receipt] = []
        for tx_hash, receipt in zip(hashes, await rpc.receipts(hashes), strict=True):
            if receipt is None or receipt.block_hash != block.head.hash:
                raise RpcUnavailable(f"RPC: no receipt of {hex_text(tx_hash)} in block {block.head.number} yet")
            receipts.append(receipt)
        found.append(FoundBlock(block.head, tuple(receipts)))
    return found


def state_at(block: Head, *, head: Head) -> BlockHash | str:
    """Where to read state for a block: at the block itself, or at the head where nodes have forgotten it.

    What a token has minted only grows, so a later count is a careful one: nothing is sold that is not there.
    """
    return block.hash if head.number - block.number <= STATES_KEPT else "latest"


async def evidence(
    connection: Connection,
    rpc: RpcClient,
    found: FoundBlock,
    *,
    terms: Terms,
    pay_tos: Collection[Address],
    unresolved: Mapping[TxHash, UnresolvedHash],
    state: BlockHash | str,
) -> BlockEvidence:
    """Put a block's logs beside the rows they belong to; `state` is where a token may be asked (`state_at`)."""
    paid = tuple(
        transfer
        for receipt in found.receipts
        for transfer in paid_transfers(receipt, asset=terms.asset)
        if transfer.pay_to in pay_tos
    )
    mined = await _mined(connection, found, unresolved)
    # An adopted transaction may have minted units that were nobody's row yet when it was adopted.
    tokens = {item.token for m in mined for item in m.mints} | {m.known.to for m in mined if m.known.purpose == "mint"}
    minted = tuple(u for m in mined for u in minted_units(m.receipt, tokens=tokens))
    candidates, ours = await _candidates(connection, terms, paid), await _ours(connection, paid)
    refunding = [m.receipt for m in mined if m.known.purpose == "refund"]
    return BlockEvidence(
        head=found.head,
        paid=paid,
        candidates=candidates,
        ours=ours,
        not_carried=await _not_carried(connection, paid, candidates, ours),
        mined=mined,
        minted=minted,
        minted_before=await _minted_before(rpc, terms, mined, {u.mint_id for u in minted}, at=state),
        given_back=tuple(t for receipt in refunding for t in paid_transfers(receipt, asset=terms.asset)),
    )


async def payment_evidence(connection: Connection, found: FoundBlock, *, terms: Terms) -> BlockEvidence:
    """The payments alone, whomever they paid, for a block that the scan has passed already. No RPC call."""
    paid = tuple(t for receipt in found.receipts for t in paid_transfers(receipt, asset=terms.asset))
    candidates, ours = await _candidates(connection, terms, paid), await _ours(connection, paid)
    return BlockEvidence(
        head=found.head,
        paid=paid,
        candidates=candidates,
        ours=ours,
        not_carried=await _not_carried(connection, paid, candidates, ours),
        mined=(),
        minted=(),
    )


async def _ours(connection: Connection, paid: Sequence[PaidTransfer]) -> set[TxHash]:
    return await transactions.ours(connection, list({t.tx_hash for t in paid})) if paid else set()


async def _not_carried(
    connection: Connection,
    paid: Sequence[PaidTransfer],
    candidates: Mapping[PaymentKey, CreditCandidate],
    ours: Collection[TxHash],
) -> set[uuid.UUID]:
    """The payments that an adopted transaction paid, and that were not yet there when it was sent."""
    adopted = await adoption.adopted(connection, list(ours)) if ours else set()
    if not adopted:
        return set()
    carried = await adoption.carried(connection, list(adopted))
    found = ((t.tx_hash, candidates.get((t.payer, t.nonce))) for t in paid if t.tx_hash in adopted)
    return {row.id for tx_hash, row in found if row is not None and (tx_hash, row.id) not in carried}


async def _candidates(
    connection: Connection, terms: Terms, paid: Sequence[PaidTransfer]
) -> dict[PaymentKey, CreditCandidate]:
    if not paid:
        return {}
    rows = await crediting.credit_candidates(
        connection, network=terms.network, asset=terms.asset, keys=[(t.payer, t.nonce) for t in paid]
    )
    return {(row.payer, row.nonce): row for row in rows}


async def _mined(
    connection: Connection, found: FoundBlock, unresolved: Mapping[TxHash, UnresolvedHash]
) -> tuple[Mined, ...]:
    ours = [(unresolved[r.tx_hash], r) for r in found.receipts if r.tx_hash in unresolved]
    if not ours:
        return ()
    settles = [known.transaction_id for known, _ in ours if known.purpose == "settle"]
    mints = [known.transaction_id for known, _ in ours if known.purpose == "mint"]
    payment_items = await transaction_items.payment_items(connection, settles) if settles else []
    mint_items = await transaction_items.mint_items(connection, mints) if mints else []
    refunds = [known.transaction_id for known, _ in ours if known.purpose == "refund"]
    refund_items = await transaction_items.refund_items(connection, refunds) if refunds else []
    payments_of: dict[int, list[PaymentItem]] = {}
    mints_of: dict[int, list[MintItem]] = {}
    refunds_of: dict[int, list[RefundItem]] = {}
    for payment in payment_items:
        payments_of.setdefault(payment.transaction_id, []).append(payment)
    for unit in mint_items:
        mints_of.setdefault(unit.transaction_id, []).append(unit)
    for refund in refund_items:
        refunds_of.setdefault(refund.transaction_id, []).append(refund)
    return tuple(
        Mined(
            known=known,
            receipt=receipt,
            payments=tuple(payments_of.get(known.transaction_id, ())),
            mints=tuple(mints_of.get(known.transaction_id, ())),
            refunds=tuple(refunds_of.get(known.transaction_id, ())),
        )
        for known, receipt in ours
    )


async def _minted_before(
    rpc: RpcClient, terms: Terms, mined: Sequence[Mined], in_logs: Collection[MintId], *, at: BlockHash | str
) -> set[MintId]:
    silent = [item for m in mined if m.receipt.succeeded for item in m.mints if item.mint_id not in in_logs]
    return await has_minted(rpc, terms, silent, at=at) if silent else set()


async def has_minted(rpc: RpcClient, terms: Terms, items: Sequence[MintItem], *, at: BlockHash | str) -> set[MintId]:
    """The mint ids among `items` that their tokens hold at a block."""
    calls = [(item.token, contracts.encode_has_minted(item.mint_id)) for item in items]
    answers = contracts.decode_aggregate3(
        await rpc.eth_call(to=terms.multicall3, data=contracts.encode_aggregate3(calls), at=at)
    )
    return {
        item.mint_id
        for item, (ok, data) in zip(items, answers, strict=True)
        if ok and len(data) == 32 and data[-1] == 1
    }


async def token_facts(
    rpc: RpcClient, terms: Terms, tokens: Sequence[Address], *, at: BlockHash | str
) -> list[TokenFacts]:
    """What the contracts of `tokens` say at a block; a contract that does not answer as expected is left out."""
    views = ("name()", "symbol()", "mintAmount()", "maxMintCount()", "mintCount()")
    calls = [(token, contracts.encode_call(view)) for token in tokens for view in views]
    answers = contracts.decode_aggregate3(
        await rpc.eth_call(to=terms.multicall3, data=contracts.encode_aggregate3(calls), at=at)
    )
    facts: list[TokenFacts] = []
    for i, token in enumerate(tokens):
        mine = answers[i * len(views) : (i + 1) * len(views)]
        if not all(ok and len(data) >= 32 for ok, data in mine):
            continue
        facts.append(
            TokenFacts(
                address=token,
                name=_text(mine[0][1]),
                symbol=_text(mine[1][1]),
                mint_amount=int.from_bytes(mine[2][1], "big"),
                max_mint_count=int.from_bytes(mine[3][1], "big"),
                minted=int.from_bytes(mine[4][1], "big"),
            )
        )
    return facts


def _text(data: bytes) -> str:
    """A contract's name or symbol, as far as it can be shown: the contract chooses the letters."""
    try:
        (said,) = contracts.decode_result(["string"], data)
    except contracts.UndecodableAnswer:
        return "?"
    return "".join(letter for letter in str(said)[:NAME_CHARS_MAX] if letter.isprintable())
