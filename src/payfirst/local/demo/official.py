"""Act (a): good payments by the official Python x402 client, both generations, each followed until it is minted."""

from __future__ import annotations

import asyncio
import importlib
import random
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from payfirst.errors import OperatorError
from payfirst.local.demo.accounts import OFFICIAL_BUYERS, Person, people
from payfirst.local.demo.answers import PaymentAnswer, follow
from payfirst.local.demo.outcome import Outcome, Paid
from payfirst.local.demo.stage import QUANTITY_MAX, Stage
from payfirst.units import hex_text

if TYPE_CHECKING:
    from x402 import x402Client

PURCHASES = 200
# One process signs with the official client: this many a second leave both cores room for what is measured.
PURCHASES_PER_S = 32
AT_ONCE_MAX = 20
FIRST_LOOK_S = 1.0
FOLLOW_S_MAX = 60.0
SEED = 4021
# Every third buyer speaks the first generation of the protocol.
V1_EVERY = 3


class ClientMissing(OperatorError):
    """The official client is not installed."""


def load_client() -> None:
    """Import the official client, which takes a second. Raises ClientMissing."""
    try:
        for module in ("httpx", "eth_account", "x402", "x402.http.clients.httpx", "x402.mechanisms.evm.exact.register"):
            importlib.import_module(module)
    except ImportError as error:
        raise ClientMissing(
            f"the demo buys with the official x402 client, and {error.name or 'it'} is not installed:"
            " pip install 'payfirst[demo]', or 'payfirst-VERSION-py3-none-any.whl[demo]' from a wheel. It also needs"
            " anvil, the local chain: Foundry's, on PATH or named in PAYFIRST_ANVIL. In a source checkout make demo"
            " sets up both"
        ) from error


async def buy_all(stage: Stage, *, progress: Callable[[int], None]) -> Outcome:
    """Two hundred purchases of 1 to 10 units, spread over seconds; returns when each is minted or has failed."""
    outcome = Outcome()
    buyers = [_Buyer(one, version=1 if n % V1_EVERY == 0 else 2) for n, one in enumerate(people_who_buy())]
    quantities = random.Random(SEED)  # noqa: S311 - the same purchases in each run, no secret
    slots = asyncio.Semaphore(AT_ONCE_MAX)
    shop = _Shop(stage)
    followed = 0

    async def purchase(buyer: _Buyer, quantity: int) -> None:
        nonlocal followed
        async with slots:
            paid = await shop.buy(buyer, quantity, outcome)
        if paid is None:
            return
        outcome.accepted += 1
        outcome.paid.append(paid)
        url = f"{stage.base_url}/api/payment/{paid.payment_id}"
        ended = await follow(stage.http, url, first_look_s=FIRST_LOOK_S, deadline_s=FOLLOW_S_MAX)
        if ended is None or not ended.is_minted:
            outcome.faults.append(f"{paid.payment_id} was not minted: {ended}")
        followed += 1
        progress(followed)

    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(PURCHASES):
            group.create_task(purchase(buyers[number % len(buyers)], quantities.randint(1, QUANTITY_MAX)))
            await asyncio.sleep(max(0.0, started + (number + 1) / PURCHASES_PER_S - loop.time()))
    await shop.close()
    return outcome


def people_who_buy() -> list[Person]:
    """The buyers of this act."""
    return people("buyer", OFFICIAL_BUYERS)


class _Buyer:
    """A person with the official client in hand."""

    def __init__(self, buyer: Person, *, version: int) -> None:
        from eth_account import Account
        from x402 import x402Client
        from x402.mechanisms.evm.exact.register import register_exact_evm_client
        from x402.mechanisms.evm.signers import EthAccountSigner

        self.version = version
        signer = EthAccountSigner(Account.from_key(hex_text(buyer.key)))
        self.client: x402Client = register_exact_evm_client(x402Client(), signer)


class _Shop:
    """The way to the API: one pool of connections for all buyers, as a proxy in front of them would have."""

    def __init__(self, stage: Stage) -> None:
        import httpx

        self._url = stage.base_url + stage.mint_path
        # trust_env: a proxy of the user's environment is not for this machine itself.
        self._connections = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=AT_ONCE_MAX), trust_env=False)

    async def close(self) -> None:
        await self._connections.aclose()

    async def buy(self, buyer: _Buyer, quantity: int, outcome: Outcome) -> Paid | None:
        """One purchase by the client's own way: an offer, a signature, an answer. Faults go into `outcome`."""
        import httpx
        from x402.http.clients.httpx import PaymentError, x402AsyncTransport

        sent: list[tuple[str, str]] = []
        connections = self._connections

        class Wire(httpx.AsyncBaseTransport):
            """Notes the payment header, and shows a first-generation buyer only what that generation reads."""

            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                sent.extend((n, request.headers[n]) for n in ("X-PAYMENT", "PAYMENT-SIGNATURE") if n in request.headers)
                response = await connections.handle_async_request(request)
                if buyer.version == 1 and "payment-required" in response.headers:
                    del response.headers["payment-required"]
                return response

        client = httpx.AsyncClient(transport=x402AsyncTransport(buyer.client, Wire()), trust_env=False, timeout=30)
        try:
            response = await client.post(self._url, json={"quantity": quantity})
        except (httpx.HTTPError, PaymentError) as error:
            outcome.faults.append(f"a purchase failed: {type(error).__name__}: {error}")
            return None
        if response.status_code != 202 or len(sent) != 1:
            outcome.faults.append(f"a purchase was answered {response.status_code}: {response.text[:200]}")
            return None
        answer = msgspec.json.decode(response.content, type=PaymentAnswer)
        return Paid(uuid.UUID(str(answer.payment_queue_id)), quantity, sent[0])
