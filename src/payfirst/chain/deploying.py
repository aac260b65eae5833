"""Sending the deployment of a token, and waiting until it stands.

Nothing has to be stored before it is sent: CREATE2 gives the token one address, so whatever became of an earlier
attempt is seen there, and the same transaction once more can make no second token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from payfirst.chain import deployment
from payfirst.chain.blocks import Head
from payfirst.chain.deployment import NewToken
from payfirst.chain.depth import newest
from payfirst.chain.fees import Fees, fees_at
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.chain.signers import SignedTransaction, Signer
from payfirst.chain.token_check import has_code
from payfirst.errors import OperatorError, RetriedError
from payfirst.units import AccountNonce, Address, BlockNumber, Depth, Gas, Wei, checksum_address, hex_text

# What a layer 2 charges for its layer 1 comes on top of the gas: a tenth is more than it has asked for.
COST_MARGIN_NUMERATOR, COST_MARGIN_DENOMINATOR = 11, 10
# Between the estimate and the block the same creation costs the same; a fifth covers what nodes count differently.
GAS_MARGIN_NUMERATOR, GAS_MARGIN_DENOMINATOR = 6, 5
STANDS_TIMEOUT_S = 600.0
BROADCAST_EVERY_S = 15.0

# What a node says of a transaction that it has, or whose account nonce has been used: the address tells the rest.
_SEEN_WORDS = ("already known", "known transaction", "already imported", "already exists", "underpriced", "nonce")

Say = Callable[[str], None]


class DeploymentRefused(OperatorError):
    """The token cannot be deployed as asked; nothing was sent, or what was sent was taken back whole."""


class NotThereYet(RetriedError):
    """The deployment was sent and is in no block yet; the same command again goes on from here."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the deployment may cost at most, in wei, of which most is usually not spent."""

    gas_limit: Gas
    fees: Fees

    @property
    def most(self) -> Wei:
        """The gas limit at the highest bid, and a margin for the data of a layer 2."""
        return Wei(self.gas_limit * self.fees.max_fee * COST_MARGIN_NUMERATOR // COST_MARGIN_DENOMINATOR)


async def estimate(rpc: RpcClient, token: NewToken, *, sender: Address, priority_fee: Wei, max_fee: Wei) -> Cost:
    """What `sender` has to have. Raises DeploymentRefused where the chain would not take the deployment."""
    if not await has_code(rpc, deployment.PROXY):
        raise DeploymentRefused(
            f"the deterministic deployment proxy is not at {checksum_address(deployment.PROXY)} on this chain:"
            " deploy the contract by other means, and offer it with payfirst tokens add"
        )
    fees = fees_at((await rpc.head()).base_fee, priority_fee=priority_fee, max_fee_cap=max_fee)
    if fees is None:
        raise DeploymentRefused("the base fee is above network.max_fee_gwei: wait until it falls, or raise the cap")
    call = {"from": hex_text(sender), "to": hex_text(deployment.PROXY), "data": hex_text(deployment.calldata(token))}
    try:
        gas = int(await rpc.call("eth_estimateGas", call, "latest", result=str), 16)
    except RpcRefused as refused:
        if not refused.is_execution:
            raise
        raise DeploymentRefused(f"the chain refuses the deployment: {refused.message}") from refused
    return Cost(Gas(gas * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR), fees)


def sign(token: NewToken, signer: Signer, *, chain_id: int, nonce: AccountNonce, cost: Cost) -> SignedTransaction:
    """The deployment, ready to be sent with `broadcast`."""
    return signer.sign(
        chain_id=chain_id,
        nonce=nonce,
        to=deployment.PROXY,
        data=deployment.calldata(token),
        gas_limit=cost.gas_limit,
        fees=cost.fees,
    )


async def broadcast(rpc: RpcClient, signed: SignedTransaction) -> None:
    """Send it. Whether it arrived is not known when nobody answers: `until_it_stands` looks. Raises RpcRefused."""
    try:
        await rpc.broadcast(signed.signed)
    except RpcUnavailable:
        return
    except RpcRefused as refused:
        if not any(word in refused.message.lower() for word in _SEEN_WORDS):
            raise


async def until_it_stands(
    rpc: RpcClient,
    token: Address,
    signed: SignedTransaction,
    *,
    confirmations: Depth,
    poll_s: float,
    say: Say,
) -> BlockNumber:
    """Return the head once the token's code has stood for `confirmations` blocks, whoever deployed it.

    Raises DeploymentRefused when the transaction was mined without it, NotThereYet after ten minutes.
    """
    since: BlockNumber | None = None
    loop = asyncio.get_running_loop()
    sent_at = loop.time()
    try:
        async with asyncio.timeout(STANDS_TIMEOUT_S):
            while True:
                with contextlib.suppress(RetriedError):  # an endpoint that is away for a moment decides nothing
                    since, head = await _look(rpc, token, signed, since=since, say=say)
                    if since is not None and since <= await newest(rpc, confirmations, head=head):
                        return head.number
                    if since is None and loop.time() - sent_at >= BROADCAST_EVERY_S:
                        sent_at = loop.time()
                        await broadcast(rpc, signed)
                await asyncio.sleep(poll_s)
    except TimeoutError:
        raise NotThereYet(
            f"{hex_text(signed.hash)} is not confirmed after {STANDS_TIMEOUT_S:.0f} s:"
            " run the same command again, it goes on from here and deploys nothing twice"
        ) from None


async def _look(
    rpc: RpcClient, token: Address, signed: SignedTransaction, *, since: BlockNumber | None, say: Say
) -> tuple[BlockNumber | None, Head]:
    """Since which block the token is known to stand, None if it does not; and the head."""
    head = await rpc.head()
    if await has_code(rpc, token):
        if since is None:
            say(f"it stands, seen in block {head.number}")
        return since if since is not None else head.number, head
    if since is not None:
        say("a reorg took it: waiting for it again")
    (receipt,) = await rpc.receipts([signed.hash])
    if receipt is not None and not receipt.succeeded and not await has_code(rpc, token):
        raise DeploymentRefused(
            f"{hex_text(signed.hash)} was mined in block {receipt.block_number} and deployed nothing:"
            " it ran out of gas, or the chain's rules refuse the contract"
        )
    return None, head
