"""What `payfirst doctor` asks of the chain: each endpoint by itself, and who was paid lately."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from payfirst.chain.blocks import Head
from payfirst.chain.endpoints import Endpoint
from payfirst.chain.evidence import TRANSFER, PaidTransfer, paid_transfers
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.units import AccountNonce, Address, BlockNumber, Wei, hex_text

ENDPOINT_S = 5.0
# Looked at among the newest transfers to payTo; enough to see whether another payfirst sells there.
TRANSACTIONS_MAX = 200


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What one endpoint says; `error` where it does not. `label` has its number and host, nothing secret."""

    label: str
    chain_id: int | None = None
    head: Head | None = None
    latency_s: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """An account at the head."""

    nonce: AccountNonce
    balance: Wei


async def look_at(number: int, url: str) -> EndpointFacts:
    """Ask one endpoint for its chain and its head; never longer than `ENDPOINT_S`."""
    label = Endpoint(number, url, is_alone=True).label
    try:
        async with asyncio.timeout(ENDPOINT_S), RpcClient((url,), timeout_s=ENDPOINT_S) as rpc:
            chain_id = await rpc.chain_id()  # the connection is made here, so that the next one measures the endpoint
            started = time.perf_counter()
            head = await rpc.head()
            return EndpointFacts(label, chain_id, head, time.perf_counter() - started)
    except (RpcRefused, RpcUnavailable) as error:
        return EndpointFacts(label, error=str(error))
    except TimeoutError:
        return EndpointFacts(label, error=f"no answer within {ENDPOINT_S:.0f} s")


async def account(rpc: RpcClient, address: Address) -> AccountFacts:
    """Nonce and balance of an account."""
    nonce, balance = await asyncio.gather(rpc.account_nonce(address), rpc.balance(address))
    return AccountFacts(nonce, balance)


async def paid_to(
    rpc: RpcClient, *, asset: Address, pay_to: Address, first: BlockNumber, last: BlockNumber
) -> list[PaidTransfer]:
    """The newest transfers of `asset` to `pay_to` that authorizations paid for, between two heights."""
    topics = [hex_text(TRANSFER), None, hex_text(bytes(12) + pay_to)]
    hashes = await rpc.logs(address=asset, topics=topics, first=first, last=last)
    receipts = await rpc.receipts(hashes[-TRANSACTIONS_MAX:])
    return [
        transfer
        for receipt in receipts
        if receipt is not None
        for transfer in paid_transfers(receipt, asset=asset)
        if transfer.pay_to == pay_to
    ]
