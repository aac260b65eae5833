"""Small editions: tokens of few units, all of them paid for while somebody else mints half of them away.

So money is taken for what cannot be delivered any more, as it happens to a seller whose token has a second minter:
those units are owed, and given back from the treasury.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from flow.rig import MINT_AMOUNT, NETWORK, PRICE, Buyer, Rig

from faults.waiting import AWAY
from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import encode_batch_mint
from payfirst.errors import RetriedError
from payfirst.local.chain import dev_address, dev_key
from payfirst.store import tokens
from payfirst.units import Address, MintId, Wei, hex_text, keccak

from .buyers import Crowd

UNITS = 16
TAKEN = UNITS // 2
COLLECTORS = 4
PER_MINUTE = 2
LOOK_S = 0.1
# An edition that nobody could pay for meanwhile is left alone after so long.
WAIT_S = 45.0
RIVAL = "rival minter"


@dataclass
class Editions:
    """All editions of a run, and what the rival minted of them."""

    rig: Rig
    crowd: Crowd
    tokens: list[Address]
    collectors: list[Buyer]
    foreign: set[str] = field(default_factory=set)  # mint ids

    async def sell(self, *, seconds: float) -> None:
        """One after the other, spread over the run."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, token in enumerate(self.tokens):
            await asyncio.sleep(max(0.0, began + number * seconds / len(self.tokens) - loop.time()))
            await asyncio.gather(self._rival(token), *(self._collect(buyer, token) for buyer in self.collectors))

    async def _collect(self, buyer: Buyer, token: Address) -> None:
        for _ in range(UNITS // COLLECTORS):
            await self.crowd.order("collector", buyer, buyer.authorize(), token=token)

    async def _rival(self, token: Address) -> None:
        """Once the first payments are on their way, and no unit can be minted yet: half of the edition is gone."""
        ids = [MintId(keccak(token + bytes([n]))) for n in range(TAKEN)]
        self.foreign |= {hex_text(mint_id) for mint_id in ids}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not await self._is_paid_for(token):  # noqa: ASYNC110 - what is looked at is in the database
                    await asyncio.sleep(LOOK_S)
                while True:
                    with contextlib.suppress(RetriedError):
                        await self.rig.chain.submit(
                            token, encode_batch_mint([dev_address(RIVAL)] * TAKEN, ids), dev_key(RIVAL), gas=2_000_000
                        )
                        return
                    await asyncio.sleep(LOOK_S)

    async def _is_paid_for(self, token: Address) -> bool:
        with contextlib.suppress(*AWAY):
            return bool(
                await self.rig.pool.fetchval(
                    "SELECT count(*) > $2 FROM payment_queue"
                    " WHERE token_address = $1 AND status IN ('sent', 'completed')",
                    hex_text(token),
                    TAKEN // 2,
                    timeout=5,
                )
            )
        return False


async def editions(rig: Rig, crowd: Crowd, *, seconds: float) -> Editions:
    """Deployed, on offer, and old enough that no reorg takes them; as many as the run has time for."""
    await rig.chain.fund_gas([dev_address(RIVAL)], Wei(10**20))
    role = keccak(b"MINTER_ROLE")
    made = []
    for number in range(max(2, int(PER_MINUTE * seconds / 60))):
        token = await rig.chain.deploy(
            "MintToken", f"Edition {number}", "ED", MINT_AMOUNT, UNITS, dev_address("seller"), dev_address("mint")
        )
        for minter in ("mint 2", RIVAL):
            grant = encode_call("grantRole(bytes32,address)", role, dev_address(minter))
            await rig.chain.submit(token, grant, dev_key("seller"))
        async with rig.pool.acquire() as connection:
            await tokens.add(connection, NETWORK.caip2, token, price=PRICE)
        made.append(token)
    await rig.chain.mine(4)
    return Editions(rig, crowd, made, await rig.buyers(COLLECTORS))
