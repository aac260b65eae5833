"""What an endpoint refuses, and whose fault that is: the call's, or the endpoint's and another may do better. Pure."""

from __future__ import annotations

from enum import Enum

from payfirst.errors import RetriedError


class RpcUnavailable(RetriedError):
    """No endpoint answered, or not in a form that can be read. What it did is unknown."""


class RpcRefused(RetriedError):
    """The endpoint answered with a JSON-RPC error. `data` holds revert data where there is any."""

    def __init__(self, *, method: str, code: int, message: str, data: bytes) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_execution(self) -> bool:
        """Whether the call itself failed on chain (it reverted, it ran out of gas), and not the endpoint."""
        said = self.message.lower()
        return self.code == 3 or bool(self.data) or "revert" in said or "out of gas" in said or "outofgas" in said


class Blame(Enum):
    """Whose fault a refusal is, and so what may help."""

    CALL = "the call's: every endpoint would say the same"
    LIMIT = "the caller's haste: the endpoint wants to be left alone for a while"
    RANGE = "the range's: fewer blocks at once, or an endpoint that allows more"
    ABSENT = "the endpoint does not have the block or the method: another may"
    BROKEN = "the endpoint's own trouble"


# Codes that providers use; no standard names more than -32700 and -32600 to -32603.
_LIMIT_CODES = {-32005, -32016, -32029, 429}
_ABSENT_CODES = {-32001, -32004, -32601}
_BROKEN_CODES = {-32603, -32002}

# What nodes say, in lower case. The words go before the codes, because one code means many things.
_LIMIT_WORDS = (
    *("rate limit", "ratelimit", "rate-limit", "too many requests", "limit exceeded", "request limit", "quota"),
    *("requests per second", "compute units", "throughput", "throttl", "capacity exceeded"),
)
_RANGE_WORDS = (
    *("range", "query returned more than", "max results", "too many results", "too many logs", "too many blocks"),
    *("response size", "too large", "limited to", "timeout", "timed out"),
)
_ABSENT_WORDS = (
    *("not found", "unknown block", "could not find block", "out of range", "outofrange", "beyond current head"),
    *("missing trie node", "state not available", "state is not available", "historical state", "pruned"),
    *("not supported", "unsupported", "not available", "not whitelisted", "does not exist"),
)
_BROKEN_WORDS = ("internal error", "internal server", "timeout", "timed out", "upstream", "unavailable", "overloaded")
# About the transaction itself, not about the node it was sent to.
_VERDICT_WORDS = (
    *("nonce", "already known", "known transaction", "already imported", "underpriced", "insufficient funds"),
    *("intrinsic gas", "gas limit", "transaction gas", "fee per gas", "base fee", "fee cap", "oversized"),
    *("invalid sender", "invalid signature", "chain id", "chainid", "transaction type", "decode"),
)


def blame(refused: RpcRefused) -> Blame:
    """Whose fault a refusal is. What is not known is the call's: asking elsewhere must be worth something."""
    said = refused.message.lower()
    if refused.method == "eth_sendRawTransaction":
        if _has(said, _VERDICT_WORDS):
            return Blame.CALL
    elif refused.is_execution:
        return Blame.CALL
    elif _has(said, _ABSENT_WORDS):
        return Blame.ABSENT
    # Before the limits: providers say "limit exceeded" of a range too, under the same code.
    if refused.method == "eth_getLogs" and _has(said, _RANGE_WORDS):
        return Blame.RANGE
    if refused.code in _LIMIT_CODES or _has(said, _LIMIT_WORDS):
        return Blame.LIMIT
    if refused.code in _ABSENT_CODES:
        return Blame.ABSENT
    if refused.code in _BROKEN_CODES or _has(said, _BROKEN_WORDS):
        return Blame.BROKEN
    return Blame.CALL


def _has(said: str, words: tuple[str, ...]) -> bool:
    return any(word in said for word in words)
