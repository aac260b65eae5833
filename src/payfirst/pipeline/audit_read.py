"""Put some blocks beside the rows that belong to them, and keep what does not agree at a first look. Only reads.

The node's logs are enough: what a completed payment names is compared by block hash and log index, and only a transfer
that no payment names has its receipt read. No state of the past is asked for, so no archive is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from payfirst.chain import contracts
from payfirst.chain.blocks import PlacedLog, Receipt
from payfirst.chain.evidence import TOKENS_MINTED, TRANSFER, paid_transfers
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.pipeline.audit_plan import Delivered, Period, PeriodView, SeenMint, SeenTransfer
from payfirst.pipeline.confirm_plan import PaymentKey
from payfirst.pipeline.terms import Terms
from payfirst.store import adoption, auditing, crediting, owed, tokens, transactions, waiting
from payfirst.store.auditing import UnitRow
from payfirst.store.database import Pool, session
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, BlockHash, BlockNumber, MintId, TxHash, hex_text
from payfirst.x402.mint_id import mint_id

CALLS_AT_ONCE = 200
UNITS_MAX = 250
# A mint comes soon after its payment: the transfers of so many blocks before it are looked through.
BLOCKS_BEFORE_A_MINT = 2_000


async def read(pool: Pool, rpc: RpcClient, terms: Terms, period: Period, *, thorough: bool) -> PeriodView:
    """What does not agree in a period; `thorough` counts the units of each of its payments too. Raises RetriedError."""
    async with session(pool, "read what to compare") as connection:
        pay_tos = {terms.pay_to, *await auditing.unsettled_pay_tos(connection, terms.network)}
        offered = await tokens.read(connection, terms.network)
    first, last = period.first, period.last
    moved = await _transfers(rpc, terms, pay_tos, first=first, last=last)
    transfers = await _unnamed(pool, rpc, terms, moved)
    minted = await _minted(rpc, offered, first=first, last=last)
    async with session(pool, "leave out what waits to be believed") as connection:
        waits = await waiting.among(connection, terms.network, list({t.transfer.tx_hash for t in transfers}))
    transfers = [t for t in transfers if t.transfer.tx_hash not in waits]
    keys = [(t.transfer.payer, t.transfer.nonce) for t in transfers]
    hashes = list({t.transfer.tx_hash for t in transfers})
    ids = [m.mint_id for m in minted]
    async with session(pool, "compare a period") as connection:
        candidates = await crediting.credit_candidates(connection, network=terms.network, asset=terms.asset, keys=keys)
        claimed = await auditing.claimed(connection, terms.network, terms.asset, keys)
        named = await owed.unclaimed(connection, terms.network, terms.asset, [nonce for _, nonce in keys])
        carried = await adoption.carried(connection, hashes)
        units = await auditing.units_of_ids(connection, ids)
        unknown = [i for i in ids if i not in units]
        archived = await auditing.archived_ids(connection, unknown) if unknown else set()
        ours = await transactions.ours(connection, list({m.tx_hash for m in minted if m.mint_id not in units}))
        evidenced = await auditing.evidenced(
            connection, terms.network, terms.asset, list(pay_tos), first=first, last=last
        )
        marked = await auditing.units_minted_in(connection, terms.network, first=first, last=last)
        missing = await auditing.units_missing(connection, terms.network, first=first, last=last) if thorough else []
    places = {_place(log) for log in moved}
    is_open = {i for i, unit in units.items() if unit.status != "completed"}
    nobodys = [m for m in minted if m.mint_id not in units and m.mint_id not in archived]
    derived: set[MintId] = set()
    if any(m.tx_hash in ours for m in nobodys):
        derived = await _derived_before(pool, rpc, terms, pay_tos, offered, first=first, last=last)
    return PeriodView(
        transfers=transfers,
        candidates={(row.payer, row.nonce): row for row in candidates},
        claimed=claimed,
        carried=carried,
        named=named,
        delivered=await _delivered(rpc, terms, offered, [t for t in transfers if _key(t) not in claimed]),
        mints=[*(m for m in minted if m.mint_id in is_open), *nobodys],
        units=units,
        derived=derived,
        ours=ours,
        gone_payments=[p for p in evidenced if (p.settled_block_hash, p.settled_log_index) not in places],
        gone_units=await _gone(rpc, terms, marked, in_logs=set(ids)),
        units_missing=missing,
    )


async def receipts_of(rpc: RpcClient, hashes: Iterable[TxHash]) -> list[Receipt]:
    """The receipt of each, all there. Raises RpcUnavailable."""
    wanted = list(dict.fromkeys(hashes))
    found = await rpc.receipts(wanted)
    there = [receipt for receipt in found if receipt is not None]
    if len(there) != len(wanted):
        raise RpcUnavailable("RPC: a log was found, its receipt was not")
    return there


async def _transfers(
    rpc: RpcClient, terms: Terms, pay_tos: Collection[Address], *, first: BlockNumber, last: BlockNumber
) -> list[PlacedLog]:
    padded = [hex_text(bytes(12) + pay_to) for pay_to in pay_tos]
    return await rpc.placed_logs(
        addresses=[terms.asset], topics=[hex_text(TRANSFER), None, padded], first=first, last=last
    )


async def _unnamed(pool: Pool, rpc: RpcClient, terms: Terms, moved: Sequence[PlacedLog]) -> list[SeenTransfer]:
    """The transfers by authorization that no completed payment names with its payer and amount."""
    async with session(pool, "look for the payments of transfers") as connection:
        known = await auditing.credited(connection, terms.network, [_place(log) for log in moved])
    others = {_place(log): log for log in moved if known.get(_place(log)) != _payer_and_value(log)}
    return [
        SeenTransfer(transfer, receipt.block_number, receipt.block_hash)
        for receipt in await receipts_of(rpc, (log.tx_hash for log in others.values()))
        for transfer in paid_transfers(receipt, asset=terms.asset)
        if (receipt.block_hash, transfer.log_index) in others
    ]


def _place(log: PlacedLog) -> tuple[BlockHash, int]:
    return log.block_hash, log.log.index


def _payer_and_value(log: PlacedLog) -> tuple[Address, AtomicAmount]:
    return Address(log.log.topics[1][12:]), AtomicAmount(int.from_bytes(log.log.data[:32]))


def _key(seen: SeenTransfer) -> PaymentKey:
    return seen.transfer.payer, seen.transfer.nonce


async def _minted(rpc: RpcClient, offered: Sequence[Token], *, first: BlockNumber, last: BlockNumber) -> list[SeenMint]:
    if not offered:
        return []
    logs = await rpc.placed_logs(
        addresses=[t.address for t in offered], topics=[hex_text(TOKENS_MINTED)], first=first, last=last
    )
    return [
        SeenMint(p.log.address, MintId(p.log.data[32:64]), p.tx_hash, p.block)
        for p in logs
        if len(p.log.topics) == 2 and len(p.log.data) >= 64
    ]


async def _gone(
    rpc: RpcClient, terms: Terms, marked: Sequence[UnitRow], *, in_logs: Collection[MintId]
) -> list[UnitRow]:
    """Units whose ids no log of the period shows, and no token holds (a skipped id was minted in an earlier block)."""
    silent = [unit for unit in marked if unit.mint_id not in in_logs]
    held = await _held(rpc, terms, [(unit.token, unit.mint_id) for unit in silent])
    return [unit for unit in silent if unit.mint_id not in held]


async def _held(rpc: RpcClient, terms: Terms, ids: Sequence[tuple[Address, MintId]]) -> set[MintId]:
    """The mint ids that their tokens hold at the head."""
    found: set[MintId] = set()
    for start in range(0, len(ids), CALLS_AT_ONCE):
        chunk = ids[start : start + CALLS_AT_ONCE]
        calls = [(token, contracts.encode_has_minted(unit)) for token, unit in chunk]
        answers = contracts.decode_aggregate3(
            await rpc.eth_call(to=terms.multicall3, data=contracts.encode_aggregate3(calls))
        )
        found |= {
            unit for (_, unit), (ok, data) in zip(chunk, answers, strict=True) if ok and len(data) == 32 and any(data)
        }
    return found


# ---- what was delivered for money whose payment is lost ------------------------------------------------


async def _delivered(
    rpc: RpcClient, terms: Terms, offered: Sequence[Token], transfers: Sequence[SeenTransfer]
) -> dict[PaymentKey, list[Delivered]]:
    """The units that tokens on offer hold under ids of these authorizations: ids survive their rows."""
    found: dict[PaymentKey, list[Delivered]] = {}
    for seen in transfers:
        for token in offered:
            ids = _ids(terms, token.address, seen, units=_units_paid(seen, token))
            held = await _held(rpc, terms, [(token.address, unit) for unit in ids])
            if held:
                found.setdefault(_key(seen), []).append(Delivered(token.address, len(held), token.price))
    return found


def _units_paid(seen: SeenTransfer, token: Token) -> int:
    return max(1, min(UNITS_MAX, seen.transfer.value // token.price))


def _ids(terms: Terms, token: Address, seen: SeenTransfer, *, units: int) -> list[MintId]:
    payer, nonce = _key(seen)
    return [
        mint_id(chain_id=terms.chain_id, token=token, asset=terms.asset, payer=payer, nonce=nonce, unit=unit)
        for unit in range(units)
    ]


async def _derived_before(
    pool: Pool,
    rpc: RpcClient,
    terms: Terms,
    pay_tos: Collection[Address],
    offered: Sequence[Token],
    *,
    first: BlockNumber,
    last: BlockNumber,
) -> set[MintId]:
    """The mint ids of every transfer up to `last` that no payment names, from some time before `first`."""
    start = BlockNumber(max(0, first - BLOCKS_BEFORE_A_MINT))
    transfers = await _unnamed(pool, rpc, terms, await _transfers(rpc, terms, pay_tos, first=start, last=last))
    return {
        unit
        for seen in transfers
        for token in offered
        for unit in _ids(terms, token.address, seen, units=_units_paid(seen, token))
    }
