"""A token that is minted in units, as its minter drives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from payfirst.chain.abi import Artifact, parse_artifact
from payfirst.chain.blocks import Receipt
from payfirst.chain.contracts import artifact, encode_batch_mint, encode_mint
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import Address, MintId, keccak

from .calls import view

OWNER = dev_address("owner")
MINT_AMOUNT = 5 * 10**18


def compiled_for_tests(name: str) -> Artifact:
    """A contract that is compiled for the tests only."""
    return parse_artifact((Path(__file__).parent / "artifacts" / f"{name}.json").read_bytes())


def mint_id(number: int) -> MintId:
    """The id of a unit."""
    return MintId(keccak(f"unit {number}".encode()))


class Token:
    """One deployed token."""

    def __init__(self, chain: LocalChain, address: Address) -> None:
        self.chain = chain
        self.address = address

    @classmethod
    async def deploy(
        cls,
        chain: LocalChain,
        contract: str,
        *,
        mint_amount: int = MINT_AMOUNT,
        max_mint_count: int = 10,
        admin: Address = OWNER,
        minter: Address = OWNER,
    ) -> Token:
        """Deploy MintToken or one of the tests' contracts."""
        compiled = artifact(contract) if contract == "MintToken" else compiled_for_tests(contract)
        return cls(chain, await chain.deploy(compiled, "Pass", "PASS", mint_amount, max_mint_count, admin, minter))

    async def mint(self, to: Address, unit: MintId, key: bytes | None = None) -> Receipt:
        """One unit."""
        return await self.chain.send(self.address, encode_mint(to, unit), key)

    async def batch(self, to: Sequence[Address], units: Sequence[MintId], key: bytes | None = None) -> Receipt:
        """Several units in one transaction."""
        return await self.chain.send(self.address, encode_batch_mint(to, units), key)

    async def number(self, name: str) -> int:
        """The answer of a view without arguments."""
        return int(await view(self.chain, self.address, f"{name}()", "uint256"))

    async def balance(self, address: Address) -> int:
        """In the token's smallest unit."""
        return int(await view(self.chain, self.address, "balanceOf(address)", "uint256", address))

    async def has_minted(self, unit: MintId) -> bool:
        """Whether the unit exists."""
        return bool(await view(self.chain, self.address, "hasMinted(bytes32)", "bool", unit))
