"""Whose fault a refusal is, in the words of real nodes and providers."""

from __future__ import annotations

import pytest

from payfirst.chain.rpc_errors import Blame, RpcRefused, blame


def refusal(method: str, code: int, message: str, data: bytes = b"") -> RpcRefused:
    return RpcRefused(method=method, code=code, message=message, data=data)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (3, "execution reverted: FiatTokenV2: invalid signature"),
        (-32000, "execution reverted"),
        (-32603, "VM execution error: reverted 0x"),
        (-32000, "out of gas"),
        (-32003, "EVM error OutOfGas"),
        (-32602, "invalid argument 0: hex string has odd length"),
        (-32600, "invalid request"),
        (-32000, "something nobody has heard of"),
    ],
)
def test_what_the_chain_says_of_a_call_is_not_asked_elsewhere(code: int, message: str) -> None:
    """A revert is an answer, and so is a call that makes no sense."""
    assert blame(refusal("eth_call", code, message)) is Blame.CALL


def test_revert_data_is_an_answer_whatever_stands_beside_it() -> None:
    """Data of a revert goes before every word, so that no provider's phrase hides it."""
    assert blame(refusal("eth_call", -32603, "internal error", b"\x08\xc3\x79\xa0")) is Blame.CALL


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32000, "nonce too low"),
        (-32000, "nonce too low: next nonce 5, tx nonce 4"),
        (-32000, "already known"),
        (-32000, "replacement transaction underpriced"),
        (-32000, "transaction underpriced"),
        (-32000, "insufficient funds for gas * price + value: balance 0, tx cost 21000"),
        (-32003, "Insufficient funds for gas * price + value"),
        (-32603, "nonce too low"),
        (-32000, "intrinsic gas too low"),
        (-32000, "max fee per gas less than block base fee"),
        (-32000, "exceeds block gas limit"),
        (-32000, "oversized data"),
        (-32602, "Failed to decode transaction"),
    ],
)
def test_a_verdict_on_a_transaction_is_not_asked_elsewhere(code: int, message: str) -> None:
    """Every node of the chain would say the same of these bytes."""
    assert blame(refusal("eth_sendRawTransaction", code, message)) is Blame.CALL


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (-32005, "daily request count exceeded, request rate limited", Blame.LIMIT),
        (-32000, "txpool is full: service unavailable", Blame.BROKEN),
        (-32601, "the method eth_sendRawTransaction does not exist/is not available", Blame.ABSENT),
        (-32603, "Internal error", Blame.BROKEN),
    ],
)
def test_a_broadcast_that_the_endpoint_could_not_take_goes_to_the_next(
    code: int, message: str, expected: Blame
) -> None:
    """The same bytes elsewhere do no harm."""
    assert blame(refusal("eth_sendRawTransaction", code, message)) is expected


@pytest.mark.parametrize(
    ("method", "code", "message", "expected"),
    [
        ("eth_call", -32005, "limit exceeded", Blame.LIMIT),
        ("eth_call", -32016, "over rate limit", Blame.LIMIT),
        ("eth_call", -32000, "rate limit exceeded, retry in 10s", Blame.LIMIT),
        ("eth_call", 429, "Your app has exceeded its compute units per second capacity", Blame.LIMIT),
        ("eth_call", -32000, "header not found", Blame.ABSENT),
        ("eth_call", -32001, "Resource not found", Blame.ABSENT),
        ("eth_call", -32602, "BlockOutOfRangeError: block height is 1 but requested was 65535", Blame.ABSENT),
        ("eth_call", -32000, "missing trie node 7f2 (path ) state 0x7f is not available", Blame.ABSENT),
        ("eth_getLogs", -32000, "unknown block", Blame.ABSENT),
        ("eth_getLogs", -32000, "block range extends beyond current head block", Blame.ABSENT),
        ("eth_getLogs", -32601, "the method eth_getLogs does not exist/is not available", Blame.ABSENT),
        ("eth_call", -32603, "Internal error", Blame.BROKEN),
        ("eth_call", -32000, "upstream request timeout", Blame.BROKEN),
        ("eth_getLogs", -32005, "query returned more than 10000 results", Blame.RANGE),
        ("eth_getLogs", -32614, "eth_getLogs is limited to a 10,000 range", Blame.RANGE),
        ("eth_getLogs", -32000, "exceed maximum block range: 50000", Blame.RANGE),
        ("eth_getLogs", -32602, "query exceeds max results 20000, retry with the range 1-2", Blame.RANGE),
        ("eth_getLogs", -32602, "Log response size exceeded.", Blame.RANGE),
        ("eth_getLogs", -32000, "requested too many blocks from 1 to 9999, maximum is set to 2048", Blame.RANGE),
        ("eth_getLogs", -32005, "rate limit exceeded", Blame.LIMIT),
    ],
)
def test_what_is_the_endpoints_is_asked_elsewhere(method: str, code: int, message: str, expected: Blame) -> None:
    """Limits, ranges, blocks and methods that are missing, and troubles of its own."""
    assert blame(refusal(method, code, message)) is expected
