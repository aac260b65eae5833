"""Mint: claim paid units by token, and send them in batches by the same store-then-send as payments."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Sequence

from payfirst.chain import contracts
from payfirst.chain.contracts import RevertReason, revert_reason
from payfirst.chain.fees import gas_limit
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.ops.log import get_logger
from payfirst.pipeline import minted, used_ids
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.outbox import LOCK_TIMEOUT_S, Outbox
from payfirst.pipeline.rounds import Rounds
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.under_way import UnderWay
from payfirst.store import heads, mints, owed, tokens, transaction_items
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.mints import ClaimedMint
from payfirst.store.owed import Debt
from payfirst.store.settling import Claim
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockNumber, Gas, MintId, TxHash, checksum_address, hex_text

LEASE_S = 30.0
BACK_OFF_S_MAX = 60.0
BATCH_GAS_FLOOR = 80_000

# Refusals that are of the whole contract: looking for the unit that causes them would be many calls for nothing.
CONTRACT_WIDE = ("AccessControlUnauthorizedAccount", "EnforcedPause", "Pausable: paused", "AccessControl: account")
CAP_REACHED = "MintToken__CapReached"
CAP_CODE = "token_cap_reached"
CAP_SENTENCE = "The token's cap was reached before this unit could be minted."
USED_CODE = "mint_id_used"
USED_SENTENCE = "the token holds this mint id: waiting until the block that minted it is final"

log = get_logger()


class Minter:
    """One mint signer's work."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        outbox: Outbox,
        head: HeadWatch,
        under_way: UnderWay[ClaimedMint],
        on_changed: OnChanged,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._outbox = outbox
        self._head = head
        self._under_way = under_way
        self._on_changed = on_changed
        self._last_batch_full = False
        self.rounds = Rounds("mint", self.step, outbox=outbox)

    async def step(self) -> bool:
        """Send one batch of each token that has due units; returns whether anything was claimed."""
        claim = await self._outbox.hold()
        if self._terms.minting_paused:
            return False  # the signer stays held: what it has sent is looked after
        unresolved = await self._outbox.unresolved()
        room = self._terms.mint_unresolved_max - unresolved
        if room <= 0:
            return False
        if unresolved and not self._last_batch_full:
            await asyncio.sleep(self._terms.linger_s)
        async with session(self._pool, "look for units to mint") as connection:
            waiting = await mints.tokens_with_work(connection, network=self._terms.network)
        sent_of = 0
        self._last_batch_full = False
        for token in waiting:
            if sent_of == room:
                break
            sent_of += await self._mint_token(claim, token)
        return sent_of > 0

    async def _mint_token(self, claim: Claim, token: Address) -> bool:
        limit = min(self._terms.mint_batch_max, self._units_in_gas())
        async with self._under_way.taken(lambda besides: self._claim(claim, token, limit, besides)) as units:
            if not units:
                return False
            self._last_batch_full = self._last_batch_full or len(units) == limit
            # Units whose id was found used would have the whole batch refused again: they are tried by themselves.
            fresh = [unit for unit in units if unit.suspected_code != USED_CODE]
            suspects = [unit for unit in units if unit.suspected_code == USED_CODE]
            for part in (fresh, suspects):
                if part:
                    await self._mint_units(claim, token, part)
        return True

    async def _claim(
        self, claim: Claim, token: Address, limit: int, besides: Collection[uuid.UUID]
    ) -> list[ClaimedMint]:
        async with session(self._pool, "claim units") as connection:
            return await mints.claim(
                connection,
                token=token,
                claim=claim,
                lease_s=LEASE_S,
                limit=limit,
                besides=besides,
                by_row=self._outbox.claims_rows,
            )

    async def _mint_units(self, claim: Claim, token: Address, units: Sequence[ClaimedMint]) -> None:
        refused = await self._preflight(token, units)
        if refused is None:
            await self._end_hold(token)
            await self._send(claim, token, units)
        else:
            await self._handle_refusal(claim, token, units, refused)

    def _units_in_gas(self) -> int:
        per_unit = self._terms.mint_gas_per_unit + 64 * 16
        return max(1, (self._terms.tx_gas_max - BATCH_GAS_FLOOR - 30_000) // per_unit)

    async def _preflight(self, token: Address, units: Sequence[ClaimedMint]) -> RevertReason | None:
        """Try the very call at the head; None when it goes through, else what the contract says."""
        data = _batch_mint(units)
        try:
            await self._rpc.eth_call(
                to=token, data=data, sender=self._outbox.address, gas=self._gas_limit(data, units), at="latest"
            )
        except RpcRefused as refused:
            if not refused.is_execution:
                raise  # the endpoint's trouble is not the token's word
            return revert_reason(refused.data) if refused.data else RevertReason("", refused.message)
        return None

    def _gas_limit(self, data: bytes, units: Sequence[ClaimedMint]) -> Gas:
        return gas_limit(data, execution_gas=BATCH_GAS_FLOOR + self._terms.mint_gas_per_unit * len(units))

    async def _handle_refusal(
        self, claim: Claim, token: Address, units: Sequence[ClaimedMint], reason: RevertReason
    ) -> None:
        """The contract refuses the batch. Usually an id in it is used: those are set aside, the others go."""
        used = set() if _is_contract_wide(reason) else await self._used(token, units)
        if not used:
            await self._find_refused(claim, token, units, reason)
            return
        unused = [unit for unit in units if unit.mint_id not in used]
        if unused:
            refused = await self._preflight(token, unused)
            if refused is None:
                await self._end_hold(token)
                await self._send(claim, token, unused)
            else:
                await self._find_refused(claim, token, unused, refused)
        await self._close_used(claim, token, [unit for unit in units if unit.mint_id in used])

    async def _used(self, token: Address, units: Sequence[ClaimedMint]) -> set[MintId]:
        return await used_ids.used(self._rpc, self._terms.multicall3, token, units)

    async def _close_used(self, claim: Claim, token: Address, units: Sequence[ClaimedMint]) -> None:
        """Complete units that another transaction minted, by the token's own log.

        Only in a final block: no transaction of ours would bring the unit back if a reorg took it. And only once
        the token was read at that block or later, so that its supply is never counted as free in between.
        """
        async with session(self._pool, "read how far the chain was read") as connection:
            final = (await heads.cursor(connection, self._terms.network)).final_height
            offered = await tokens.read(connection, self._terms.network)
        synced = next((t.synced_height for t in offered if t.address == token), None)
        last = BlockNumber(min(final, -1 if synced is None else synced))
        sentence, found = USED_SENTENCE, {}
        try:
            found = await used_ids.find(self._rpc, token, units, last=last)
        except (RpcRefused, RpcUnavailable) as error:
            # An endpoint without logs holds up these units only.
            sentence = f"{USED_SENTENCE}; its log cannot be read: {error}"
        for unit in units:
            by = found.get(unit.mint_id)
            if by is None:
                continue
            async with transaction(self._pool, "complete a unit that was minted elsewhere") as connection:
                changed = await minted.write(
                    connection, self._terms.network, [(unit.mint_id, by.tx_hash)], block=by.block
                )
            self._on_changed({one.payment_id for one in changed})
            minted.count(changed)
            log.warning(
                "minted_elsewhere",
                message=f"Unit {unit.unit} of payment {unit.payment_id} was minted by {hex_text(by.tx_hash)}, which"
                " this database did not send",
                payment_id=unit.payment_id,
                queue_id=unit.id,
                tx_hash=hex_text(by.tx_hash),
            )
        waiting = [unit for unit in units if unit.mint_id not in found]
        if waiting:
            await self._postpone(claim, waiting, delay_s=_back_off_s(waiting[0]), code=USED_CODE, reason=sentence)

    async def _find_refused(
        self, claim: Claim, token: Address, units: Sequence[ClaimedMint], reason: RevertReason
    ) -> None:
        """Halve the batch until the units that the contract refuses are alone, and let the others go."""
        if _is_contract_wide(reason):
            await self._hold(token, str(reason))
            delay_s = min(BACK_OFF_S_MAX, 2.0 ** min(units[0].attempts + 1, 6))
            await self._postpone(claim, units, delay_s=delay_s, code=None, reason=f"the token refuses: {reason}")
            return
        if len(units) > 1:
            half = len(units) // 2
            for part in (units[:half], units[half:]):
                refused = await self._preflight(token, part)
                if refused is None:
                    await self._send(claim, token, part)
                else:
                    await self._find_refused(claim, token, part, refused)
            return
        unit = units[0]
        if await self._used(token, units):  # since the batch was looked through
            await self._postpone(claim, units, delay_s=_back_off_s(unit), code=USED_CODE, reason=USED_SENTENCE)
            return
        height = self._head.head.number
        if reason.name == CAP_REACHED:
            if unit.suspected_code == CAP_CODE and (unit.suspected_height or height) < height:
                await self._give_up(claim, unit)
                return
            await self._postpone(claim, [unit], delay_s=1.0, code=CAP_CODE, reason=CAP_SENTENCE)
            return
        # Paused, a role that is missing, a recipient it will not mint to: tried again, and said aloud.
        await self._hold(token, str(reason))
        delay_s = min(BACK_OFF_S_MAX, 2.0 ** min(unit.attempts + 1, 6))
        await self._postpone(claim, [unit], delay_s=delay_s, code=None, reason=f"the token refuses: {reason}")

    async def _postpone(
        self, claim: Claim, units: Sequence[ClaimedMint], *, delay_s: float, code: str | None, reason: str
    ) -> None:
        first_seen = units[0].suspected_height if units[0].suspected_code == code else None
        async with transaction(self._pool, "give a unit back", lock_timeout_s=LOCK_TIMEOUT_S) as connection:
            await mints.postpone(
                connection,
                [unit.id for unit in units],
                delay_s=delay_s,
                code=code,
                height=None if code is None else first_seen or self._head.head.number,
                reason=reason,
                claim=claim,
            )

    async def _give_up(self, claim: Claim, unit: ClaimedMint) -> None:
        async with transaction(self._pool, "write what is owed", lock_timeout_s=LOCK_TIMEOUT_S) as connection:
            await mints.lock_paid(connection, [unit.payment_id])
            given_up = await mints.mark_owed(connection, [unit.id], sentence=CAP_SENTENCE, code=CAP_CODE, claim=claim)
            debts = [Debt(o.payment_id, o.unit) for o in given_up]
            await owed.write(connection, debts, direction="to_buyer", reason=CAP_CODE)
            await tokens.add_reserved(connection, self._terms.network, {o.token: -1 for o in given_up})
        self._on_changed(o.payment_id for o in given_up)
        log.error(
            "unit_owed",
            message=f"Unit {unit.unit} of payment {unit.payment_id} cannot be minted and is owed: {CAP_SENTENCE}",
            payment_id=unit.payment_id,
            queue_id=unit.id,
        )

    async def _hold(self, token: Address, reason: str) -> None:
        async with session(self._pool, "hold a token") as connection:
            is_new = await tokens.hold(connection, self._terms.network, token, reason=reason)
        if is_new:
            log.error(
                "token_held",
                message=f"Token {checksum_address(token)} refuses to mint: {reason}. No payment for it is accepted"
                " until it mints again. Check its pause and the mint signer's MINTER_ROLE",
                token=hex_text(token),
                reason=reason,
            )

    async def _end_hold(self, token: Address) -> None:
        # Asked of the table each time: another worker, or this one before a restart, may have set it.
        async with session(self._pool, "release a token") as connection:
            was_held = await tokens.end_hold(connection, self._terms.network, token)
        if was_held:
            log.info("token_released", message=f"Token {checksum_address(token)} mints again", token=hex_text(token))

    async def _send(self, claim: Claim, token: Address, units: Sequence[ClaimedMint]) -> None:
        data = _batch_mint(units)
        ids = [u.id for u in units]

        async def store_items(connection: Connection, transaction_id: int, tx_hash: TxHash) -> None:
            await mints.lock_paid(connection, [u.payment_id for u in units])
            await transaction_items.store_mint_items(connection, transaction_id, ids)
            await mints.mark_sent(connection, ids, tx_hash=tx_hash, claim=claim)

        sent = await self._outbox.send(
            to=token,
            data=data,
            gas_limit=self._gas_limit(data, units),
            item_count=len(ids),
            store_items=store_items,
        )
        self._on_changed(u.payment_id for u in units)
        log.info(
            "mints_sent",
            message=f"📤 Sent mint tx: {len(ids)} units (nonce: {sent.nonce}, tx: {hex_text(sent.hash)[:6]}...)",
            count=len(ids),
            nonce=sent.nonce,
            tx_hash=hex_text(sent.hash),
            token=hex_text(token),
        )


def _back_off_s(unit: ClaimedMint) -> float:
    return min(BACK_OFF_S_MAX, 2.0 ** min(unit.attempts, 6))


def _is_contract_wide(reason: RevertReason) -> bool:
    return reason.name in CONTRACT_WIDE or reason.text.startswith(CONTRACT_WIDE)


def _batch_mint(units: Sequence[ClaimedMint]) -> bytes:
    return contracts.encode_batch_mint([u.recipient for u in units], [u.mint_id for u in units])
