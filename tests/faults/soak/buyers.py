"""Buyers good and bad, who go on until they are told to stop. What they were promised is written down."""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from coincurve import PrivateKey
from flow.rig import PRICE, Buyer, Rig, transfer
from msgspec import structs

from payfirst.chain.abi import encode_call
from payfirst.errors import RetriedError
from payfirst.local.chain import dev_address, dev_key
from payfirst.units import Address, AtomicAmount, Wei, checksum_address, keccak
from payfirst.x402.payload import Authorization

GOOD = 5
PAUSE_S = (0.2, 0.8)
BAD_PAUSE_S = (0.5, 2.0)
RETRY_S = 0.3
# A buyer that gets no answer asks again with the same header for so long.
PATIENCE_S = 60.0
ONE_SHOTS_PER_MINUTE = 40


@dataclass
class Crowd:
    """All buyers of a run, and what they heard."""

    rig: Rig
    client: httpx.AsyncClient
    drawn: random.Random
    good: list[Buyer]
    one_shots: list[Buyer]  # with money for one unit, and gas
    promised: dict[str, str] = field(default_factory=dict)  # id → the kind of buyer that heard it
    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    complaints: list[str] = field(default_factory=list)

    async def order(
        self,
        kind: str,
        buyer: Buyer,
        authorization: Authorization,
        *,
        recipient: Address | None = None,
        token: Address | None = None,
    ) -> httpx.Response | None:
        """Ask until there is an answer that is one: the same header each time. None after PATIENCE_S without one."""
        quantity = authorization.value // PRICE
        path = f"/api/mint/{checksum_address(token or self.rig.token)}"
        return await self._post(kind, path, buyer.header(authorization), quantity, recipient)

    async def _post(
        self, kind: str, path: str, headers: dict[str, str], quantity: int, recipient: Address | None = None
    ) -> httpx.Response | None:
        body: dict[str, object] = {"quantity": quantity}
        if recipient is not None:
            body["recipient"] = checksum_address(recipient)
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while loop.time() < until:
            try:
                answer = await self.client.post(path, headers=headers, json=body)
            except httpx.HTTPError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if answer.status_code in (200, 202):
                    self.promised[answer.json()["paymentQueueId"]] = kind
                if answer.status_code not in (429, 500, 503):
                    return answer
            await asyncio.sleep(RETRY_S)
        return None

    def complain(self, kind: str, answer: httpx.Response) -> None:
        """An answer that this kind of buyer should not get."""
        self.complaints.append(f"a buyer ({kind}) was answered {answer.status_code}: {answer.text[:200]}")

    # ---- kinds -------------------------------------------------------------------------------------

    async def honest(self, buyer: Buyer) -> None:
        """Buys one to three units."""
        answer = await self.order("good", buyer, buyer.authorize(self.drawn.randint(1, 3)))
        if answer is not None and answer.status_code not in (200, 202):
            self.complain("good", answer)

    async def twice(self, buyer: Buyer) -> None:
        """Sends one header three times at once: one payment."""
        authorization = buyer.authorize()
        answers = await asyncio.gather(*(self.order("thrice at once", buyer, authorization) for _ in range(3)))
        ids = {a.json()["paymentQueueId"] for a in answers if a is not None and a.status_code in (200, 202)}
        if len(ids) > 1:
            self.complaints.append(f"one header is {len(ids)} payments: {ids}")

    async def two_orders(self, buyer: Buyer) -> None:
        """One authorization for two orders at once: one of them wins."""
        authorization = buyer.authorize()
        answers = await asyncio.gather(
            self.order("two orders", buyer, authorization),
            self.order("two orders", buyer, authorization, recipient=Address(b"\x77" * 20)),
        )
        taken = [a for a in answers if a is not None and a.status_code in (200, 202)]
        if len(taken) > 1:
            self.complaints.append("one authorization paid for two orders")

    async def penniless(self, _buyer: Buyer) -> None:
        """Signs well, and has nothing."""
        poor = Buyer(self.rig.asset)
        await self.order("penniless", poor, poor.authorize())

    async def forger(self, buyer: Buyer) -> None:
        """Signs with another's key."""
        forged = structs.replace(buyer.authorize(), payer=Buyer(self.rig.asset).address)
        answer = await self.order("forger", buyer, forged)
        if answer is not None and answer.status_code != 402:
            self.complain("forger", answer)

    async def in_a_hurry(self, buyer: Buyer) -> None:
        """Signs for seconds only: settled in time, or failed without a transfer."""
        await self.order("in a hurry", buyer, buyer.authorize(seconds=8))

    async def empties(self, _buyer: Buyer) -> None:
        """Moves the money elsewhere after the 202."""
        if (buyer := self._one_shot()) is None:
            return
        await self.order("empties the account", buyer, buyer.authorize())
        await self._submit(buyer, encode_call("transfer(address,uint256)", dev_address("elsewhere"), int(PRICE)))

    async def cancels(self, _buyer: Buyer) -> None:
        """Cancels the authorization after the 202."""
        if (buyer := self._one_shot()) is None:
            return
        authorization = buyer.authorize()
        await self.order("cancels", buyer, authorization)
        await self._submit(buyer, _cancellation(self.rig, buyer, authorization))

    async def submits_itself(self, _buyer: Buyer) -> None:
        """Submits the authorization itself after the 202: it has paid."""
        if (buyer := self._one_shot()) is None:
            return
        authorization = buyer.authorize()
        await self.order("submits itself", buyer, authorization)
        await self._submit(buyer, transfer(buyer, authorization))

    def _one_shot(self) -> Buyer | None:
        """An account for one purchase; None once all are used."""
        return self.one_shots.pop() if self.one_shots else None

    async def _submit(self, buyer: Buyer, data: bytes) -> None:
        try:
            await self.rig.chain.submit(self.rig.chain.usdc, data, buyer.key, gas=200_000)
        except RetriedError:
            self.answers["not submitted"] += 1

    # ---- going on ----------------------------------------------------------------------------------

    async def buy_until(self, stop: asyncio.Event) -> None:
        """All of them, side by side, until `stop`; what is under way then is finished."""
        spare = self.good[GOOD:]
        bad = [self.twice, self.two_orders, self.penniless, self.forger, self.in_a_hurry]
        once = [self.empties, self.cancels, self.submits_itself]
        await asyncio.gather(
            *(self._repeat(self.honest, buyer, stop, PAUSE_S) for buyer in self.good[:GOOD]),
            *(self._repeat(act, buyer, stop, BAD_PAUSE_S) for act, buyer in zip(bad, spare, strict=True)),
            *(self._repeat(act, spare[0], stop, (3.0, 6.0)) for act in once),
        )

    async def _repeat(
        self, act: Callable[[Buyer], Awaitable[None]], buyer: Buyer, stop: asyncio.Event, pause_s: tuple[float, float]
    ) -> None:
        while not stop.is_set():
            await act(buyer)
            try:
                await asyncio.wait_for(stop.wait(), self.drawn.uniform(*pause_s))
            except TimeoutError:
                continue


async def crowd(rig: Rig, client: httpx.AsyncClient, *, seed: int, seconds: float) -> Crowd:
    """Buyers with money, enough of them for a run."""
    good = await rig.buyers(GOOD + 5)
    one_shots = await rig.buyers(int(ONE_SHOTS_PER_MINUTE * max(1, seconds / 60)), funds=AtomicAmount(PRICE))
    await rig.chain.fund_gas([buyer.address for buyer in one_shots], Wei(10**18))
    # Buyers draw from numbers of their own: how often they ask does not change the schedule of faults.
    return Crowd(rig, client, random.Random(seed + 1), good, one_shots)  # noqa: S311


def _cancellation(rig: Rig, buyer: Buyer, authorization: Authorization) -> bytes:
    """The calldata of cancelAuthorization, signed by the payer (EIP-3009)."""
    typehash = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(typehash + bytes(12) + buyer.address + authorization.nonce)
    digest = keccak(b"\x19\x01" + rig.asset.domain_separator + struct)
    signature = PrivateKey(buyer.key).sign_recoverable(digest, hasher=None)
    return encode_call(
        "cancelAuthorization(address,bytes32,bytes)",
        buyer.address,
        authorization.nonce,
        signature[:64] + bytes([signature[64] + 27]),
    )


def gas_payers() -> list[Address]:
    """Accounts that need gas besides the first two signers."""
    return [dev_address(name) for name in ("settle 2", "mint 2", "refund", "refund 2", "seller")]


def grant_to_the_second_minter() -> tuple[bytes, bytes]:
    """Calldata and key by which the seller lets a second signer mint."""
    grant = encode_call("grantRole(bytes32,address)", keccak(b"MINTER_ROLE"), dev_address("mint 2"))
    return grant, dev_key("seller")
