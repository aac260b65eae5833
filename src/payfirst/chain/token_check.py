"""Whether a token that stands on chain can be sold here: asked of the contract itself, by calls that spend nothing.

What only a mint would show is tried in an `eth_call` in which each mint signer's account is lent Multicall3's code
(a state override), so that the calls come from the signer, and a later one sees what an earlier one did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from payfirst.chain.contracts import (
    UndecodableAnswer,
    artifact,
    decode_aggregate3,
    decode_result,
    encode_aggregate3,
    encode_batch_mint,
    encode_call,
    encode_has_minted,
    revert_reason,
)
from payfirst.chain.rpc import RpcClient, RpcRefused
from payfirst.errors import OperatorError
from payfirst.units import Address, BlockNumber, MintId, checksum_address, hex_text, keccak

MINTER_ROLE = keccak(b"MINTER_ROLE")
NAME_CHARS_MAX = 100

_HAS_ROLE = "hasRole(bytes32,address)"
# A unit that no payment has: nobody can choose what an id is the hash of.
_PROBE_ID = MintId(keccak(b"payfirst: would this token mint?"))
_PROBE_RECIPIENT = Address(_PROBE_ID[12:])

# What a token answers, and the type of the answer.
VIEWS = (
    ("name()", "string"),
    ("symbol()", "string"),
    ("decimals()", "uint8"),
    ("mintAmount()", "uint256"),
    ("maxMintCount()", "uint256"),
    ("mintCount()", "uint256"),
    ("remainingSupply()", "uint256"),
)

# What a batch does with a mint id that is used; `untried` where there was no supply left to try it with.
UsedIds = Literal["skipped", "reverted", "untried"]


class TokenUnfit(OperatorError):
    """The contract cannot be sold here. `faults` says all that is wrong, a sentence each."""

    def __init__(self, token: Address, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  ".join([f"{checksum_address(token)} cannot be offered:", *faults]))


class CannotTry(OperatorError):
    """The endpoint does not let a mint be tried."""


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What a token says at block `height`, and how it behaves. Counts are in units."""

    address: Address
    height: BlockNumber
    name: str
    symbol: str
    decimals: int
    mint_amount: int
    max_mint_count: int
    minted: int
    used_ids: UsedIds


async def has_code(rpc: RpcClient, address: Address, *, at: BlockNumber | None = None) -> bool:
    """Whether a contract stands at `address`, at the head or at a block."""
    block = "latest" if at is None else hex(at)
    return len(await rpc.call("eth_getCode", hex_text(address), block, result=str)) > 2


async def read(rpc: RpcClient, token: Address, *, at: BlockNumber) -> TokenReport:
    """What the token's views say at a block, its behaviour `untried`. Raises TokenUnfit with every missing one."""
    if not await has_code(rpc, token, at=at):
        raise TokenUnfit(token, ["no contract is there: check the address and that network.name is its chain"])
    faults: list[str] = []
    said: dict[str, object] = {}
    for view, kind in VIEWS:
        try:
            (said[view],) = decode_result([kind], await rpc.eth_call(to=token, data=encode_call(view), at=at))
        except (UndecodableAnswer, RpcRefused) as error:
            if isinstance(error, RpcRefused) and not error.is_execution:
                raise  # the endpoint's trouble is not the token's word
            faults.append(f"it does not answer {view} with a {kind}: docs/tokens.md says what a token needs")
    if not faults:
        numbers = {view: int(str(said[view])) for view, kind in VIEWS if kind != "string"}
        if numbers["mintAmount()"] == 0:
            faults.append("mintAmount() is 0: a unit has to be more than nothing")
        if numbers["mintCount()"] > numbers["maxMintCount()"]:
            faults.append("mintCount() is above maxMintCount(): its counts cannot be trusted")
    if faults:
        raise TokenUnfit(token, faults)
    return TokenReport(
        address=token,
        height=at,
        name=_printable(said["name()"]),
        symbol=_printable(said["symbol()"]),
        decimals=numbers["decimals()"],
        mint_amount=numbers["mintAmount()"],
        max_mint_count=numbers["maxMintCount()"],
        minted=numbers["mintCount()"],
        used_ids="untried",
    )


async def check(
    rpc: RpcClient, token: Address, *, minters: Sequence[Address], at: BlockNumber, try_a_mint: bool = True
) -> TokenReport:
    """Read the token, and try what each of `minters` would do with it.

    Without `try_a_mint` views and roles are read only, for endpoints that do not take state overrides. Raises
    TokenUnfit with all that is wrong, and CannotTry where the endpoint does not take them.
    """
    report = await read(rpc, token, at=at)
    faults: list[str] = []
    if await _answers_bool(rpc, encode_has_minted(_PROBE_ID), to=token, at=at) is None:
        faults.append("it does not answer hasMinted(bytes32) with a bool: a unit minted twice could not be told")
    used_ids: UsedIds = "untried"
    for minter in minters:
        may_mint = await _answers_bool(rpc, encode_call(_HAS_ROLE, MINTER_ROLE, minter), to=token, at=at)
        if may_mint is False:
            faults.append(lacks_role(minter))
        elif try_a_mint and report.minted < report.max_mint_count and not faults:
            tried = await _try_minting(rpc, report, minter)
            faults += tried.faults
            used_ids = tried.used_ids
    if faults:
        raise TokenUnfit(token, faults)
    return replace(report, used_ids=used_ids)


def lacks_role(minter: Address) -> str:
    """The sentence for a mint signer that may not mint."""
    return (
        f"the mint signer {checksum_address(minter)} has no MINTER_ROLE:"
        f" let the token's admin call grantRole({hex_text(MINTER_ROLE)}, {checksum_address(minter)})"
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    used_ids: UsedIds
    faults: tuple[str, ...] = ()


async def _try_minting(rpc: RpcClient, report: TokenReport, minter: Address) -> _Tried:
    """One unit, and then the same unit again, from the mint signer's account."""
    batch = encode_batch_mint([_PROBE_RECIPIENT], [_PROBE_ID])
    count = encode_call("mintCount()")
    balance = encode_call("balanceOf(address)", _PROBE_RECIPIENT)
    used = encode_has_minted(_PROBE_ID)
    answers = await _as_account(
        rpc,
        minter,
        [(report.address, data) for data in (balance, batch, count, balance, used, batch, count)],
        at=report.height,
    )
    if not answers[1][0]:
        reason = revert_reason(answers[1][1])
        return _Tried("untried", (f"it refuses batchMint from the mint signer {checksum_address(minter)}: {reason}",))
    had, minted, has, is_used, minted_again = (_number(answers[i]) for i in (0, 2, 3, 4, 6))
    faults = []
    if minted != report.minted + 1:
        faults.append(f"batchMint of one unit takes mintCount() from {report.minted} to {minted}, not one further")
    if has - had != report.mint_amount:
        faults.append(f"batchMint of one unit gives {has - had} of the token, mintAmount() says {report.mint_amount}")
    if is_used != 1:
        faults.append("hasMinted() is false for a unit that was just minted: a unit minted twice could not be told")
    if minted_again > minted:
        faults.append("it mints a used mint id again: whatever is repeated after a crash would be minted twice")
    return _Tried("skipped" if answers[5][0] else "reverted", tuple(faults))


async def _as_account(
    rpc: RpcClient, account: Address, calls: Sequence[tuple[Address, bytes]], *, at: BlockNumber
) -> list[tuple[bool, bytes]]:
    fields = {"to": hex_text(account), "data": hex_text(encode_aggregate3(calls))}
    lent = {hex_text(account): {"code": hex_text(artifact("Multicall3").runtime)}}
    try:
        said = await rpc.call("eth_call", fields, hex(at), lent, result=str)
        return decode_aggregate3(bytes.fromhex(said[2:]))
    except (RpcRefused, UndecodableAnswer, ValueError) as error:
        raise CannotTry(
            f"the endpoint cannot try a mint without sending it (eth_call with a state override): {error}."
            " Name another endpoint in network.rpc_urls, or add --untried to offer the token without this trial"
        ) from error


async def _answers_bool(rpc: RpcClient, data: bytes, *, to: Address, at: BlockNumber) -> bool | None:
    try:
        answer = await rpc.eth_call(to=to, data=data, at=at)
    except RpcRefused as refused:
        if not refused.is_execution:
            raise
        return None
    return answer[-1] == 1 if len(answer) == 32 and not any(answer[:-1]) and answer[-1] < 2 else None


def _number(answer: tuple[bool, bytes]) -> int:
    return int.from_bytes(answer[1]) if answer[0] and len(answer[1]) == 32 else -1


def _printable(said: object) -> str:
    # A contract chooses these letters; they end up in tables and answers.
    return "".join(letter for letter in str(said)[:NAME_CHARS_MAX] if letter.isprintable())
