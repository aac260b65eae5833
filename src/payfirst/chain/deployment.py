"""Deploying a MintToken with its roles, to an address that follows from what is deployed and nothing else.

The creation code goes to the deterministic deployment proxy (github.com/Arachnid/deterministic-deployment-proxy),
which stands at one address on every public chain that has it and uses CREATE2 (EIP-1014). So the address is known
before anything is sent, and deploying the same token again can only find it there: no second one comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from payfirst.chain.contracts import encode_constructor
from payfirst.units import UINT256_MAX, ZERO_ADDRESS, Address, keccak

PROXY: Final = Address(bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c"))
MINTERS_MAX = 32
NAME_BYTES_MAX = 64

_SALT: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class NewToken:
    """What a token is made of. Raises ValueError on what its constructor would refuse."""

    name: str
    symbol: str
    mint_amount: int  # in the token's smallest unit
    max_mint_count: int
    owner: Address
    minters: tuple[Address, ...]

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("symbol", self.symbol)):
            if not text.strip() or not text.isprintable() or len(text.encode()) > NAME_BYTES_MAX:
                raise ValueError(f"the {what} is 1 to {NAME_BYTES_MAX} bytes of printable text")
        if self.mint_amount < 1 or self.max_mint_count < 1:
            raise ValueError("the mint amount and the number of mints are above zero")
        if self.mint_amount * self.max_mint_count > UINT256_MAX:
            raise ValueError("the whole supply, mint amount times mints, does not fit 256 bits")
        if self.owner == ZERO_ADDRESS or ZERO_ADDRESS in self.minters:
            raise ValueError("the zero address can be neither owner nor minter: nobody holds its key")
        if not 1 <= len(self.minters) <= MINTERS_MAX:
            raise ValueError(f"1 to {MINTERS_MAX} mint signers")


def calldata(token: NewToken) -> bytes:
    """What is sent to `PROXY`: a salt, and the creation code that deploys the token and gives out its roles."""
    return _SALT + _creation_code(token)


def address(token: NewToken) -> Address:
    """Where the token will stand: the first contract of the launching contract (EIP-1014, EIP-161)."""
    launch = Address(keccak(b"\xff" + PROXY + _SALT + keccak(_creation_code(token)))[12:])
    return Address(keccak(b"\xd6\x94" + launch + b"\x01")[12:])  # RLP of [launch, 1]


def _creation_code(token: NewToken) -> bytes:
    # The order of the minters must not make another token of it.
    minters: Sequence[Address] = sorted(set(token.minters))
    return encode_constructor(
        "MintTokenLaunch", token.name, token.symbol, token.mint_amount, token.max_mint_count, token.owner, minters
    )
