"""The official Python x402 client, by httpx and by requests, in both generations, buys to the minted end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import requests
from eth_account import Account
from flow.rig import MINT_AMOUNT, PAY_TO, Rig, open_rig
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import x402AsyncTransport
from x402.http.clients.requests import x402_requests
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner

from payfirst.local import children
from payfirst.store.database import Pool
from payfirst.units import checksum_address

SETTLEMENT_HEADERS = ("payment-response", "x-payment-response")


@contextlib.asynccontextmanager
async def serving(rig: Rig) -> AsyncIterator[str]:
    """`payfirst serve` over TCP, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": rig.database_url,
        "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
        "PAYFIRST_NETWORK__RPC_URLS": "http://127.0.0.1:1",  # unreachable: there is no RPC in the API
        "PAYFIRST_SERVER__PORT": str(port),
    }
    process = await children.start(children.api(env=environment), output=asyncio.subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{url}/ready")).status_code == 200
                return False

            await rig.until(ready)
            yield url
    finally:
        await children.stop(process)


@pytest.fixture
async def shop(database_url: str, pool: Pool) -> AsyncIterator[tuple[Rig, str]]:
    """A rig with a worker, and the API over TCP."""
    async with open_rig(database_url, pool) as rig, rig.working(), serving(rig) as url:
        yield rig, f"{url}/api/mint/{checksum_address(rig.token)}"


async def test_httpx_buys_and_is_minted(shop: tuple[Rig, str]) -> None:
    """202, no settlement header, and two tokens in the wallet."""
    rig, url = shop
    (buyer,) = await rig.buyers(1)
    signer = EthAccountSigner(Account.from_key(buyer.key))
    client = register_exact_evm_client(x402Client(), signer)
    async with httpx.AsyncClient(transport=x402AsyncTransport(client)) as http:
        response = await http.post(url, json={"quantity": 2})
    await _check(rig, response.status_code, response.json(), {k.lower() for k in response.headers}, buyer.address)


async def test_requests_buys_and_is_minted(shop: tuple[Rig, str]) -> None:
    """The synchronous client, the same way."""
    rig, url = shop
    (buyer,) = await rig.buyers(1)
    client = register_exact_evm_client(x402ClientSync(), EthAccountSigner(Account.from_key(buyer.key)))

    def buy() -> requests.Response:
        with x402_requests(client) as session:
            return session.post(url, json={"quantity": 2}, timeout=30)

    response = await asyncio.to_thread(buy)
    await _check(rig, response.status_code, response.json(), {k.lower() for k in response.headers}, buyer.address)


async def _check(rig: Rig, status: int, body: dict[str, object], headers: set[str], buyer: bytes) -> None:
    assert status == 202, body
    assert body["status"] == "payment_pending"
    assert not headers & set(SETTLEMENT_HEADERS)
    await rig.until_counts(payments_completed=1, mints_completed=2)
    assert await rig.balance(rig.token, buyer) == 2 * MINT_AMOUNT  # type: ignore[arg-type]  # an address
    await rig.check_invariants()


@pytest.mark.parametrize("version", [1, 2])
async def test_each_generation_of_the_offer_is_paid(shop: tuple[Rig, str], version: int) -> None:
    """A client that knows only one generation finds its offer in the same 402."""
    rig, url = shop
    (buyer,) = await rig.buyers(1)
    client = register_exact_evm_client(x402Client(), EthAccountSigner(Account.from_key(buyer.key)))

    class OneGeneration(httpx.AsyncHTTPTransport):
        """Hides the v2 header from the client, as an old one would not see it."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if version == 1 and "payment-required" in response.headers:
                del response.headers["payment-required"]
            self.paid_with = {"x-payment", "payment-signature"} & {k.lower() for k in request.headers}
            return response

    transport = OneGeneration()
    async with httpx.AsyncClient(transport=x402AsyncTransport(client, transport)) as http:
        response = await http.post(url, json={"quantity": 2})
    assert transport.paid_with == ({"x-payment"} if version == 1 else {"payment-signature"})
    await _check(rig, response.status_code, response.json(), {k.lower() for k in response.headers}, buyer.address)
