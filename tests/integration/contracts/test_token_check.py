"""What a token has to be to be sold: each check beside a contract that fails it."""

from __future__ import annotations

import pytest

from payfirst.chain import deployment, token_check
from payfirst.chain.contracts import encode_call
from payfirst.chain.deployment import NewToken
from payfirst.chain.token_check import MINTER_ROLE, TokenReport, TokenUnfit
from payfirst.local.chain import LocalChain
from payfirst.units import Address, keccak

from .calls import account, view
from .token import MINT_AMOUNT, OWNER, Token, mint_id

ALICE, BOB, STRANGER = account("alice"), account("bob"), account("stranger")


async def check(chain: LocalChain, token: Address, *minters: Address) -> TokenReport:
    """The check at the head, for the chain's owner as minter unless others are named."""
    head = await chain.rpc.head()
    return await token_check.check(chain.rpc, token, minters=minters or (OWNER,), at=head.number)


async def faults(chain: LocalChain, token: Address, *minters: Address) -> str:
    """What the check says against a token."""
    with pytest.raises(TokenUnfit) as refused:
        await check(chain, token, *minters)
    return str(refused.value)


async def test_the_shipped_token_passes(chain: LocalChain, token: Token) -> None:
    """Its facts are read, and nothing of what was tried is left on chain."""
    await token.mint(ALICE, mint_id(1))
    report = await check(chain, token.address)
    assert (report.name, report.symbol, report.decimals) == ("Pass", "PASS", 18)
    assert (report.mint_amount, report.max_mint_count, report.minted) == (MINT_AMOUNT, 10, 1)
    assert report.used_ids == "skipped"
    assert await token.number("mintCount") == 1


async def test_a_token_that_reverts_on_a_used_id_passes_and_is_told_apart(chain: LocalChain) -> None:
    """Workers drive it as well."""
    strict = await Token.deploy(chain, "RevertingMintToken")
    assert (await check(chain, strict.address)).used_ids == "reverted"


async def test_a_token_that_is_sold_out_passes_untried(chain: LocalChain) -> None:
    """There is nothing left to try it with; the role is read."""
    small = await Token.deploy(chain, "MintToken", max_mint_count=1)
    await small.mint(ALICE, mint_id(1))
    assert (await check(chain, small.address)).used_ids == "untried"
    assert "has no MINTER_ROLE" in await faults(chain, small.address, STRANGER)


async def test_a_token_that_mints_an_id_twice_is_refused(chain: LocalChain) -> None:
    """The one thing that no worker can make good."""
    said = await faults(chain, (await Token.deploy(chain, "CarelessMintToken")).address)
    assert "it mints a used mint id again" in said
    assert "hasMinted() is false for a unit that was just minted" in said


async def test_a_signer_without_the_role_is_named(chain: LocalChain, token: Token) -> None:
    """With the very call that mends it; the others' role does not help."""
    said = await faults(chain, token.address, OWNER, STRANGER)
    assert f"the mint signer 0x{STRANGER.hex()}" in said.lower()
    assert f"grantRole(0x{MINTER_ROLE.hex()}" in said
    assert f"0x{OWNER.hex()}" not in said.lower()


async def test_an_address_without_a_contract_is_refused(chain: LocalChain) -> None:
    """One sentence, not one for each view."""
    assert (await faults(chain, STRANGER)).count("\n") == 1


async def test_another_kind_of_contract_is_refused_with_all_it_lacks(chain: LocalChain) -> None:
    """The stablecoin has a name, but no units."""
    said = await faults(chain, chain.usdc)
    for missing in ("mintAmount()", "maxMintCount()", "mintCount()", "remainingSupply()"):
        assert missing in said, missing
    assert "name()" not in said


def new_token(**changes: object) -> NewToken:
    """A token to be deployed."""
    facts: dict[str, object] = {
        "name": "Launched",
        "symbol": "LNC",
        "mint_amount": 5,
        "max_mint_count": 7,
        "owner": ALICE,
        "minters": (OWNER, BOB),
    }
    return NewToken(**{**facts, **changes})  # type: ignore[arg-type]  # named fields of NewToken


async def test_a_launched_token_stands_where_it_was_foretold_with_its_roles(chain: LocalChain) -> None:
    """The owner is its only admin, each signer may mint, and what launched it keeps nothing."""
    new = new_token()
    receipt = await chain.send(deployment.PROXY, deployment.calldata(new))
    address = deployment.address(new)
    report = await check(chain, address, *new.minters)
    assert (report.name, report.symbol, report.mint_amount, report.max_mint_count) == ("Launched", "LNC", 5, 7)
    has_role = "hasRole(bytes32,address)"
    assert await view(chain, address, has_role, "bool", bytes(32), ALICE)
    granted = {log.topics[2][12:] for log in receipt.logs if log.topics[0] == ROLE_GRANTED and not any(log.topics[1])}
    (launcher,) = granted - {ALICE}
    assert not await view(chain, address, has_role, "bool", bytes(32), launcher)
    assert not await view(chain, address, has_role, "bool", MINTER_ROLE, launcher)


ROLE_GRANTED = keccak(b"RoleGranted(bytes32,address,address)")


async def test_launching_the_same_again_makes_no_second_token(chain: LocalChain) -> None:
    """That is what makes the command safe to repeat."""
    new = new_token()
    await chain.send(deployment.PROXY, deployment.calldata(new))
    again = await chain.send(deployment.PROXY, deployment.calldata(new), gas=5_000_000)
    assert not again.succeeded


def test_the_order_of_the_minters_makes_no_other_token() -> None:
    """Name, symbol, amounts, owner and minters do."""
    assert deployment.address(new_token()) == deployment.address(new_token(minters=(BOB, OWNER, BOB)))
    for changes in ({"symbol": "X"}, {"mint_amount": 6}, {"owner": BOB}, {"minters": (OWNER,)}):
        assert deployment.address(new_token(**changes)) != deployment.address(new_token()), changes


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"symbol": " "},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"mint_amount": 0},
        {"max_mint_count": 0},
        {"mint_amount": 2**200, "max_mint_count": 2**200},
        {"owner": Address(bytes(20))},
        {"minters": ()},
        {"minters": (Address(bytes(20)),)},
    ],
)
def test_what_the_constructor_would_refuse_is_refused_before(changes: dict[str, object]) -> None:
    """No gas is spent on it."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        new_token(**changes)


async def test_the_role_can_be_given_afterwards(chain: LocalChain, token: Token) -> None:
    """The sentence's own call makes the check pass."""
    await chain.send(token.address, encode_call("grantRole(bytes32,address)", MINTER_ROLE, STRANGER))
    assert (await check(chain, token.address, OWNER, STRANGER)).used_ids == "skipped"
