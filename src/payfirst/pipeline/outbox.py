"""Store before send: one signer's transactions, from the account nonce to the broadcast, and again until mined."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from payfirst.chain.fees import fees_at
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.chain.signers import SignedTransaction, Signer
from payfirst.errors import LeaseLost, OperatorError, RetriedError
from payfirst.ops.log import get_logger
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.watch_plan import Rebroadcast, Wait, plan_in_flight
from payfirst.store import signers, transactions
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.settling import Claim
from payfirst.store.signers import Purpose, Tenure
from payfirst.store.transactions import Envelope, InFlight
from payfirst.units import AccountNonce, Address, Gas, TxHash, hex_text

RENEW_S = 1.0
TAKE_AGAIN_S = 0.5

log = get_logger()

# What else belongs into the commit that stores a transaction: its items, and their rows turned `sent`.
StoreItems = Callable[[Connection, int, TxHash], Awaitable[None]]
# What an earlier holder of the signer had claimed and not sent is made due again.
FreeClaims = Callable[[Connection, Claim], Awaitable[None]]


class FeeCapReached(RetriedError):
    """The base fee is above the configured cap; rows wait, no account nonce is spent."""


class WrongPurpose(OperatorError):
    """The signer is registered for something else."""


class Outbox:
    """The tenure of one signer, held by one process at a time."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        signer: Signer,
        purpose: Purpose,
        owner: str,
        head: HeadWatch,
        free_claims: FreeClaims,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._signer = signer
        self._purpose: Purpose = purpose
        self._owner = owner
        self._head = head
        self._free_claims = free_claims
        self._tenure: Tenure | None = None
        self._stopping = False

    @property
    def address(self) -> Address:
        """The signer's address."""
        return self._signer.address

    def stop(self) -> None:
        """Do not take the signer again."""
        self._stopping = True

    def lose(self) -> None:
        """Forget what is believed of the signer: the next `hold` reads it again."""
        self._tenure = None

    async def hold(self) -> Claim:
        """Return in whose name to claim; waits while another process holds the signer.

        A new tenure first sends again what was stored and never resolved.
        """
        while self._tenure is None:
            if self._stopping:
                raise LeaseLost("the worker stops: the signer is not taken any more")
            chain_nonce = await self._rpc.account_nonce(self.address)
            async with session(self._pool, "take the signer") as connection:
                await self._register(connection, chain_nonce)
                self._tenure = await signers.take(
                    connection,
                    self._terms.network,
                    self.address,
                    purpose=self._purpose,
                    owner=self._owner,
                    chain_nonce=chain_nonce,
                )
                if self._tenure is not None:
                    await self._free_claims(connection, self._claim(self._tenure))
            if self._tenure is None:
                await asyncio.sleep(TAKE_AGAIN_S)
                continue
            log.info(
                "signer_taken",
                message=f"Signing for {self._purpose} with {hex_text(self.address)}",
                purpose=self._purpose,
                signer=hex_text(self.address),
                epoch=self._tenure.epoch,
                next_nonce=self._tenure.next_nonce,
            )
            await self._send_again(silent_s_min=0)
        return self._claim(self._tenure)

    def _claim(self, tenure: Tenure) -> Claim:
        return Claim(owner=hex_text(self.address), epoch=tenure.epoch)

    async def _register(self, connection: Connection, chain_nonce: AccountNonce) -> None:
        await signers.register(
            connection, self._terms.network, self.address, purpose=self._purpose, chain_nonce=chain_nonce
        )
        state = await signers.read(connection, self._terms.network, self.address)
        if state is not None and state.purpose != self._purpose:
            raise WrongPurpose(
                f"{hex_text(self.address)} signs for {state.purpose} in this database, not for {self._purpose}:"
                " give each purpose a key of its own"
            )

    async def unresolved(self) -> int:
        """How many transactions of this signer have no known outcome."""
        async with session(self._pool, "count unresolved transactions") as connection:
            return await transactions.count_unresolved(connection, self._terms.network, self.address)

    async def send(
        self, *, to: Address, data: bytes, gas_limit: Gas, item_count: int, store_items: StoreItems
    ) -> SignedTransaction:
        """Sign, commit, broadcast: in this order.

        One commit spends the account nonce under the epoch, stores the signed bytes and runs `store_items`; if
        any of it does not hold, all of it is undone and the bytes are thrown away. What the broadcast answers
        changes nothing. Raises LeaseLost, StoreUnavailable or FeeCapReached, each with nothing sent.
        """
        tenure = self._tenure
        if tenure is None:
            raise LeaseLost("the signer is not held")
        fees = fees_at(self._head.head.base_fee, priority_fee=self._terms.priority_fee, max_fee_cap=self._terms.max_fee)
        if fees is None:
            raise FeeCapReached(
                f"the base fee of {self._head.head.base_fee} wei is above network.max_fee_gwei; rows wait"
            )
        signed = self._signer.sign(
            chain_id=self._terms.chain_id,
            nonce=tenure.next_nonce,
            to=to,
            data=data,
            gas_limit=gas_limit,
            fees=fees,
        )
        # Whatever goes wrong from here to the end of the commit, it is not known what the row says: read it again.
        self._tenure = None
        async with transaction(self._pool, "store a signed transaction") as connection:
            spent = await signers.spend_nonce(
                connection, self._terms.network, self.address, epoch=tenure.epoch, nonce=signed.nonce
            )
            if not spent:
                raise LeaseLost("the signer's epoch or nonce has moved on")
            transaction_id = await transactions.store(
                connection, self._envelope(signed, tenure.epoch), item_count=item_count
            )
            await store_items(connection, transaction_id, signed.hash)
        self._tenure = Tenure(tenure.epoch, AccountNonce(signed.nonce + 1))
        await self._broadcast(signed.hash, signed.signed)
        return signed

    def _envelope(self, signed: SignedTransaction, epoch: int) -> Envelope:
        return Envelope(
            network=self._terms.network,
            signer=self.address,
            nonce=signed.nonce,
            purpose=self._purpose,
            epoch=epoch,
            to=signed.to,
            gas_limit=signed.gas_limit,
            hash=signed.hash,
            signed=signed.signed,
            max_fee=signed.fees.max_fee,
            max_priority_fee=signed.fees.max_priority_fee,
        )

    async def _broadcast(self, tx_hash: TxHash, signed: bytes) -> None:
        said: str | None = None
        try:
            await self._rpc.broadcast(signed)
        except (RpcRefused, RpcUnavailable) as error:
            # Unknown, not failed: "already known" and "nonce too low" are probably ours. The watch decides by hash.
            said = str(error)
            log.warning(
                "broadcast_unclear", message=f"Broadcast without a clear answer: {said}", tx_hash=hex_text(tx_hash)
            )
        with contextlib.suppress(RetriedError):  # a lost note means one more look, nothing else
            async with session(self._pool, "note a broadcast") as connection:
                await transactions.note_broadcast(connection, tx_hash, error=said)

    async def tend(self) -> None:
        """Renew the lease and send silent transactions again, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            tenure = self._tenure  # `send` puts it aside while it commits
            if tenure is None:
                continue
            try:
                async with session(self._pool, "renew the signer's lease") as connection:
                    held = await signers.renew(connection, self._terms.network, self.address, epoch=tenure.epoch)
                if not held:
                    log.warning("signer_lost", message="Another worker holds the signer now", purpose=self._purpose)
                    self.lose()
                    continue
                await self._send_again(silent_s_min=3)
            except RetriedError as error:
                log.warning("tend_postponed", message=f"Could not look after the signer: {error}")

    async def _send_again(self, *, silent_s_min: float) -> None:
        async with session(self._pool, "read transactions in flight") as connection:
            silent = await transactions.in_flight(
                connection, self._terms.network, self.address, silent_s_min=silent_s_min
            )
        for sent in silent:
            await self._tend_one(sent)

    async def _tend_one(self, sent: InFlight) -> None:
        known = await self._rpc.is_known(sent.hash)
        match plan_in_flight(sent, known_to_node=known):
            case Rebroadcast():
                log.info(
                    "rebroadcast",
                    message=f"Sending the stored bytes of nonce {sent.nonce} again",
                    nonce=sent.nonce,
                    tx_hash=hex_text(sent.hash),
                    broadcasts=sent.broadcast_count,
                )
                await self._broadcast(sent.hash, sent.signed)
            case Wait():
                pass

    async def release(self) -> None:
        """Give the signer back, so that the next worker need not wait for the lease to end."""
        if self._tenure is None:
            return
        async with session(self._pool, "release the signer") as connection:
            await signers.release(connection, self._terms.network, self.address, epoch=self._tenure.epoch)
        self._tenure = None
