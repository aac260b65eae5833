"""What a node may say wrongly: it lags, it invents and withholds logs, it miscounts nonces, it boasts of its height."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .rpc_proxy import Asked, Call, Fault, Forward, answers_in, respond

USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
AT_THE_TAG = {"eth_getBlockByNumber": 0, "eth_getTransactionCount": 1, "eth_getBalance": 1, "eth_call": 1}


def lags(blocks: int) -> Fault:
    """The node as it was `blocks` ago, in every answer alike: what came later is not there yet."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        head = max(0, int(str(await ask(forward, "eth_blockNumber")), 16) - blocks)
        past = Asked([_as_of(call, head) for call in asked.calls], asked.is_batch)
        answers = answers_in(await forward(past))
        for call, answer in zip(asked.calls, answers, strict=True):
            await _hide_the_future(call, answer, head, forward)
        return respond(asked, answers)

    return fault


def withholds_logs(is_withheld: Callable[[dict[str, Any]], bool] = lambda _log: True) -> Fault:
    """eth_getLogs leaves logs out, all of them if not told which."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if call["method"] == "eth_getLogs" and "result" in answer:
                answer["result"] = [log for log in answer["result"] if not is_withheld(log)]
        return respond(asked, answers)

    return fault


@dataclass(frozen=True)
class InventedTransfer:
    """A payment that never was: 20-byte addresses and hashes as 0x text."""

    asset: str
    payer: str
    pay_to: str
    value: int
    tx_hash: str = "0x" + "ee" * 32
    topic: str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def invents_logs(invented: InventedTransfer) -> Fault:
    """eth_getLogs of a block tells of a transfer whose receipt the node does not have."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if call["method"] != "eth_getLogs" or "blockHash" not in call["params"][0] or "result" not in answer:
                continue
            answer["result"].append(
                {
                    "address": invented.asset,
                    "topics": [invented.topic, _word(invented.payer), _word(invented.pay_to)],
                    "data": f"0x{invented.value:064x}",
                    "blockHash": call["params"][0]["blockHash"],
                    "blockNumber": "0x1",
                    "transactionHash": invented.tx_hash,
                    "transactionIndex": "0x0",
                    "logIndex": "0x0",
                    "removed": False,
                }
            )
        return respond(asked, answers)

    return fault


def invents_payment(invented: InventedTransfer, *, nonce: str) -> Fault:
    """As invents_logs, in one block, and with a receipt that holds all that makes it a payment by authorization."""
    receipts: dict[str, dict[str, Any]] = {}

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            method, params = call["method"], call["params"]
            if method == "eth_getLogs" and "blockHash" in params[0] and "result" in answer:
                block_hash = params[0]["blockHash"]
                if not receipts:
                    block = await ask(forward, "eth_getBlockByHash", block_hash, False)
                    receipts[invented.tx_hash] = _receipt(invented, nonce, block)
                if receipts[invented.tx_hash]["blockHash"] == block_hash:
                    answer["result"].append(receipts[invented.tx_hash]["logs"][1])
            elif method == "eth_getTransactionReceipt" and params[0] in receipts:
                answer.pop("error", None)
                answer["result"] = receipts[params[0]]
        return respond(asked, answers)

    return fault


def _receipt(invented: InventedTransfer, nonce: str, block: dict[str, Any]) -> dict[str, Any]:
    where = {
        "blockHash": block["hash"],
        "blockNumber": block["number"],
        "transactionHash": invented.tx_hash,
        "transactionIndex": "0x0",
        "address": invented.asset,
        "removed": False,
    }
    used = {"topics": [USED, _word(invented.payer), nonce], "data": "0x", "logIndex": "0x0"}
    moved = {
        "topics": [invented.topic, _word(invented.payer), _word(invented.pay_to)],
        "data": f"0x{invented.value:064x}",
        "logIndex": "0x1",
    }
    rest = {"status": "0x1", "gasUsed": "0x5208", "effectiveGasPrice": "0x1"}
    return where | rest | {"logs": [where | used, where | moved]}


def strips_receipts() -> Fault:
    """Receipts of transactions that were mined, without their logs."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if call["method"] == "eth_getTransactionReceipt" and answer.get("result") is not None:
                answer["result"]["logs"] = []
        return respond(asked, answers)

    return fault


def miscounts_nonces(change: Callable[[int], int]) -> Fault:
    """eth_getTransactionCount as `change` makes of the truth."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if call["method"] == "eth_getTransactionCount" and "result" in answer:
                answer["result"] = hex(change(int(answer["result"], 16)))
        return respond(asked, answers)

    return fault


def boasts_of_its_height(blocks: int) -> Fault:
    """The head is said to be `blocks` higher than it is, under a hash that nobody has."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if call["method"] == "eth_blockNumber":
                answer["result"] = hex(int(answer["result"], 16) + blocks)
            elif call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
                height = int(answer["result"]["number"], 16) + blocks
                answer["result"] |= {"number": hex(height), "hash": f"0x{height:064x}"}
        return respond(asked, answers)

    return fault


async def ask(forward: Forward, method: str, *params: object) -> Any:
    """A question of the proxy's own to the node; None where it answers with an error."""
    call: Call = {"jsonrpc": "2.0", "id": 0, "method": method, "params": list(params)}
    (answer,) = answers_in(await forward(Asked([call], is_batch=False)))
    return answer.get("result")


def _as_of(call: Call, head: int) -> Call:
    """The call, with `latest` meaning `head`."""
    params = list(call["params"])
    place = AT_THE_TAG.get(call["method"])
    if place is not None and params[place] == "latest":
        params[place] = hex(head)
    if call["method"] == "eth_getLogs" and "toBlock" in params[0]:
        params[0] = params[0] | {"toBlock": hex(min(head, int(params[0]["toBlock"], 16)))}
        if int(params[0]["fromBlock"], 16) > head:
            params[0] = params[0] | {"fromBlock": hex(head), "toBlock": hex(head), "address": "0x" + "00" * 20}
    return call | {"params": params}


async def _hide_the_future(call: Call, answer: dict[str, Any], head: int, forward: Forward) -> None:
    method, params, result = call["method"], call["params"], answer.get("result")
    if method == "eth_blockNumber":
        answer["result"] = hex(head)
    elif method in ("eth_getBlockByNumber", "eth_getBlockByHash") and result is not None:
        if int(result["number"], 16) > head:
            answer["result"] = None
    elif method == "eth_getTransactionReceipt" and result is not None:
        if int(result["blockNumber"], 16) > head:
            answer["result"] = None
    elif method == "eth_getTransactionByHash" and result is not None and result.get("blockNumber"):
        if int(result["blockNumber"], 16) > head:
            answer["result"] = result | {"blockNumber": None, "blockHash": None, "transactionIndex": None}
    elif (pinned := _pinned_hash(method, params)) is not None and not await _has(forward, pinned, head):
        # Nodes differ: some say that they do not have the block, some answer with nothing.
        if method == "eth_call":
            answer.pop("result", None)
            answer["error"] = {"code": -32000, "message": "header not found"}
        else:
            answer["result"] = [] if method == "eth_getLogs" else None


def _pinned_hash(method: str, params: list[Any]) -> str | None:
    if method == "eth_call" and isinstance(params[1], dict):
        return str(params[1].get("blockHash"))
    if method == "eth_getLogs":
        return None if "blockHash" not in params[0] else str(params[0]["blockHash"])
    return str(params[0]) if method == "eth_getBlockTransactionCountByHash" else None


async def _has(forward: Forward, block_hash: str, head: int) -> bool:
    block = await ask(forward, "eth_getBlockByHash", block_hash, False)
    return block is not None and int(block["number"], 16) <= head


def _word(address: str) -> str:
    return "0x" + address.removeprefix("0x").rjust(64, "0")
