"""The skeleton's worker: settle, confirm and mint, one signer each, with nothing looked after."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from payfirst.chain import contracts
from payfirst.chain.blocks import Head, Receipt
from payfirst.chain.contracts import PreflightRequest
from payfirst.chain.evidence import minted_units, paid_transfers
from payfirst.chain.fees import Fees, gas_limit
from payfirst.chain.rpc import RpcClient
from payfirst.chain.signers import Signer
from payfirst.cli.work import terms
from payfirst.config import load
from payfirst.lifecycle import PaymentStatus
from payfirst.ops.event_loop import new_event_loop
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, database, heads, mints, settling, signers, tokens, transaction_items, transactions
from payfirst.store.crediting import Completion, CreditCandidate
from payfirst.store.database import Connection, Pool
from payfirst.store.heads import ReadBlock
from payfirst.store.ids import Ids
from payfirst.store.mints import NewMint
from payfirst.store.settling import Claim, ClaimedPayment
from payfirst.store.signers import Purpose
from payfirst.store.transaction_items import ItemOutcome
from payfirst.store.transactions import Envelope, UnresolvedHash
from payfirst.units import AccountNonce, Address, TxHash, UnixTime, Wei, hex_text
from payfirst.x402.mint_id import mint_id

RENEW_S = 1.0
IDLE_S = 0.02
LEASE_S = 30.0
SETTLE_GAS_EACH, MINT_GAS_EACH = 60_000, 60_000
LINGER_S = 0.15

StoreItems = Callable[[Connection, int, TxHash], Awaitable[None]]


class Sender:
    """One signer, held for ever."""

    def __init__(self, pool: Pool, rpc: RpcClient, terms_: Terms, key: bytes, purpose: Purpose) -> None:
        self._pool, self._rpc, self._terms, self._purpose = pool, rpc, terms_, purpose
        self._signer = Signer(key)
        self._nonce = AccountNonce(0)
        self._fees = Fees(max_fee=terms_.max_fee, max_priority_fee=terms_.priority_fee)
        self._owner = hex_text(self._signer.address)
        self.claim = Claim(terms_.network, self._owner, 0)

    async def hold(self) -> None:
        """Make and take the signer's row."""
        network, address = self._terms.network, self._signer.address
        self._nonce = await self._rpc.account_nonce(address)
        async with database.session(self._pool, "take a signer") as connection:
            await signers.register(connection, network, address, purpose=self._purpose, chain_nonce=self._nonce)
            tenure = await signers.take(
                connection, network, address, purpose=self._purpose, owner=self._owner, chain_nonce=self._nonce
            )
        if tenure is None:
            raise RuntimeError(f"the {self._purpose} signer is not free")
        self.claim = Claim(network, self._owner, tenure.epoch)

    async def tend(self) -> None:
        """Keep the lease: without it the rows would be claimed one by one, which payfirst does not do here."""
        while True:
            await asyncio.sleep(RENEW_S)
            async with database.session(self._pool, "renew a lease") as connection:
                await signers.renew(connection, self._terms.network, self._signer.address, epoch=self.claim.epoch)

    async def send(
        self, to: Address, data: bytes, *, gas_each: int, ids: Sequence[uuid.UUID], store: StoreItems
    ) -> None:
        """One commit with the nonce, the bytes and the rows; then the broadcast."""
        signed = self._signer.sign(
            chain_id=self._terms.chain_id, nonce=self._nonce, to=to, data=data, fees=self._fees,
            gas_limit=gas_limit(data, execution_gas=gas_each * len(ids) + 100_000),
        )  # fmt: skip
        envelope = Envelope(
            network=self._terms.network, signer=self._signer.address, nonce=self._nonce, purpose=self._purpose,
            epoch=self.claim.epoch, to=to, gas_limit=signed.gas_limit, hash=signed.hash, signed=signed.signed,
            max_fee=self._fees.max_fee, max_priority_fee=self._fees.max_priority_fee,
        )  # fmt: skip
        async with database.transaction(self._pool, "store a transaction") as connection:
            spent = await signers.spend_nonce(
                connection, self._terms.network, self._signer.address, epoch=self.claim.epoch, nonce=self._nonce
            )
            if not spent:
                raise RuntimeError("the nonce is spent")
            stored = await transactions.store(connection, envelope, item_count=len(ids))
            await store(connection, stored, signed.hash)
        self._nonce = AccountNonce(self._nonce + 1)
        await self._rpc.broadcast(signed.signed)


class Skeleton:
    """Three loops that share a pool, a client and the newest head."""

    def __init__(self, pool: Pool, rpc: RpcClient, terms_: Terms, *, settle_key: bytes, mint_key: bytes) -> None:
        self._ids = Ids()
        self._pool, self._rpc, self._terms = pool, rpc, terms_
        self._settle = Sender(pool, rpc, terms_, settle_key, "settle")
        self._mint = Sender(pool, rpc, terms_, mint_key, "mint")
        self._head: Head | None = None

    async def run(self) -> None:
        """Until cancelled."""
        self._head = await self._rpc.head()
        async with database.transaction(self._pool, "start") as connection:
            await heads.start(connection, self._terms.network, _read(self._head))
        await self._settle.hold()
        await self._mint.hold()
        async with asyncio.TaskGroup() as group:
            for loop in (
                self._settling(), self._confirming(), self._minting(), self._settle.tend(), self._mint.tend(),
            ):  # fmt: skip
                group.create_task(loop)

    async def _settling(self) -> None:
        network, asset, claim = self._terms.network, self._terms.asset, self._settle.claim
        limit = self._terms.settle_batch_max
        while True:
            async with database.session(self._pool, "claim payments") as connection:
                claimed = await settling.claim_pending(
                    connection, asset=asset, claim=claim, lease_s=LEASE_S, limit=limit,
                    valid_before_min=UnixTime(int(time.time())), besides=(), by_row=False,
                )  # fmt: skip
            if not claimed:
                await asyncio.sleep(IDLE_S)
                continue
            assert self._head is not None  # noqa: S101 - set before this loop began
            tried = [
                PreflightRequest(
                    payer=p.payer, value=p.amount, valid_after=p.valid_after, valid_before=p.valid_before,
                    nonce=p.nonce, signature=p.signature,
                )
                for p in claimed
            ]  # fmt: skip
            answer = await self._rpc.eth_call(
                to=None, data=contracts.encode_preflight(asset, self._terms.pay_to, tried), at=self._head.hash
            )
            if not all(item.ok and not item.used for item in contracts.decode_preflight(answer).items):
                raise RuntimeError("a payment of the benchmark does not pass its pre-flight")
            calls = [
                contracts.encode_transfer_with_authorization(
                    payer=p.payer, pay_to=p.pay_to, value=p.amount, valid_after=p.valid_after,
                    valid_before=p.valid_before, nonce=p.nonce, signature=p.signature,
                )
                for p in claimed
            ]  # fmt: skip
            ids = [p.id for p in claimed]
            units: dict[Address, int] = {}
            for p in claimed:
                units[p.token] = units.get(p.token, 0) + p.quantity

            async def store(
                connection: Connection,
                transaction_id: int,
                tx_hash: TxHash,
                ids: Sequence[uuid.UUID] = ids,
                units: dict[Address, int] = units,
                claimed: Sequence[ClaimedPayment] = claimed,
            ) -> None:
                await transaction_items.store_payment_items(connection, transaction_id, ids)
                await settling.mark_sent(connection, claimed, tx_hash=tx_hash, claim=claim)
                if not await tokens.take_supply(connection, network, units):
                    raise RuntimeError("the benchmark's token is sold out")

            await self._settle.send(
                self._terms.multicall3, contracts.encode_try_aggregate([(asset, call) for call in calls]),
                gas_each=SETTLE_GAS_EACH, ids=ids, store=store,
            )  # fmt: skip
            if len(claimed) < limit:
                await asyncio.sleep(LINGER_S)

    async def _minting(self) -> None:
        network, claim, limit = self._terms.network, self._mint.claim, self._terms.mint_batch_max
        while True:
            async with database.session(self._pool, "claim units") as connection:
                waiting = await mints.tokens_with_work(connection, network=network)
            for token in waiting:
                async with database.session(self._pool, "claim units") as connection:
                    units = await mints.claim(
                        connection, token=token, claim=claim, lease_s=LEASE_S, limit=limit, besides=(), by_row=False
                    )
                if not units:
                    continue
                ids, paid = [unit.id for unit in units], [unit.payment_id for unit in units]

                async def store(
                    connection: Connection,
                    transaction_id: int,
                    tx_hash: TxHash,
                    ids: Sequence[uuid.UUID] = ids,
                    paid: Sequence[uuid.UUID] = paid,
                ) -> None:
                    await mints.lock_paid(connection, paid)
                    await transaction_items.store_mint_items(connection, transaction_id, ids)
                    await mints.mark_sent(connection, ids, tx_hash=tx_hash, claim=claim)

                data = contracts.encode_batch_mint([u.recipient for u in units], [u.mint_id for u in units])
                await self._mint.send(token, data, gas_each=MINT_GAS_EACH, ids=ids, store=store)
            await asyncio.sleep(IDLE_S if not waiting else 0)

    async def _confirming(self) -> None:
        read = self._head
        while True:
            head = await self._rpc.head()
            if read is not None and head.number == read.number:
                await asyncio.sleep(IDLE_S)
                continue
            self._head = read = head
            async with database.session(self._pool, "read what is on its way") as connection:
                await heads.see(
                    connection, self._terms.network, _read(head), base_fee=head.base_fee, confirmable_height=head.number
                )
                unresolved = await transactions.unresolved_hashes(connection, self._terms.network)
            found = await self._rpc.receipts(list(unresolved))
            receipts = [receipt for receipt in found if receipt is not None]
            if receipts:
                async with database.transaction(self._pool, "apply blocks") as connection:
                    await self._apply(connection, receipts, unresolved)

    async def _apply(
        self, connection: Connection, receipts: Sequence[Receipt], unresolved: dict[TxHash, UnresolvedHash]
    ) -> None:
        network, asset = self._terms.network, self._terms.asset
        ids = [unresolved[receipt.tx_hash].transaction_id for receipt in receipts]
        items = [
            *((i.transaction_id, i.position) for i in await transaction_items.payment_items(connection, ids)),
            *((i.transaction_id, i.position) for i in await transaction_items.mint_items(connection, ids)),
        ]
        await transactions.confirm(
            connection,
            [
                transactions.MinedTransaction(
                    id=id_, hash=r.tx_hash, block=r.block_number, block_hash=r.block_hash, succeeded=r.succeeded,
                    gas_used=r.gas_used, gas_price=Wei(r.gas_price),
                )
                for id_, r in zip(ids, receipts, strict=True)
            ],
            [ItemOutcome(id_, position, "done") for id_, position in items],
        )  # fmt: skip
        paid = {
            (transfer.payer, transfer.nonce): (receipt, transfer.log_index)
            for receipt in receipts
            for transfer in paid_transfers(receipt, asset=asset)
        }
        if paid:
            candidates = await crediting.credit_candidates(connection, network=network, asset=asset, keys=list(paid))
            units = {c.id: self._units(c, paid[c.payer, c.nonce][0].tx_hash) for c in candidates}
            await crediting.mark_completed(
                connection,
                [
                    _completion(c, *paid[c.payer, c.nonce], queue_ids=[str(unit.id) for unit in units[c.id]])
                    for c in candidates
                ],
            )
            await mints.insert(connection, network=network, mints=[unit for of_it in units.values() for unit in of_it])
        sold = {unresolved[r.tx_hash].to for r in receipts if unresolved[r.tx_hash].purpose == "mint"}
        for receipt in receipts:
            minted = [(unit.mint_id, unit.tx_hash) for unit in minted_units(receipt, tokens=sold)]
            if minted:
                done = await mints.mark_minted(connection, minted, block=receipt.block_number)
                await tokens.add_reserved(connection, network, {done[0].token: -len(done)})

    def _units(self, payment: CreditCandidate, tx_hash: TxHash) -> list[NewMint]:
        return [
            NewMint(
                id=self._ids.draw(),
                payment_id=payment.id, unit=unit, payment_tx_hash=tx_hash, token=payment.token,
                recipient=payment.recipient,
                mint_id=mint_id(
                    chain_id=self._terms.chain_id, token=payment.token, asset=self._terms.asset, payer=payment.payer,
                    nonce=payment.nonce, unit=unit,
                ),
            )
            for unit in range(payment.quantity)
        ]  # fmt: skip


def _completion(payment: CreditCandidate, receipt: Receipt, log_index: int, *, queue_ids: Sequence[str]) -> Completion:
    ids = ",".join(f'"{queue_id}"' for queue_id in queue_ids)
    return Completion(
        id=payment.id, expected=PaymentStatus.SENT, tx_hash=receipt.tx_hash, block=receipt.block_number,
        block_hash=receipt.block_hash, log_index=log_index, ours=True, was_reserved=True, reserved=True,
        result_json=f'{{"queueIds":[{ids}],"quantity":{payment.quantity}}}',
    )  # fmt: skip


def _read(head: Head) -> ReadBlock:
    return ReadBlock(head.number, head.hash, head.time)


async def _work() -> None:
    config = load(role="worker")
    keys = config.worker_signers()
    pool = await database.connect(config.database.url, name="skeleton", size=8)
    async with pool, RpcClient(config.network.rpc_urls) as rpc:
        await Skeleton(pool, rpc, terms(config), settle_key=keys.settle_keys[0], mint_key=keys.mint_keys[0]).run()


def main() -> None:
    """Until SIGTERM."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # as payfirst does
        runner.run(_work())
