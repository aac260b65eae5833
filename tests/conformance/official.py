"""The official clients, each buying once over HTTP: what was answered, and which header paid."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import requests
from eth_account import Account
from requests.adapters import HTTPAdapter
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import x402AsyncTransport
from x402.http.clients.requests import x402HTTPAdapter
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner

from payfirst.local import node
from payfirst.units import hex_text

NPM = Path(__file__).parent / "npm"
OFFER_HEADER = "payment-required"  # what an older client would not look at
PAYMENT_HEADERS = {"v1": "x-payment", "v2": "payment-signature"}
NODE_TIMEOUT_S = 90


@dataclass(frozen=True)
class Case:
    """One client speaking one generation of the protocol."""

    package: str
    generation: str
    by: str  # the HTTP library under it

    def __str__(self) -> str:
        return f"{self.package} ({self.by}) {self.generation}"


@dataclass(frozen=True)
class Bought:
    """The answer to the paid request; header names in lower case."""

    status: int
    body: dict[str, Any]
    headers: frozenset[str]
    paid_with: frozenset[str]
    version: str  # of the client, read from what is installed


PYTHON = [Case("x402", generation, by) for by in ("httpx", "requests") for generation in ("v2", "v1")]
JAVASCRIPT = [
    Case("@x402/fetch", "v2", "fetch"),
    Case("@x402/fetch", "v1", "fetch"),
    Case("@x402/axios", "v2", "axios"),
    Case("@x402/axios", "v1", "axios"),
    Case("x402-fetch", "v1", "fetch"),
    Case("x402-axios", "v1", "axios"),
]


async def buy(case: Case, url: str, key: bytes, quantity: int) -> Bought:
    """POST to the mint route at `url` through the client, and let it pay."""
    if case in JAVASCRIPT:
        return await _buy_with_node(case, url, key, quantity)
    body, headers, status, paid_with = await _PYTHON_BUYERS[case.by](case.generation, url, key, quantity)
    return Bought(status, body, _names(headers), paid_with, importlib.metadata.version(case.package))


_Answer = tuple[dict[str, Any], Mapping[str, str], int, frozenset[str]]


async def _buy_with_httpx(generation: str, url: str, key: bytes, quantity: int) -> _Answer:
    client = register_exact_evm_client(x402Client(), EthAccountSigner(Account.from_key(key)))
    paid_with: set[str] = set()

    class OneGeneration(httpx.AsyncHTTPTransport):
        """Hides the offer of the other generation."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            paid_with.update(_paying(request.headers))
            response = await super().handle_async_request(request)
            if generation == "v1" and OFFER_HEADER in response.headers:
                del response.headers[OFFER_HEADER]
            return response

    async with httpx.AsyncClient(transport=x402AsyncTransport(client, OneGeneration())) as http:
        response = await http.post(url, json={"quantity": quantity})
    return response.json(), response.headers, response.status_code, frozenset(paid_with)


async def _buy_with_requests(generation: str, url: str, key: bytes, quantity: int) -> _Answer:
    client = register_exact_evm_client(x402ClientSync(), EthAccountSigner(Account.from_key(key)))
    paid_with: set[str] = set()

    class OneGeneration(HTTPAdapter):
        """Hides the offer of the other generation."""

        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            paid_with.update(_paying(request.headers))
            response = super().send(request, *args, **kwargs)
            if generation == "v1":
                response.headers.pop(OFFER_HEADER, None)
            return response

    class Paying(x402HTTPAdapter, OneGeneration):
        """The official adapter on top of that."""

    def post() -> requests.Response:
        with requests.Session() as session:
            session.mount("http://", Paying(client))
            return session.post(url, json={"quantity": quantity}, timeout=30)

    response = await asyncio.to_thread(post)
    return response.json(), response.headers, response.status_code, frozenset(paid_with)


async def _buy_with_node(case: Case, url: str, key: bytes, quantity: int) -> Bought:
    process = await asyncio.create_subprocess_exec(
        node.node(), "buy.mjs", case.package, case.generation, url, str(quantity),
        cwd=NPM,
        env={"PATH": os.environ["PATH"], "BUYER_KEY": hex_text(key)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(NODE_TIMEOUT_S):
        output, errors = await process.communicate()
    assert process.returncode == 0, f"{case}: {errors.decode()[-2000:]}"
    said = json.loads(output.decode().splitlines()[-1])
    # It polled statusUrl, as a page would.
    assert [mint["status"] for mint in said["payment"]["mints"]] == ["completed"] * quantity, said
    answer = said["answer"]
    return Bought(
        answer["status"], answer["body"], _names(answer["headers"]), frozenset(said["paidWith"]), said["version"]
    )


_PYTHON_BUYERS: dict[str, Callable[[str, str, bytes, int], Awaitable[_Answer]]] = {
    "httpx": _buy_with_httpx,
    "requests": _buy_with_requests,
}


def _names(headers: Any) -> frozenset[str]:
    return frozenset(str(name).lower() for name in headers)


def _paying(headers: Any) -> set[str]:
    return set(_names(headers)) & set(PAYMENT_HEADERS.values())
