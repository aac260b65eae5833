"""Store before send: one signer's transactions, from the account nonce to the broadcast, and again until mined."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from payfirst.chain.fees import Fees, fees_at, replacement_fees
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.chain.signers import SignedTransaction, Signer, call_data
from payfirst.errors import LeaseLost, OperatorError, RetriedError, StoreUnavailable
from payfirst.ops import metrics
from payfirst.ops.log import get_logger
from payfirst.pipeline import fence
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.watch_plan import SILENT_S_MIN, Patience, Step, plan_in_flight
from payfirst.store import attempts, signers, transactions
from payfirst.store.attempts import InFlight, Replacement
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.settling import Claim
from payfirst.store.signers import Purpose, Tenure
from payfirst.store.transactions import Envelope, Unresolved
from payfirst.units import AccountNonce, Address, BlockHash, Gas, TxHash, UnixTime, Wei, checksum_address, hex_text

RENEW_S = 1.0
TAKE_AGAIN_S = 0.5
LOOK_FOR_GAS_MONEY_S = 3.0
NOTE_BALANCE_S = 10.0
NO_OP_GAS = Gas(21_000)
# How long, in chain time, the chain must want a nonce that no transaction has before a no-op takes it.
GAP_S = 6
GAP_PER_ROUND_MAX = 16
# What a layer 2 charges for its layer 1 comes on top of the gas: a tenth is more than it has asked for.
COST_MARGIN_NUMERATOR, COST_MARGIN_DENOMINATOR = 11, 10
# A round that failed may have met rows that somebody has locked, another process that has just taken a signer, or a row
# that it cannot work with: for so long rows are claimed one by one, which passes over the first two, and has others go
# on while the claim on the third lasts.
CLAIM_ROWS_S = 30.0
# Who waits longer for a row than this has the round fail: rows wait with it, and the signer's own is locked meanwhile.
LOCK_TIMEOUT_S = 2

log = get_logger()

# What else belongs into the commit that stores a transaction: its items, and their rows turned `sent`.
StoreItems = Callable[[Connection, int, TxHash], Awaitable[None]]
# What an earlier holder of the signer had claimed and not sent is made due again.
FreeClaims = Callable[[Connection, Claim], Awaitable[None]]


class FeeCapReached(RetriedError):
    """The base fee is above the configured cap; rows wait, no account nonce is spent."""


class GasMoneyBound(RetriedError):
    """What is on its way may cost all that the signer has; rows wait until some of it is mined."""


class ItemsRefused(Exception):
    """`store_items` will not have these items sent as they are: nothing of it is stored, and the signer stays held."""


class SignerEmpty(RetriedError):
    """The signer cannot pay for the next transaction; it rests, and other signers take its rows."""


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
        self._epoch: int | None = None  # of the newest claims
        self._failed_at = float("-inf")  # the last round, by the monotonic clock
        self._stopping = False
        self._balance: tuple[BlockHash, Wei] | None = None
        # What is on its way may cost this much at the most, by the last count; less once some of it is mined.
        self._bound: Wei | None = None
        # When the newest bytes of a nonce were sent, and since when a nonce is the signer's next, in chain time.
        self._sent_at: dict[TxHash, UnixTime] = {}
        self._next: tuple[AccountNonce, UnixTime] | None = None
        self._patience = Patience(replace_after_s=terms.replace_after_s, abandon_after_s=terms.abandon_after_s)
        self._cap_said: AccountNonce | None = None

    @property
    def address(self) -> Address:
        """The signer's address."""
        return self._signer.address

    def stop(self) -> None:
        """Do not take the signer again."""
        self._stopping = True

    def lose(self) -> None:
        """Forget what is believed of the signer: the next `hold` reads it again."""
        self._tenure = self._bound = None

    async def give_up_claims(self) -> None:
        """Let others have what was claimed for a round that failed: the signer may be another worker's by now.

        That one freed the claims of its predecessors when it took the signer; this one's may have come after.
        """
        self.lose()
        self.note_failure()
        if self._epoch is None:
            return
        claim = self._claim_of(self._epoch + 1)
        with contextlib.suppress(StoreUnavailable):  # they end by themselves
            async with session(self._pool, "give claims back") as connection:
                await self._free_claims(connection, claim)

    async def hold(self) -> Claim:
        """Return in whose name to claim; waits while another process holds the signer.

        A new tenure first sends again what was stored and never resolved.
        """
        while self._tenure is None:
            if self._stopping:
                raise LeaseLost("the worker stops: the signer is not taken any more")
            # The chain first, the row after it: whatever is sent is stored before, so a chain that is ahead is no race.
            mined, waiting = await self._rpc.account_nonces(self.address)
            async with session(self._pool, "take the signer") as connection:
                await self._register(connection, mined)
                await fence.if_behind(connection, self._terms.network, self.address, chain_nonce=waiting, cut=None)
                self._tenure = await signers.take(
                    connection,
                    self._terms.network,
                    self.address,
                    purpose=self._purpose,
                    owner=self._owner,
                    chain_nonce=waiting,
                )
                if self._tenure is not None:
                    await self._free_claims(connection, self._claim(self._tenure))
            if self._tenure is None:
                await self._wait_for_the_signer()
                continue
            log.info(
                "signer_taken",
                message=f"Signing for {self._purpose} with {hex_text(self.address)}",
                purpose=self._purpose,
                signer=hex_text(self.address),
                epoch=self._tenure.epoch,
                next_nonce=self._tenure.next_nonce,
            )
            await self._send_again(at_once=True)
        return self._claim(self._tenure)

    async def _wait_for_the_signer(self) -> None:
        """Another process holds it, or it is paused; one that has no gas money is looked after here."""
        async with session(self._pool, "read the signer") as connection:
            state = await signers.read(connection, self._terms.network, self.address)
        if state is None or state.paused_reason is None or not state.paused_reason.startswith(signers.EMPTY):
            await asyncio.sleep(TAKE_AGAIN_S)
            return
        balance = await self._rpc.balance(self.address)
        async with session(self._pool, "let the signer go on") as connection:
            awake = await signers.wake(connection, self._terms.network, self.address, balance=balance)
        if awake:
            log.info("signer_awake", message=f"{self._name} has gas money again", signer=hex_text(self.address))
        else:
            await asyncio.sleep(LOOK_FOR_GAS_MONEY_S)

    @property
    def _name(self) -> str:
        return f"The {self._purpose} signer {checksum_address(self.address)}"

    def note_failure(self) -> None:
        """A round has failed: claim rows one by one for a while."""
        self._failed_at = time.monotonic()

    @property
    def claims_rows(self) -> bool:
        """Whether to claim rows one by one though the signer may be alone: a round has failed lately."""
        return time.monotonic() - self._failed_at < CLAIM_ROWS_S

    def _claim(self, tenure: Tenure) -> Claim:
        self._epoch = tenure.epoch
        return self._claim_of(tenure.epoch)

    def _claim_of(self, epoch: int) -> Claim:
        return Claim(self._terms.network, owner=hex_text(self.address), epoch=epoch)

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
        return (await self._unresolved()).count

    async def _unresolved(self) -> Unresolved:
        async with session(self._pool, "count unresolved transactions") as connection:
            counted = await transactions.count_unresolved(connection, self._terms.network, self.address)
        self._bound = counted.cost
        return counted

    async def _demand_gas_money(self, tenure: Tenure, *, cost: Wei) -> None:
        """Return if the signer can pay: a transaction it cannot pay for would hold up every nonce behind it."""
        head = self._head.head
        if self._balance is None or self._balance[0] != head.hash:
            self._balance = (head.hash, await self._rpc.balance(self.address))
        balance = self._balance[1]
        needed = cost * COST_MARGIN_NUMERATOR // COST_MARGIN_DENOMINATOR
        if self._bound is not None and balance >= needed + self._bound:
            return
        if balance >= needed:
            bound = await self._unresolved()
            if balance >= needed + bound.cost:
                return
            if bound.count:
                raise GasMoneyBound(
                    f"{self._name} has {balance} wei, and its {bound.count} transactions on their way may cost"
                    f" {bound.cost}: the next one waits for them. Send it gas money to settle faster"
                )
        sentence = f"{self._name} has {balance} wei, the next transaction may cost {needed}: send it gas money"
        async with transaction(self._pool, "rest a signer") as connection:
            await signers.rest(
                connection,
                self._terms.network,
                self.address,
                epoch=tenure.epoch,
                sentence=sentence,
                balance=balance,
            )
            # What it had claimed goes to the other signers at once.
            await self._free_claims(connection, self._claim_of(tenure.epoch + 1))
        self._tenure = None
        log.error("signer_empty", message=sentence, signer=hex_text(self.address), balance_wei=balance)
        raise SignerEmpty(sentence)

    async def send(
        self, *, to: Address, data: bytes, gas_limit: Gas, item_count: int, store_items: StoreItems
    ) -> SignedTransaction:
        """Sign, commit, broadcast: in this order.

        One commit spends the account nonce under the epoch, stores the signed bytes and runs `store_items`; if
        any of it does not hold, all of it is undone and the bytes are thrown away. What the broadcast answers
        changes nothing. Raises LeaseLost, StoreUnavailable, FeeCapReached, GasMoneyBound, SignerEmpty or what
        `store_items` raises, each with nothing sent.
        """
        tenure = self._tenure
        if tenure is None:
            raise LeaseLost("the signer is not held")
        fees = fees_at(self._head.head.base_fee, priority_fee=self._terms.priority_fee, max_fee_cap=self._terms.max_fee)
        if fees is None:
            raise FeeCapReached(
                f"the base fee of {self._head.head.base_fee} wei is above network.max_fee_gwei; rows wait"
            )
        await self._demand_gas_money(tenure, cost=Wei(gas_limit * fees.max_fee))
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
        try:
            async with transaction(
                self._pool, "store a signed transaction", lock_timeout_s=LOCK_TIMEOUT_S
            ) as connection:
                spent = await signers.spend_nonce(
                    connection, self._terms.network, self.address, epoch=tenure.epoch, nonce=signed.nonce
                )
                if not spent:
                    raise LeaseLost("the signer's epoch or nonce has moved on")
                transaction_id = await transactions.store(
                    connection, self._envelope(signed, tenure.epoch), item_count=item_count
                )
                await store_items(connection, transaction_id, signed.hash)
        except ItemsRefused:  # by our own word, and rolled back
            self._tenure = tenure
            raise
        self._tenure = Tenure(tenure.epoch, AccountNonce(signed.nonce + 1))
        if self._bound is not None:
            self._bound = Wei(self._bound + gas_limit * fees.max_fee)
        metrics.BATCH.observe(item_count, self._purpose)
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
        self._sent_at.setdefault(tx_hash, self._head.head.time)
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
                await attempts.note_broadcast(connection, tx_hash, error=said)

    async def tend(self) -> None:
        """Renew the lease, send again what is silent, bid higher for what is stuck, until cancelled."""
        noted_at = float("-inf")
        loop = asyncio.get_running_loop()
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
                await self._send_again()
                if loop.time() - noted_at >= NOTE_BALANCE_S:
                    noted_at = loop.time()
                    await self._note_balance()
            except RetriedError as error:
                log.warning("tend_postponed", message=f"Could not look after the signer: {error}")

    async def _note_balance(self) -> None:
        balance = await self._rpc.balance(self.address)
        async with session(self._pool, "note a balance") as connection:
            await signers.note_balance(connection, self._terms.network, self.address, balance=balance)

    async def _send_again(self, *, at_once: bool = False) -> None:
        """Look after what is on its way; `at_once` for a new tenure, which cannot know what its bytes met."""
        async with session(self._pool, "read transactions in flight") as connection:
            in_flight = await attempts.in_flight(connection, self._terms.network, self.address)
        silent = [
            t for t in in_flight if at_once or t.replace_requested or t.silent_s is None or t.silent_s >= SILENT_S_MIN
        ]
        self._sent_at = {t.hash: at for t in in_flight if (at := self._sent_at.get(t.hash)) is not None}
        if not silent:
            return
        next_nonce = await self._rpc.account_nonce(self.address)
        chain_time = self._head.head.time
        if self._next is None or self._next[0] != next_nonce:
            self._next = (next_nonce, chain_time)
        tenure = self._tenure
        if tenure is not None and next_nonce > tenure.next_nonce:
            self.lose()  # somebody else signs with this key: the next hold takes the chain's nonce for the floor
        elif tenure is not None and next_nonce < in_flight[0].nonce and chain_time - self._next[1] >= GAP_S:
            await self._fill_gap(tenure, next_nonce, in_flight[0].nonce)
        # One after the other, and the lease is short: what has no turn now has it in a second.
        for sent in silent:
            if sent.nonce < next_nonce:
                continue  # mined; the confirmer reads it at its depth
            await self._tend_one(sent, is_next=sent.nonce == next_nonce, stuck_s=chain_time - self._next[1])

    async def _fill_gap(self, tenure: Tenure, chain_nonce: AccountNonce, lowest: AccountNonce) -> None:
        """No-ops for account nonces that no transaction has: nothing behind such a gap would ever be mined.

        A node that counted too many left it. A nonce that is not missing after all is refused, and harms nobody.
        """
        fees = fees_at(self._head.head.base_fee, priority_fee=self._terms.priority_fee, max_fee_cap=self._terms.max_fee)
        if fees is None:
            return
        async with session(self._pool, "look for a gap of nonces") as connection:
            missing = await attempts.missing_nonces(
                connection,
                self._terms.network,
                self.address,
                first=chain_nonce,
                last=AccountNonce(lowest - 1),
                limit=GAP_PER_ROUND_MAX,
            )
        for nonce in missing:
            signed = self._signer.sign(
                chain_id=self._terms.chain_id, nonce=nonce, to=self.address, data=b"", gas_limit=NO_OP_GAS, fees=fees
            )
            envelope = replace(self._envelope(signed, tenure.epoch), is_noop=True)
            async with transaction(self._pool, "store a no-op for a gap") as connection:
                if not await signers.renew(connection, self._terms.network, self.address, epoch=tenure.epoch):
                    raise LeaseLost("another worker holds the signer")
                await transactions.store(connection, envelope, item_count=0)
            log.warning(
                "nonce_gap_filled",
                message=f"Nonce {nonce} of {self._name} was never used: a no-op takes it, so that later ones are mined",
                nonce=nonce,
                tx_hash=hex_text(signed.hash),
            )
            await self._broadcast(signed.hash, signed.signed)

    async def _tend_one(self, sent: InFlight, *, is_next: bool, stuck_s: int) -> None:
        head = self._head.head
        known = await self._rpc.is_known(sent.hash)
        # Bytes of an earlier tenure: the time is counted from here.
        sent_at = self._sent_at.setdefault(sent.hash, head.time)
        step = plan_in_flight(
            sent,
            known_to_node=known,
            is_next=is_next,
            waited_s=head.time - sent_at,
            stuck_s=stuck_s,
            chain_time=head.time,
            base_fee=head.base_fee,
            patience=self._patience,
        )
        if step in (Step.REPLACE, Step.NO_OP) and await self._replace(sent, as_noop=step is Step.NO_OP or sent.is_noop):
            return
        if step is Step.REBROADCAST or not known:
            metrics.REBROADCASTS.add(self._purpose)
            log.info(
                "rebroadcast",
                message=f"Sending the stored bytes of nonce {sent.nonce} again",
                nonce=sent.nonce,
                tx_hash=hex_text(sent.hash),
                broadcasts=sent.broadcast_count,
            )
            await self._broadcast(sent.hash, sent.signed)

    async def _replace(self, sent: InFlight, *, as_noop: bool) -> bool:
        """Other bytes for the same account nonce, stored before they are sent; False when they cannot be made."""
        tenure, head = self._tenure, self._head.head
        if tenure is None:
            return False
        fees = replacement_fees(
            Fees(sent.max_fee, sent.max_priority_fee),
            head.base_fee,
            priority_fee=self._terms.priority_fee,
            max_fee_cap=self._terms.max_fee,
        )
        if fees is None:
            if self._cap_said != sent.nonce:
                self._cap_said = sent.nonce
                log.error(
                    "fee_cap_reached",
                    message=f"Nonce {sent.nonce} is not mined at {sent.max_fee} wei a gas, and network.max_fee_gwei"
                    " leaves no room for a higher bid: it waits, and what comes after it",
                    nonce=sent.nonce,
                    base_fee_wei=head.base_fee,
                )
            return False
        signed = self._signer.sign(
            chain_id=self._terms.chain_id,
            nonce=sent.nonce,
            to=self.address if as_noop else sent.to,
            data=b"" if as_noop else call_data(sent.signed),
            gas_limit=NO_OP_GAS if as_noop else sent.gas_limit,
            fees=fees,
        )
        replacement = Replacement(
            transaction_id=sent.id,
            hash=signed.hash,
            signed=signed.signed,
            max_fee=fees.max_fee,
            max_priority_fee=fees.max_priority_fee,
            is_noop=as_noop,
        )
        async with transaction(self._pool, "store a replacement") as connection:
            stored = await attempts.store_replacement(connection, replacement, epoch=tenure.epoch)
        if not stored:
            return True  # resolved meanwhile, or another's
        self._bound = None  # it may cost more now
        metrics.REPLACEMENTS.add(self._purpose, "noop" if as_noop else "fee")
        log.warning(
            "nonce_given_up" if as_noop else "fee_raised",
            message=(
                f"Nonce {sent.nonce} is given up with a no-op; what it carried is sent again if it can be"
                if as_noop
                else f"Nonce {sent.nonce} is sent again at {fees.max_fee} wei a gas instead of {sent.max_fee}"
            ),
            nonce=sent.nonce,
            tx_hash=hex_text(signed.hash),
            replaced=hex_text(sent.hash),
        )
        await self._broadcast(signed.hash, signed.signed)
        return True

    async def release(self) -> None:
        """Give the signer back, so that the next worker need not wait for the lease to end."""
        if self._tenure is None:
            return
        async with session(self._pool, "release the signer") as connection:
            await signers.release(connection, self._terms.network, self.address, epoch=self._tenure.epoch)
        self._tenure = None
