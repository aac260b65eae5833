"""Look after stuck payments on an operator's word, from outside the workers and without any key.

The chain is asked first. Stored bytes are sent again from here; other bytes need the signer's key, so they are asked
for in the transaction's row, and the worker that holds the signer makes them under the same account nonce.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from payfirst.chain import contracts, depth
from payfirst.chain.blocks import Head
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.lifecycle import MintStatus, PaymentStatus, TransactionState
from payfirst.pipeline.reset_plan import ChainView, Mined, ResetStep, plan_reset
from payfirst.store import attempts, audit_log, heads, resetting, story
from payfirst.store.database import Pool, session, transaction
from payfirst.store.resetting import Unresolved
from payfirst.store.story import Story
from payfirst.units import (
    AccountNonce,
    Address,
    AuthorizationNonce,
    Depth,
    TxHash,
    hex_text,
    parse_address,
    parse_bytes32,
)

LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Chain:
    """Which chain is asked, and what counts as confirmed there."""

    network: str
    asset: Address
    multicall3: Address
    confirmations: Depth


@dataclass(slots=True)
class Reset:
    """What was found of one payment and what was done, in sentences; `advice` is left for the operator."""

    payment_id: uuid.UUID
    found: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    transaction_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Act:
    sent: Unresolved
    step: ResetStep


async def reset(
    pool: Pool, rpc: RpcClient, ids: Sequence[uuid.UUID], *, chain: Chain, actor: str, wait_s: float
) -> list[Reset]:
    """Look after the unresolved transactions of some payments and of their units; `wait_s` for the workers' answer.

    Raises RetriedError when the chain or the database cannot be asked: then nothing was done.
    """
    async with session(pool, "read stuck payments") as connection:
        stories = await story.read(connection, ids)
        signers = sorted({c.signer for s in stories for c in s.carriers if c.state is TransactionState.SENT})
        unresolved = await resetting.unresolved(connection, chain.network, signers)
    known_ids = {s.payment.id for s in stories}
    resets = [Reset(i, found=["there is no such payment"]) for i in ids if i not in known_ids]
    head = await rpc.head()
    confirmations = await depth.in_blocks(rpc, chain.confirmations, head=head)
    next_nonces = {parse_address(s): await rpc.account_nonce(parse_address(s)) for s in signers}
    wanted = _wanted(stories, unresolved, next_nonces)
    views = await _look(rpc, [unresolved[i] for i in sorted(wanted)], head, next_nonces)
    # The receipts were read before: a block that the workers read meanwhile is not taken for one they passed over.
    async with session(pool, "read the chain cursor") as connection:
        cursor = (await heads.cursor(connection, chain.network)).block.height
    acts = {
        sent.id: _Act(
            sent,
            plan_reset(
                sent,
                view,
                stored_nonces=[u.nonce for u in unresolved if u.signer == sent.signer],
                cursor=cursor,
                confirmations=confirmations,
            ),
        )
        for sent, view in views
    }
    authorizations = await _authorizations(rpc, stories, chain, head)
    told = [_tell(s, acts, authorizations) for s in stories]
    did = await _act(pool, rpc, acts, told, actor=actor)
    answered = await _answers(pool, acts, wait_s=wait_s)
    for one in told:
        for transaction_id in one.transaction_ids:
            one.did += did[transaction_id]
            one.did += answered.get(transaction_id, [])
    return [*told, *resets]


def _wanted(
    stories: Sequence[Story], unresolved: Sequence[Unresolved], next_nonces: dict[Address, AccountNonce]
) -> set[int]:
    """Which of `unresolved` to look after: what carries the payments, and what keeps that from being mined."""
    carrying = {c.id for s in stories for c in s.carriers if c.state is TransactionState.SENT}
    return {
        place
        for place, sent in enumerate(unresolved)
        if sent.id in carrying or sent.nonce == next_nonces.get(sent.signer)
    }


async def _look(
    rpc: RpcClient, wanted: Sequence[Unresolved], head: Head, next_nonces: dict[Address, AccountNonce]
) -> list[tuple[Unresolved, ChainView]]:
    hashes = [attempt.hash for sent in wanted for attempt in sent.attempts]
    receipts = dict(zip(hashes, await rpc.receipts(hashes) if hashes else [], strict=True))
    views = []
    for sent in wanted:
        receipt = next((r for a in sent.attempts if (r := receipts[a.hash]) is not None), None)
        views.append(
            (
                sent,
                ChainView(
                    head=head.number,
                    base_fee=head.base_fee,
                    account_nonce=next_nonces[sent.signer],
                    mined=None if receipt is None else Mined(receipt.tx_hash, receipt.block_number),
                    known=receipt is not None or await rpc.is_known(sent.attempts[-1].hash),
                ),
            )
        )
    return views


async def _authorizations(rpc: RpcClient, stories: Sequence[Story], chain: Chain, head: Head) -> dict[uuid.UUID, str]:
    """What the asset says at the head of the authorizations that are on their way, in words."""
    sent = [s.payment for s in stories if s.payment.status is PaymentStatus.SENT]
    if not sent:
        return {}
    calls = [
        (
            chain.asset,
            contracts.encode_call(
                "authorizationState(address,bytes32)",
                parse_address(p.payer),
                AuthorizationNonce(parse_bytes32(p.authorization_nonce)),
            ),
        )
        for p in sent
    ]
    answers = contracts.decode_aggregate3(
        await rpc.eth_call(to=chain.multicall3, data=contracts.encode_aggregate3(calls), at=head.hash)
    )
    words = {}
    for payment, (ok, data) in zip(sent, answers, strict=True):
        if not ok or len(data) != 32:
            words[payment.id] = "the asset does not say whether its authorization is used"
        elif any(data):
            words[payment.id] = "its authorization is used at the head: the workers credit it when they read that block"
        elif payment.valid_before <= head.time:
            words[payment.id] = "its authorization ended unused: no money moves for it any more"
        else:
            words[payment.id] = "its authorization is unused"
    return words


def _tell(one: Story, acts: dict[int, _Act], authorizations: dict[uuid.UUID, str]) -> Reset:
    """What was found for one payment, and which transactions are looked after for its sake."""
    payment = one.payment
    told = Reset(payment.id)
    live = [c for c in one.carriers if c.state is TransactionState.SENT and c.id in acts]
    if not live:
        is_late = payment.status is PaymentStatus.SENT or any(u.status is MintStatus.SENT for u in one.units)
        told.found.append(
            f"it is {payment.status}, and no transaction on its way carries it"
            + (": compare the database with the chain" if is_late else ": there is nothing to reset")
        )
        return told
    if (words := authorizations.get(payment.id)) is not None:
        told.found.append(words)
    signers = {parse_address(c.signer) for c in live}
    carrying = {c.id for c in live}
    # First what is before it in its signer's line.
    for act in sorted(acts.values(), key=lambda a: (a.sent.signer, a.sent.nonce)):
        before = act.sent.signer in signers and any(
            acts[c].sent.signer == act.sent.signer and act.sent.nonce < acts[c].sent.nonce for c in carrying
        )
        if act.sent.id not in carrying and not before:
            continue
        told.transaction_ids.append(act.sent.id)
        told.found.append(act.step.found)
        if act.step.advice is not None:
            told.advice.append(act.step.advice)
        if act.step.replace and not act.sent.held:
            told.advice.append(_nobody_signs(act.sent))
    return told


def _nobody_signs(sent: Unresolved) -> str:
    signer = hex_text(sent.signer)
    if sent.paused_reason is not None:
        return f"Its signer is paused ({sent.paused_reason}): payfirst signers resume {signer} lets it bid higher"
    return f"No worker holds its signer {signer}: start one that has its key, and it makes the replacement"


async def _act(
    pool: Pool, rpc: RpcClient, acts: dict[int, _Act], told: Sequence[Reset], *, actor: str
) -> dict[int, list[str]]:
    """Ask for replacements, then send stored bytes; each is on record before it is done."""
    did: dict[int, list[str]] = {transaction_id: [] for transaction_id in acts}
    for transaction_id, act in acts.items():
        sent, step = act.sent, act.step
        subjects = [one.payment_id for one in told if transaction_id in one.transaction_ids]
        if not subjects or not (step.replace or step.send_again):
            continue
        async with transaction(pool, "ask for a replacement") as connection:
            asked = step.replace and await resetting.request_replacement(connection, transaction_id)
            for subject in subjects:
                await audit_log.record(
                    connection,
                    actor=actor,
                    action="payments.reset-stuck",
                    subject=str(subject),
                    details={
                        "signer": hex_text(sent.signer),
                        "accountNonce": sent.nonce,
                        "found": step.found,
                        "sentAgain": step.send_again,
                        "replacementAsked": asked,
                    },
                )
        if step.send_again:
            did[transaction_id].append(await _send_again(pool, rpc, sent))
        if asked:
            did[transaction_id].append(f"asked for a replacement of nonce {sent.nonce} at a higher fee")
    return did


async def _send_again(pool: Pool, rpc: RpcClient, sent: Unresolved) -> str:
    newest = sent.attempts[-1]
    said: str | None = None
    try:
        await rpc.broadcast(newest.signed)
    except (RpcRefused, RpcUnavailable) as error:
        said = str(error)  # unknown, not failed: "already known" is no harm
    async with session(pool, "note a broadcast") as connection:
        await attempts.note_broadcast(connection, newest.hash, error=said)
    did = f"sent the stored bytes of nonce {sent.nonce} again ({hex_text(newest.hash)})"
    return did if said is None else f"{did}; the node said: {said}"


async def _answers(pool: Pool, acts: dict[int, _Act], *, wait_s: float) -> dict[int, list[str]]:
    """What the workers made of the wishes, for as long as it is waited for."""
    asked = {i: a.sent for i, a in acts.items() if a.step.replace}
    if not asked:
        return {}
    loop = asyncio.get_running_loop()
    until = loop.time() + (wait_s if any(sent.held for sent in asked.values()) else 0)
    while True:
        async with session(pool, "look for replacements") as connection:
            found = {answer.id: answer for answer in await resetting.answers(connection, list(asked))}
        if not any(answer.waits for answer in found.values()) or loop.time() >= until:
            break
        await asyncio.sleep(LOOK_S)
    words: dict[int, list[str]] = {}
    for transaction_id, sent in asked.items():
        answer = found[transaction_id]
        if answer.state is not TransactionState.SENT:
            words[transaction_id] = [f"nonce {sent.nonce} was mined meanwhile"]
        elif answer.waits:
            words[transaction_id] = ["no worker has made the replacement yet: the wish stays until one does"]
        elif TxHash(parse_bytes32(answer.hash)) != sent.attempts[-1].hash:
            kind = "a no-op that gives the nonce up" if answer.is_noop else "the same call"
            words[transaction_id] = [f"the worker sent {kind} at {answer.max_fee_wei} wei a gas ({answer.hash})"]
    return words
