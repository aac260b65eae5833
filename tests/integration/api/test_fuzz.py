"""Whatever a client sends is answered, as documented and never with a 5xx; and no bytes end the server.

How many requests were sent stands in the output: `pytest -rP tests/integration/api/test_fuzz.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import Message

from payfirst.api import health
from payfirst.store.database import Pool
from payfirst.units import checksum_address, hex_text

from . import shop_sql
from .contract import DOCUMENT
from .refused import good
from .shop import BASE_URL, MINT_PATH, TOKEN, Buyer, Document, Shop, configure, open_shop, running
from .test_server import serving

OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
# Awaits on the event loop from another thread.
Wait = Callable[[Awaitable[Any]], Any]
# The same requests each time: a fuzz test that fails now and then would be run again, not read.
STEADY: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": list(HealthCheck),
}
BUYER = Buyer()
FIND_PATH = "/api/payment"
FEW, MANY = 20, 500
WAIT_S = 30
ANSWERS_WITHIN_S = 0.05


# Nobody beats for the workers while thousands of requests are sent, and all payments are one buyer's.
PATIENT = {"payments__heartbeat_max_age_s": "3600", "payments__payer_outstanding_max": "1000000"}


@pytest.fixture
async def shop(database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """A shop that stays open, also while the test keeps its process from asking the database."""
    monkeypatch.setattr(health, "SNAPSHOT_AGE_S_MAX", 3_600.0)
    await open_shop(pool)
    async with running(configure(database_url, **PATIENT), pool) as opened:
        yield opened


@dataclass
class Sent:
    """What was sent, by status."""

    statuses: Counter[int] = field(default_factory=Counter)

    def add(self, status: int) -> None:
        """One answer, which must not be a failure of ours: the shop is open and its database is there."""
        self.statuses[status] += 1
        assert status < 500, status

    def report(self, least: int) -> None:
        """Say it; fewer than `least` would mean that the test sends nothing."""
        total = sum(self.statuses.values())
        print(f"requests: {total}, of them 5xx: 0, by status: {dict(sorted(self.statuses.items()))}")
        assert total >= least


async def in_thread(run: Callable[[Wait], None]) -> None:
    """Run hypothesis beside the event loop; what it is handed awaits on that loop."""
    loop = asyncio.get_running_loop()

    async def awaited(what: Awaitable[Any]) -> Any:
        return await what

    def wait(what: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited(what), loop).result(WAIT_S)

    await asyncio.to_thread(run, wait)


def request_of(case: schemathesis.Case[Any]) -> httpx.Request:
    """What requests would put on the wire, for our client."""
    prepared = requests.Request(**case.as_transport_kwargs(base_url=BASE_URL)).prepare()
    assert prepared.url
    body = prepared.body or b""
    assert isinstance(body, bytes | str)
    lines = [(_bytes(name), _bytes(value)) for name, value in prepared.headers.items()]
    return httpx.Request(
        case.method,
        prepared.url,
        headers=[line for line in lines if line[0].lower() != b"content-length"],
        content=_bytes(body),
    )


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


async def fuzz_document(shop: Shop, method: str, path: str, examples: int) -> None:
    """Requests that the document allows, requests that it does not, and requests about what the shop really has."""
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    parameters = DOCUMENT["paths"][path][method].get("parameters", [])
    known = await in_stock(shop, path)
    strategies = [operation.as_strategy()]
    if known:
        in_query = path == FIND_PATH
        strategies.append(
            operation.as_strategy(query=known) if in_query else operation.as_strategy(path_parameters=known)
        )
        strategies.append(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    sent = Sent()

    def run(wait: Wait) -> None:
        for cases in strategies:

            @settings(max_examples=examples, **STEADY)
            @given(case=cases)
            def send(case: schemathesis.Case[Any]) -> None:
                answer = wait(shop.client.send(request_of(case)))
                sent.add(answer.status_code)
                if answer.status_code != 405:  # said of all paths at once, not of each
                    case.validate_response(answer, checks=CHECKS)

            send()

    await in_thread(run)
    # Where nothing is asked for there is one request to send.
    sent.report(examples if parameters else 1)


async def in_stock(shop: Shop, path: str) -> dict[str, str]:
    """The parameters of a path, as they lead to something; empty for a path without any."""
    if path == FIND_PATH:
        authorization = BUYER.authorize()
        payment_id = (await shop.mint(BUYER.header(nonce=authorization.nonce))).json()["paymentQueueId"]
        await shop_sql.complete(shop.pool, payment_id, quantity=1)  # one that is pending could be waited for
        return {"payer": checksum_address(BUYER.address), "nonce": hex_text(authorization.nonce)}
    if "{id}" not in path:
        name = re.search(r"\{(\w+)\}", path)
        return {name[1]: checksum_address(TOKEN)} if name else {}
    payment_id = (await shop.mint(BUYER.header())).json()["paymentQueueId"]
    (queue_id,) = await shop_sql.complete(shop.pool, payment_id, quantity=1)
    return {"id": queue_id if "queue" in path else payment_id}


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_the_document_keeps_its_word(shop: Shop, method: str, path: str) -> None:
    """schemathesis: each operation, with good and with bad input."""
    await fuzz_document(shop, method, path, FEW)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_the_document_keeps_its_word_at_length(shop: Shop, method: str, path: str) -> None:
    """The same with many more requests."""
    await fuzz_document(shop, method, path, MANY)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
methods = st.sampled_from(["POST", "GET", "HEAD", "OPTIONS", "PUT"]) | st.text("ABCXYZ-", min_size=1)
paths = (
    st.just(MINT_PATH)
    | st.sampled_from(["/api/mint/", "/api/tokens/", "/api/payment/", "/api/queue/", "/docs", "/openapi.json"])
    | st.builds("/api/{}/{}".format, st.sampled_from(["mint", "tokens", "payment", "queue"]), texts)
    | texts.map("/{}".format)
)
bodies = (
    st.just(b'{"quantity": 1}')
    | st.binary(max_size=5_000)
    | st.builds(
        lambda quantity, recipient, more: json.dumps({**more, "quantity": quantity, "recipient": recipient}).encode(),
        st.integers(-2, 300) | json_values,
        st.none() | st.just("0x" + "ab" * 20) | json_values,
        st.dictionaries(st.text(), json_values, max_size=2),
    )
)
names = st.sampled_from(
    [b"x-payment", b"payment-signature", b"content-length", b"content-type", b"origin", b"if-none-match", b"prefer",
     b"access-control-request-method", b"transfer-encoding", b"expect", b"host", b"accept", b"last-event-id"]
) | st.binary(min_size=1, max_size=20)  # fmt: skip
offsets = st.integers(0, 10_000)
headers = st.lists(st.tuples(names, st.binary(max_size=9_000)), max_size=4)


@st.composite
def payments(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A payment header: good, or with one member replaced, or with one byte replaced."""
    version = draw(st.sampled_from((1, 2)))
    document = good(BUYER, version, draw(st.integers(1, 3)))
    if draw(st.booleans()):
        target, name = draw(st.sampled_from(list(members(document))))
        target[name] = draw(json_values)
    header = bytearray(base64.b64encode(json.dumps(document).encode()))
    if draw(st.booleans()):
        header[draw(st.integers(0, len(header) - 1))] = draw(st.integers(0, 255))
    return ((b"x-payment", b"payment-signature")[version - 1], bytes(header))


def members(document: Document) -> list[tuple[Document, str]]:
    """Every member of a payment's JSON, at any depth, with its holder."""
    found = []
    for name, value in document.items():
        found.append((document, name))
        if isinstance(value, dict):
            found += members(value)
    return found


async def exchange(
    shop: Shop, method: str, path: str, query: bytes, sent: list[tuple[bytes, bytes]], chunks: list[bytes]
) -> tuple[int, bytes]:
    """One request as a server hands it to the application: a status, and the body."""
    waiting: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting += [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    answered: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answered.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
             "path": path, "raw_path": quote(path).encode(), "root_path": "", "query_string": query, "headers": sent,
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 4021)}  # fmt: skip
    await shop.app(scope, receive, send)
    start, *rest = answered
    assert start["type"] == "http.response.start"
    assert all(isinstance(part, bytes) for header in start["headers"] for part in header)
    return start["status"], b"".join(message.get("body", b"") for message in rest)


async def fuzz_requests(shop: Shop, examples: int) -> Sent:
    """Requests of which every part may be anything."""
    answers = Sent()

    def run(wait: Wait) -> None:
        @settings(max_examples=examples, **STEADY)
        @given(
            method=methods, path=paths, query=st.binary(max_size=50), some=headers, body=bodies, cut=st.integers(0, 99)
        )
        def send_anything(
            method: str, path: str, query: bytes, some: list[tuple[bytes, bytes]], body: bytes, cut: int
        ) -> None:
            status, content = wait(exchange(shop, method, path, query, some, [body[:cut], body[cut:]]))
            answers.add(status)
            demand_words(status, content, method)

        @settings(max_examples=examples, **STEADY)
        @given(payment=payments(), some=headers, body=bodies)
        def pay_anything(payment: tuple[bytes, bytes], some: list[tuple[bytes, bytes]], body: bytes) -> None:
            others = [(name, value) for name, value in some if name != b"content-length"]
            status, content = wait(exchange(shop, "POST", MINT_PATH, b"", [*others, payment], [body]))
            answers.add(status)
            demand_words(status, content, "POST")

        send_anything()
        pay_anything()

    await in_thread(run)
    return answers


def demand_words(status: int, content: bytes, method: str) -> None:
    """A refusal says why in a sentence."""
    if status >= 400 and method != "HEAD":
        assert json.loads(content)["detail"].endswith((".", "?"))


async def test_any_request_is_answered_in_words(shop: Shop) -> None:
    """hypothesis: methods, paths, queries, headers, bodies and payments of any kind."""
    answers = await fuzz_requests(shop, 150)
    answers.report(300)
    assert {202, 400, 402, 404, 405} <= set(answers.statuses)


@pytest.mark.slow
@pytest.mark.timeout(600)  # ten thousand requests, on a machine that may be busy
async def test_any_request_is_answered_in_words_at_length(shop: Shop) -> None:
    """The same with many more requests."""
    (await fuzz_requests(shop, 5_000)).report(10_000)


HEAD = f"POST {MINT_PATH} HTTP/1.1\r\nHost: x\r\n".encode()
RAW = [
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%ff%fe%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/tokens/%F0%9F%92%B0%ff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/payment/\xed\xa0\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT shop.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX:\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 1, 2\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    HEAD + b"Content-Length: 100\r\n\r\n{",  # fewer bytes than announced, then the end
    HEAD + b'Content-Length: 2\r\n\r\n{"quantity": 1}',  # more than announced
    HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
    HEAD + b"X-PAYMENT: \xff\xff\r\nContent-Length: 15\r\n\r\n" + b'{"quantity": 1}',
    HEAD + b"X-PAYMENT: " + b"A" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 200,  # pipelined
]


async def test_no_bytes_end_the_server(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """Malformed HTTP over real connections: never a 5xx or a traceback, and the same process serves on."""
    await open_shop(pool)
    answers = Sent()
    async with serving(database_url, tmp_path) as server:
        served_by = server.processes()
        port = int(server.url.rpartition(":")[2])

        async def throw(raw: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            received = b""
            try:
                writer.write(raw)
                # A client that has sent its request waits for the answer; what is no whole request gets none.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWERS_WITHIN_S):
                        received += await reader.read(65_536)
                writer.write_eof()
                async with asyncio.timeout(WAIT_S):
                    while part := await reader.read(65_536):
                        received += part
            except OSError:
                pass  # the server cut it off: that is an answer
            finally:
                writer.transport.abort()
            return received

        def run(wait: Wait) -> None:
            @settings(max_examples=100, **STEADY)
            @given(
                raw=st.binary(max_size=300) | st.builds(_spoiled, st.sampled_from(RAW), st.binary(max_size=8), offsets)
            )
            def throw_anything(raw: bytes) -> None:
                note(answers, wait(throw(raw)))

            throw_anything()

        for raw in RAW:
            note(answers, await throw(raw))
        await in_thread(run)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get(f"/api/tokens/{checksum_address(TOKEN)}")).status_code == 200
            assert (await client.post(MINT_PATH, json={"quantity": 1}, headers=BUYER.header())).status_code == 202
        assert server.processes() == served_by
        assert "Traceback" not in server.output
    answers.report(len(RAW) + 50)


def _spoiled(raw: bytes, bytes_put: bytes, at: int) -> bytes:
    """`raw` with some bytes put into it."""
    at %= len(raw)
    return raw[:at] + bytes_put + raw[at:]


def note(answers: Sent, received: bytes) -> None:
    """Count the answer, if the server gave one; cutting the connection is its right."""
    if received:
        assert received.startswith(b"HTTP/1.1 "), received[:100]
        answers.add(int(received[9:12]))
    else:
        answers.statuses[0] += 1
