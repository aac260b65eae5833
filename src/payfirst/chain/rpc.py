"""JSON-RPC over HTTP: a handful of typed calls, batched where a block needs many.

A call that fails changes nothing and decides nothing: every error here is a RetriedError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

from payfirst.chain.blocks import Block, Head, Log, Receipt
from payfirst.errors import RetriedError
from payfirst.units import (
    AccountNonce,
    Address,
    BlockHash,
    BlockNumber,
    TxHash,
    UnixTime,
    Wei,
    hex_text,
)

RPC_TIMEOUT_S = 10.0
RESPONSE_BYTES_MAX = 64 * 1024 * 1024
CALLS_PER_BATCH_MAX = 100

T = TypeVar("T")


class RpcUnavailable(RetriedError):
    """The endpoint did not answer, or not in a form that can be read. What it did is unknown."""


class RpcRefused(RetriedError):
    """The endpoint answered with a JSON-RPC error. `data` holds revert data where there is any."""

    def __init__(self, *, method: str, code: int, message: str, data: bytes) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_execution(self) -> bool:
        """Whether the call itself failed on chain (it reverted, it ran out of gas), and not the endpoint."""
        said = self.message.lower()
        return self.code == 3 or bool(self.data) or "revert" in said or "out of gas" in said or "outofgas" in said


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a batch."""

    method: str
    params: tuple[object, ...]


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    data: object = None


class _Answer(msgspec.Struct):
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class _WireHead(msgspec.Struct, rename="camel"):
    number: str
    hash: str
    parent_hash: str
    timestamp: str
    base_fee_per_gas: str = "0x0"


class _WireBlock(_WireHead, rename="camel"):
    transactions: list[str] = []


class _WireLog(msgspec.Struct, rename="camel"):
    address: str
    topics: list[str]
    data: str
    log_index: str
    transaction_hash: str


class _WireReceipt(msgspec.Struct, rename="camel"):
    transaction_hash: str
    block_hash: str
    block_number: str
    status: str
    gas_used: str
    effective_gas_price: str
    logs: list[_WireLog]


_ANSWER = msgspec.json.Decoder(_Answer)
_ANSWERS = msgspec.json.Decoder(list[_Answer])
_ENCODER = msgspec.json.Encoder()

# Any, because a union is no type[T]; the variables that take the answers state the type.
_MAYBE_HEAD: Any = _WireHead | None
_MAYBE_BLOCK: Any = _WireBlock | None
_MAYBE_RECEIPT: Any = _WireReceipt | None


class RpcClient:
    """Calls to one chain's endpoints, tried in order until one answers.

    Use as an async context manager; it owns one HTTP session.
    """

    def __init__(self, urls: Sequence[str], *, timeout_s: float = RPC_TIMEOUT_S) -> None:
        if not urls:
            raise ValueError("at least one RPC URL is needed")
        self._urls = tuple(urls)
        self._preferred = 0
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RpcClient:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, *params: object, result: type[T]) -> T:
        """One call, decoded as `result`. Raises RpcUnavailable or RpcRefused."""
        raw = await self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            answer = _ANSWER.decode(raw)
        except msgspec.MsgspecError as error:
            raise RpcUnavailable(f"{method}: the endpoint's answer is no JSON-RPC: {error}") from error
        return _take(method, answer, result)

    async def batch(self, calls: Sequence[Call], *, result: type[T]) -> list[T]:
        """Several calls in few requests, answers in the order of `calls`; the first error is raised."""
        taken: list[T] = []
        for start in range(0, len(calls), CALLS_PER_BATCH_MAX):
            chunk = calls[start : start + CALLS_PER_BATCH_MAX]
            if len(chunk) == 1:
                taken.append(await self.call(chunk[0].method, *chunk[0].params, result=result))
                continue
            raw = await self._post(
                [{"jsonrpc": "2.0", "id": i, "method": c.method, "params": c.params} for i, c in enumerate(chunk)]
            )
            try:
                by_id = {answer.id: answer for answer in _ANSWERS.decode(raw)}
            except msgspec.MsgspecError as error:
                raise RpcUnavailable(f"the endpoint's answer to a batch cannot be read: {error}") from error
            for i, call in enumerate(chunk):
                if i not in by_id:
                    raise RpcUnavailable(f"{call.method}: left out of the endpoint's answer to a batch")
                taken.append(_take(call.method, by_id[i], result))
        return taken

    async def _post(self, body: object) -> bytes:
        if self._session is None:
            raise RuntimeError("RpcClient is used outside its context")
        failures: list[str] = []
        for step in range(len(self._urls)):
            at = (self._preferred + step) % len(self._urls)
            try:
                async with self._session.post(
                    self._urls[at],
                    data=_ENCODER.encode(body),
                    headers={"content-type": "application/json"},
                ) as response:
                    raw = await response.content.read(RESPONSE_BYTES_MAX + 1)
                    while not response.content.at_eof() and len(raw) <= RESPONSE_BYTES_MAX:
                        raw += await response.content.read(RESPONSE_BYTES_MAX + 1 - len(raw))
                    if response.status == 200 and len(raw) <= RESPONSE_BYTES_MAX:
                        self._preferred = at
                        return raw
                    failures.append(f"endpoint {at + 1}: HTTP {response.status}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures.append(f"endpoint {at + 1}: {type(error).__name__} {error}".strip())
        raise RpcUnavailable("RPC: no endpoint answered (" + "; ".join(failures) + ")")

    # ---- the calls payfirst makes ------------------------------------------------------------------

    async def chain_id(self) -> int:
        """The chain's id (EIP-155)."""
        return int(await self.call("eth_chainId", result=str), 16)

    async def head(self, tag: str = "latest") -> Head:
        """The block at `tag` (`latest`, `safe`, `finalized`), without its transactions."""
        return _head(await self.call("eth_getBlockByNumber", tag, False, result=_WireHead))

    async def blocks(self, first: BlockNumber, last: BlockNumber) -> list[Block]:
        """Blocks `first` to `last` inclusive, with transaction hashes; stops early at one not there yet."""
        calls = [Call("eth_getBlockByNumber", (hex(n), False)) for n in range(first, last + 1)]
        found: list[Block] = []
        wires: list[_WireBlock | None] = await self.batch(calls, result=_MAYBE_BLOCK)
        for wire in wires:
            if wire is None:
                break
            found.append(_block(wire))
        return found

    async def block_hash(self, height: BlockNumber) -> BlockHash | None:
        """The canonical hash at `height`, None where the node has no such block."""
        wire: _WireHead | None = await self.call("eth_getBlockByNumber", hex(height), False, result=_MAYBE_HEAD)
        return None if wire is None else BlockHash(_bytes(wire.hash))

    async def logs_of_blocks(
        self, hashes: Sequence[BlockHash], *, addresses: Sequence[Address], topics: Sequence[object]
    ) -> list[list[TxHash]]:
        """For each block, the transactions with a log of `addresses` under `topics`; each once, in order."""
        calls = [
            Call(
                "eth_getLogs",
                ({"blockHash": hex_text(h), "address": [hex_text(a) for a in addresses], "topics": topics},),
            )
            for h in hashes
        ]
        answers = await self.batch(calls, result=list[_WireLog])
        return [list(dict.fromkeys(TxHash(_bytes(log.transaction_hash)) for log in logs)) for logs in answers]

    async def logs(
        self,
        *,
        address: Address,
        topics: Sequence[object],
        first: BlockNumber,
        last: BlockNumber,
    ) -> list[TxHash]:
        """The transactions between two heights with a log of `address` under `topics`."""
        query = {
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "address": hex_text(address),
            "topics": topics,
        }
        logs = await self.call("eth_getLogs", query, result=list[_WireLog])
        return list(dict.fromkeys(TxHash(_bytes(log.transaction_hash)) for log in logs))

    async def receipts(self, hashes: Sequence[TxHash]) -> list[Receipt | None]:
        """A receipt for each hash, None where the node has none (which proves nothing)."""
        calls = [Call("eth_getTransactionReceipt", (hex_text(h),)) for h in hashes]
        wires: list[_WireReceipt | None] = await self.batch(calls, result=_MAYBE_RECEIPT)
        return [None if wire is None else _receipt(wire) for wire in wires]

    async def is_known(self, tx_hash: TxHash) -> bool:
        """Whether the node has the transaction, in its pool or in a block."""
        found = await self.call("eth_getTransactionByHash", hex_text(tx_hash), result=object)
        return found is not None

    async def broadcast(self, signed: bytes) -> TxHash:
        """Send signed bytes. An error says nothing about whether they went through."""
        return TxHash(_bytes(await self.call("eth_sendRawTransaction", hex_text(signed), result=str)))

    async def account_nonce(self, address: Address, tag: str = "latest") -> AccountNonce:
        """How many transactions of `address` the chain holds at `tag` or hex height."""
        text = await self.call("eth_getTransactionCount", hex_text(address), tag, result=str)
        return AccountNonce(int(text, 16))

    async def balance(self, address: Address) -> Wei:
        """Native balance at the head."""
        return Wei(int(await self.call("eth_getBalance", hex_text(address), "latest", result=str), 16))

    async def eth_call(
        self,
        *,
        to: Address | None,
        data: bytes,
        sender: Address | None = None,
        gas: int | None = None,
        at: BlockHash | BlockNumber | str = "latest",
    ) -> bytes:
        """`eth_call`; without `to` the data is creation code, whose returned bytes come back.

        Raises RpcRefused with the revert data when the call reverts.
        """
        fields: dict[str, str] = {"data": hex_text(data)}
        if to is not None:
            fields["to"] = hex_text(to)
        if sender is not None:
            fields["from"] = hex_text(sender)
        if gas is not None:
            fields["gas"] = hex(gas)
        block: object = at
        if isinstance(at, int):
            block = hex(at)
        elif isinstance(at, bytes):
            block = {"blockHash": hex_text(at)}
        return _bytes(await self.call("eth_call", fields, block, result=str))


def _take(method: str, answer: _Answer, result: type[T]) -> T:
    if answer.error is not None:
        raise RpcRefused(
            method=method,
            code=answer.error.code,
            message=answer.error.message,
            data=_revert_data(answer.error.data),
        )
    try:
        return msgspec.json.decode(answer.result, type=result)
    except msgspec.MsgspecError as error:
        raise RpcUnavailable(f"{method}: the endpoint's answer cannot be read: {error}") from error


def _revert_data(data: Any) -> bytes:
    # Nodes put it in `data` as hex, or one level down as {"data": hex} or {"result": hex}.
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return b""
    return b""


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text[2:])
    except ValueError as error:
        raise RpcUnavailable(f"the endpoint sent {text[:40]!r} where hex was due") from error


def _head(wire: _WireHead) -> Head:
    return Head(
        number=BlockNumber(int(wire.number, 16)),
        hash=BlockHash(_bytes(wire.hash)),
        parent_hash=BlockHash(_bytes(wire.parent_hash)),
        time=UnixTime(int(wire.timestamp, 16)),
        base_fee=Wei(int(wire.base_fee_per_gas, 16)),
    )


def _block(wire: _WireBlock) -> Block:
    return Block(head=_head(wire), transactions=tuple(TxHash(_bytes(h)) for h in wire.transactions))


def _receipt(wire: _WireReceipt) -> Receipt:
    return Receipt(
        tx_hash=TxHash(_bytes(wire.transaction_hash)),
        block_hash=BlockHash(_bytes(wire.block_hash)),
        block_number=BlockNumber(int(wire.block_number, 16)),
        succeeded=wire.status == "0x1",
        gas_used=int(wire.gas_used, 16),
        gas_price=Wei(int(wire.effective_gas_price, 16)),
        logs=tuple(
            Log(
                address=Address(_bytes(log.address)),
                topics=tuple(_bytes(t) for t in log.topics),
                data=_bytes(log.data),
                index=int(log.log_index, 16),
            )
            for log in wire.logs
        ),
    )


async def wait_for_endpoint(rpc: RpcClient, *, chain_id: int, deadline_s: float) -> None:
    """Return once the endpoint answers for `chain_id`; raises RpcUnavailable after `deadline_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        try:
            found = await rpc.chain_id()
        except RpcUnavailable:
            if loop.time() >= end:
                raise
            await asyncio.sleep(min(0.1, deadline_s))
            continue
        if found != chain_id:
            raise RpcUnavailable(f"the endpoint serves chain {found}, the configuration says {chain_id}")
        return
