"""JSON-RPC: a handful of typed calls, batched where a block needs many, over any number of endpoints.

A call that fails changes nothing and decides nothing: every error here is a RetriedError.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TypeVar

import msgspec

from payfirst.chain import rpc_wire as wires
from payfirst.chain.agreement import Agreement, Subject
from payfirst.chain.blocks import Block, Head, MinedTransaction, PlacedLog, Receipt
from payfirst.chain.endpoints import CALLS_PER_BATCH_MAX, Endpoint

# The aliases say that these are offered here too: one import for whoever makes calls.
from payfirst.chain.failover import Call as Call
from payfirst.chain.failover import Failover
from payfirst.chain.raw import mined_transaction
from payfirst.chain.rpc_errors import Blame, blame
from payfirst.chain.rpc_errors import RpcRefused as RpcRefused
from payfirst.chain.rpc_errors import RpcUnavailable as RpcUnavailable
from payfirst.units import (
    AccountNonce,
    Address,
    BlockHash,
    BlockNumber,
    TxHash,
    Wei,
    hex_text,
)

RPC_TIMEOUT_S = 10.0
LOG_BLOCKS_MAX = 2_000
LAG_BLOCKS_MAX = 5

# Whole blocks are large: a few at a time.
FULL_BLOCKS_MAX = 10

T = TypeVar("T")
L = TypeVar("L", wires.WireLogsTransaction, wires.WirePlacedLog)


class RpcClient:
    """Calls to one chain's endpoints: the first configured that is well, the others where it is not.

    With `chain_id`, an endpoint of another chain is never used. Use as an async context manager; it owns one HTTP
    session.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None = None,
        timeout_s: float = RPC_TIMEOUT_S,
        log_blocks_max: int = LOG_BLOCKS_MAX,
        lag_blocks_max: int = LAG_BLOCKS_MAX,
    ) -> None:
        self._endpoints = Failover(urls, chain_id=chain_id, timeout_s=timeout_s, lag_blocks_max=lag_blocks_max)
        self._log_blocks_max = log_blocks_max
        self._agreement = Agreement()

    async def __aenter__(self) -> RpcClient:
        self._endpoints.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoints.close()

    async def call(self, method: str, *params: object, result: type[T]) -> T:
        """One call, decoded as `result`. Raises RpcUnavailable or RpcRefused."""
        return (await self._endpoints.ask([Call(method, params)], result=result))[0]

    async def batch(self, calls: Sequence[Call], *, result: type[T]) -> list[T]:
        """Several calls in few requests, answers in the order of `calls`; the first error is raised."""
        return await self._batch(calls, result=result)

    async def _batch(
        self, calls: Sequence[Call], *, result: type[T], is_enough: Callable[[list[T]], bool] | None = None
    ) -> list[T]:
        taken: list[T] = []
        for start in range(0, len(calls), CALLS_PER_BATCH_MAX):
            chunk = calls[start : start + CALLS_PER_BATCH_MAX]
            taken += await self._endpoints.ask(chunk, result=result, is_enough=is_enough)
        return taken

    async def _find(self, method: str, *params: object, result: type[T]) -> T:
        """One call whose null may only mean that this endpoint does not have it: then the others are asked."""
        return (await self._endpoints.ask([Call(method, params)], result=result, is_enough=_all_there))[0]

    @property
    def can_agree(self) -> bool:
        """Whether there are two hosts, so that one of them need not be believed alone."""
        return self._endpoints.origins > 1

    async def agreed(
        self,
        ask: Callable[[RpcClient], Awaitable[T]],
        *,
        subject: Subject,
        about: str,
        same: Callable[[T], object] = lambda answer: answer,
    ) -> T:
        """What two endpoints answer alike to `ask`, each asked by itself; with one host configured, what it answers.

        `about` is the question for the log. Raises RpcDisagreement, or RpcUnavailable while fewer than two answer.
        """
        if not self.can_agree:
            return await ask(self)
        alone: list[tuple[Endpoint, RpcClient]] = []
        for endpoint, failover in self._endpoints.each():
            one = copy.copy(self)
            one._endpoints = failover
            alone.append((endpoint, one))
        return await self._agreement.of(alone, ask, subject=subject, about=about, same=same)

    async def chains(self) -> list[int | None]:
        """The chain id that each endpoint serves, in the configured order; None where it does not say."""
        return await self._endpoints.chains()

    # ---- the calls payfirst makes ------------------------------------------------------------------

    async def chain_id(self) -> int:
        """The chain's id (EIP-155)."""
        return wires.number_of(await self.call("eth_chainId", result=str))

    async def head(self, tag: str = "latest") -> Head:
        """The block at `tag` (`latest`, `safe`, `finalized`), without its transactions."""
        self._endpoints.compare_heads()
        answer: wires.WireHead | None = await self._find("eth_getBlockByNumber", tag, False, result=wires.MAYBE_HEAD)
        if answer is None:
            raise RpcUnavailable(f"RPC: no endpoint has a {tag} block")
        return wires.head_of(answer)

    async def blocks(self, first: BlockNumber, last: BlockNumber) -> list[Block]:
        """Blocks `first` to `last` inclusive, with transaction hashes; stops early at one not there yet."""
        calls = [Call("eth_getBlockByNumber", (hex(n), False)) for n in range(first, last + 1)]
        answers: list[wires.WireBlock | None] = await self._batch(calls, result=wires.MAYBE_BLOCK, is_enough=_all_there)
        found: list[Block] = []
        for answer in answers:
            if answer is None:
                break
            found.append(wires.block_of(answer))
        return found

    async def block_hash(self, height: BlockNumber) -> BlockHash | None:
        """The canonical hash at `height`, None where no endpoint has such a block."""
        answer: wires.WireHead | None = await self._find(
            "eth_getBlockByNumber", hex(height), False, result=wires.MAYBE_HEAD
        )
        return None if answer is None else BlockHash(wires.bytes_of(answer.hash))

    async def has_block(self, block_hash: BlockHash) -> bool:
        """Whether any endpoint has a block of this hash, canonical or not."""
        return await self._find("eth_getBlockByHash", hex_text(block_hash), False, result=object) is not None

    async def logs_of_blocks(
        self, hashes: Sequence[BlockHash], *, addresses: Sequence[Address], topics: Sequence[object]
    ) -> list[list[TxHash]]:
        """For each block, the transactions with a log of `addresses` under `topics`; each once, in order."""
        calls: list[Call] = []
        for h in hashes:
            query = {"blockHash": hex_text(h), "address": [hex_text(a) for a in addresses], "topics": topics}
            # A node that does not have the block may answer with no logs: the same node is asked for the block too.
            calls += [
                Call("eth_getLogs", (query,)),
                Call("eth_getBlockTransactionCountByHash", (hex_text(h),)),
            ]
        answers = await self._batch(calls, result=msgspec.Raw, is_enough=_no_null)
        return [_transactions(logs, has_block=not _is_null(block)) for logs, block in _pairs(answers)]

    async def logs(
        self,
        *,
        address: Address,
        topics: Sequence[object],
        first: BlockNumber,
        last: BlockNumber,
    ) -> list[TxHash]:
        """The transactions between two heights, both included, with a log of `address` under `topics`."""
        placed = await self.placed_logs(addresses=[address], topics=topics, first=first, last=last)
        return list(dict.fromkeys(log.tx_hash for log in placed))

    async def placed_logs(
        self, *, addresses: Sequence[Address], topics: Sequence[object], first: BlockNumber, last: BlockNumber
    ) -> list[PlacedLog]:
        """The logs of `addresses` under `topics` between two heights, both included, in order.

        Asked `log_blocks_max` blocks at a time, fewer where the endpoints want that.
        """
        found: list[PlacedLog] = []
        size = self._log_blocks_max
        while first <= last:
            end = BlockNumber(min(first + size - 1, last))
            try:
                found += await self._logs_between(first, end, addresses=addresses, topics=topics)
            except RpcRefused as refused:
                if blame(refused) is not Blame.RANGE or end == first:
                    raise
                size = (end - first + 1) // 2
                continue
            first = BlockNumber(end + 1)
        return found

    async def _logs_between(
        self, first: BlockNumber, last: BlockNumber, *, addresses: Sequence[Address], topics: Sequence[object]
    ) -> list[PlacedLog]:
        named = [hex_text(address) for address in addresses]
        query = {"fromBlock": hex(first), "toBlock": hex(last), "address": named, "topics": topics}
        # A node that is not there yet answers with the logs up to its head, and says nothing.
        calls = [Call("eth_getLogs", (query,)), Call("eth_getBlockByNumber", (hex(last), False))]
        logs, block = await self._batch(calls, result=msgspec.Raw, is_enough=_no_null)
        found = _logs(logs, wires.WirePlacedLog, has_block=not _is_null(block))
        return [wires.placed_log_of(log) for log in found]

    async def receipts(self, hashes: Sequence[TxHash]) -> list[Receipt | None]:
        """A receipt for each hash, None where no endpoint has it (which proves nothing)."""
        calls = [Call("eth_getTransactionReceipt", (hex_text(h),)) for h in hashes]
        answers: list[wires.WireReceipt | None] = await self._batch(
            calls, result=wires.MAYBE_RECEIPT, is_enough=_all_there
        )
        return [None if answer is None else wires.receipt_of(answer) for answer in answers]

    async def transactions(self, hashes: Sequence[TxHash]) -> list[MinedTransaction | None]:
        """The transaction of each hash; None where no endpoint has it, or only in its pool."""
        calls = [Call("eth_getTransactionByHash", (hex_text(h),)) for h in hashes]
        answers: list[wires.WireTransaction | None] = await self._batch(
            calls, result=wires.MAYBE_TRANSACTION, is_enough=_all_there
        )
        return [None if a is None or a.block_number is None else mined_transaction(a) for a in answers]

    async def transactions_of(
        self, senders: Collection[Address], *, first: BlockNumber, last: BlockNumber
    ) -> list[MinedTransaction]:
        """Every transaction of `senders` in blocks `first` to `last`: whole blocks are read."""
        named = {hex_text(sender) for sender in senders}
        found: list[MinedTransaction] = []
        for start in range(first, last + 1, FULL_BLOCKS_MAX):
            heights = range(start, min(start + FULL_BLOCKS_MAX, last + 1))
            calls = [Call("eth_getBlockByNumber", (hex(n), True)) for n in heights]
            answers: list[wires.WireFullBlock | None] = await self._batch(
                calls, result=wires.MAYBE_FULL_BLOCK, is_enough=_all_there
            )
            for height, block in zip(heights, answers, strict=True):
                if block is None:
                    raise RpcUnavailable(f"RPC: no endpoint has block {height}")
                found += [mined_transaction(t) for t in block.transactions if t.sender.lower() in named]
        return found

    async def account_nonces(self, address: Address) -> tuple[AccountNonce, AccountNonce]:
        """How many transactions of `address` the chain holds, and how many with those that wait in the node's pool."""
        calls = [Call("eth_getTransactionCount", (hex_text(address), tag)) for tag in ("latest", "pending")]
        mined, waiting = (wires.number_of(text) for text in await self._batch(calls, result=str))
        return AccountNonce(mined), AccountNonce(max(mined, waiting))

    async def is_known(self, tx_hash: TxHash) -> bool:
        """Whether any endpoint has the transaction, in its pool or in a block."""
        return await self._find("eth_getTransactionByHash", hex_text(tx_hash), result=object) is not None

    async def broadcast(self, signed: bytes) -> TxHash:
        """Send signed bytes. An error says nothing about whether they went through."""
        return TxHash(wires.bytes_of(await self.call("eth_sendRawTransaction", hex_text(signed), result=str)))

    async def account_nonce(self, address: Address, tag: str = "latest") -> AccountNonce:
        """How many transactions of `address` the chain holds at `tag` or hex height."""
        text = await self.call("eth_getTransactionCount", hex_text(address), tag, result=str)
        return AccountNonce(wires.number_of(text))

    async def balance(self, address: Address) -> Wei:
        """Native balance at the head."""
        return Wei(wires.number_of(await self.call("eth_getBalance", hex_text(address), "latest", result=str)))

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
        return wires.bytes_of(await self.call("eth_call", fields, block, result=str))


def _all_there(answers: Sequence[object]) -> bool:
    return None not in answers


def _no_null(answers: Sequence[msgspec.Raw]) -> bool:
    return not any(map(_is_null, answers))


def _is_null(answer: msgspec.Raw) -> bool:
    return bytes(answer) == b"null"


def _pairs(answers: Sequence[msgspec.Raw]) -> Iterator[tuple[msgspec.Raw, msgspec.Raw]]:
    return zip(answers[::2], answers[1::2], strict=True)


def _transactions(logs: msgspec.Raw, *, has_block: bool) -> list[TxHash]:
    """The transactions of `logs`, each once, in order."""
    found = _logs(logs, wires.WireLogsTransaction, has_block=has_block)
    return [TxHash(wires.bytes_of(text)) for text in dict.fromkeys(log.transaction_hash for log in found)]


def _logs(logs: msgspec.Raw, kind: type[L], *, has_block: bool) -> list[L]:
    """Logs of a block that the node does not have are no evidence."""
    if not has_block:
        raise RpcUnavailable("RPC: no endpoint has the blocks whose logs are due")
    try:
        return msgspec.json.decode(logs, type=list[kind])  # type: ignore[valid-type]  # a type known at run time
    except msgspec.MsgspecError as error:
        raise RpcUnavailable(f"RPC: the answer to eth_getLogs cannot be read: {error}") from error
