"""MintToken on a chain: each function, refusal and event."""

from __future__ import annotations

import pytest
from eth_account import Account

from payfirst.chain.contracts import TOKENS_MINTED_TOPIC, TRANSFER_TOPIC, encode_call
from payfirst.chain.evidence import minted_units
from payfirst.local.chain import CHAIN_ID, LocalChain, dev_address, dev_key
from payfirst.units import ZERO_ADDRESS, Address, MintId, Wei, checksum_address, keccak

from .calls import account, refusal, view, word
from .token import MINT_AMOUNT, OWNER, Token, mint_id

ALICE, BOB = account("alice"), account("bob")
MINTER_ROLE = keccak(b"MINTER_ROLE")


async def test_mint_gives_one_unit(token: Token) -> None:
    """A minted unit is mintAmount on the recipient's balance, counted once."""
    await token.mint(ALICE, mint_id(1))
    assert await token.balance(ALICE) == MINT_AMOUNT
    assert await token.number("mintCount") == 1
    assert await token.number("totalSupply") == MINT_AMOUNT
    assert await token.has_minted(mint_id(1))
    assert not await token.has_minted(mint_id(2))


async def test_mint_says_so_in_its_logs(token: Token) -> None:
    """A unit is a Transfer from nobody followed by TokensMinted with its id."""
    receipt = await token.mint(ALICE, mint_id(1))
    transfer, minted = receipt.logs
    assert transfer.topics == (TRANSFER_TOPIC, bytes(32), word(ALICE))
    assert minted.topics == (TOKENS_MINTED_TOPIC, word(ALICE))
    assert minted.data == MINT_AMOUNT.to_bytes(32) + mint_id(1)
    assert [unit.mint_id for unit in minted_units(receipt, tokens={token.address})] == [mint_id(1)]


async def test_mint_refuses_a_used_id(token: Token) -> None:
    """The same id a second time reverts, whoever it is for."""
    await token.mint(ALICE, mint_id(1))
    reason = await refusal(token.mint(BOB, mint_id(1)))
    assert str(reason) == f"MintToken__MintIdUsed(0x{mint_id(1).hex()})"


async def test_mint_refuses_the_unit_after_the_last(chain: LocalChain) -> None:
    """A token of one unit mints one."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=1)
    await token.mint(ALICE, mint_id(1))
    assert str(await refusal(token.mint(ALICE, mint_id(2)))) == "MintToken__CapReached(1, 0)"


@pytest.mark.parametrize("batch", [False, True])
async def test_only_a_minter_mints(token: Token, batch: bool) -> None:
    """Without MINTER_ROLE neither mint nor batchMint works."""
    key = dev_key("stranger")
    attempt = token.batch([ALICE], [mint_id(1)], key) if batch else token.mint(ALICE, mint_id(1), key)
    reason = await refusal(attempt)
    assert reason.name == "AccessControlUnauthorizedAccount"
    assert dev_address("stranger").hex() in reason.text


async def test_nobody_gets_no_unit(token: Token) -> None:
    """The zero address cannot be minted to."""
    assert (await refusal(token.mint(ZERO_ADDRESS, mint_id(1)))).name == "ERC20InvalidReceiver"


async def test_batch_mints_each_pair(token: Token) -> None:
    """A batch gives each recipient its units, in order, and counts them all."""
    receipt = await token.batch([ALICE, BOB, ALICE], [mint_id(1), mint_id(2), mint_id(3)])
    units = minted_units(receipt, tokens={token.address})
    assert [(unit.recipient, unit.mint_id) for unit in units] == [
        (ALICE, mint_id(1)),
        (BOB, mint_id(2)),
        (ALICE, mint_id(3)),
    ]
    assert await token.balance(ALICE) == 2 * MINT_AMOUNT
    assert await token.number("mintCount") == 3


async def test_batch_skips_a_used_id(token: Token) -> None:
    """A used id leaves the others of its batch alone, and is neither minted nor counted again."""
    await token.mint(ALICE, mint_id(1))
    receipt = await token.batch([BOB, BOB], [mint_id(1), mint_id(2)])
    assert [unit.mint_id for unit in minted_units(receipt, tokens={token.address})] == [mint_id(2)]
    assert await token.balance(BOB) == MINT_AMOUNT
    assert await token.number("mintCount") == 2


async def test_batch_mints_an_id_it_holds_twice_once(token: Token) -> None:
    """The first of two equal ids in one batch wins."""
    await token.batch([ALICE, BOB], [mint_id(1), mint_id(1)])
    assert (await token.balance(ALICE), await token.balance(BOB)) == (MINT_AMOUNT, 0)
    assert await token.number("mintCount") == 1


async def test_batch_of_used_ids_only_changes_nothing(token: Token) -> None:
    """Repeating a whole batch succeeds without a log: the worker's crash costs gas only."""
    await token.batch([ALICE, BOB], [mint_id(1), mint_id(2)])
    receipt = await token.batch([ALICE, BOB], [mint_id(1), mint_id(2)])
    assert receipt.succeeded
    assert receipt.logs == ()
    assert await token.number("mintCount") == 2


async def test_empty_batch_is_no_fault(token: Token) -> None:
    """Nothing to mint is nothing wrong."""
    assert (await token.batch([], [])).logs == ()


async def test_batch_refuses_unequal_lengths(token: Token) -> None:
    """One id too few reverts the batch."""
    data = encode_call("batchMint(address[],bytes32[])", [ALICE, BOB], [mint_id(1)])
    reason = await refusal(token.chain.send(token.address, data))
    assert str(reason) == "MintToken__LengthMismatch(2, 1)"


async def test_batch_beyond_the_cap_mints_nothing(chain: LocalChain) -> None:
    """A batch that does not fit reverts as a whole."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=2)
    units = [mint_id(1), mint_id(2), mint_id(3)]
    assert str(await refusal(token.batch([ALICE] * 3, units))) == "MintToken__CapReached(3, 2)"
    assert await token.number("mintCount") == 0
    assert not await token.has_minted(mint_id(1))


async def test_used_ids_do_not_count_against_the_cap(chain: LocalChain) -> None:
    """A batch fits when what is new in it fits."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=2)
    await token.mint(ALICE, mint_id(1))
    await token.batch([ALICE, ALICE], [mint_id(1), mint_id(2)])
    assert await token.number("remainingSupply") == 0


async def test_views_tell_what_is_left(token: Token) -> None:
    """remainingSupply is the units left times mintAmount."""
    await token.batch([ALICE, BOB], [mint_id(1), mint_id(2)])
    assert await token.number("mintAmount") == MINT_AMOUNT
    assert await token.number("maxMintCount") == 10
    assert await token.number("remainingSupply") == 8 * MINT_AMOUNT


async def test_admin_names_minters(token: Token) -> None:
    """Whoever is granted MINTER_ROLE mints, until it is revoked."""
    minter = dev_address("minter")
    await token.chain.fund_gas([minter], Wei(10**18))
    assert await view(token.chain, token.address, "MINTER_ROLE()", "bytes32") == MINTER_ROLE
    await token.chain.send(token.address, encode_call("grantRole(bytes32,address)", MINTER_ROLE, minter))
    await token.mint(ALICE, mint_id(1), dev_key("minter"))
    await token.chain.send(token.address, encode_call("revokeRole(bytes32,address)", MINTER_ROLE, minter))
    assert (await refusal(token.mint(ALICE, mint_id(2), dev_key("minter")))).name == "AccessControlUnauthorizedAccount"


async def test_a_minter_is_no_admin(chain: LocalChain) -> None:
    """MINTER_ROLE gives no right to name others."""
    token = await Token.deploy(chain, "MintToken", admin=ALICE)
    attempt = chain.send(token.address, encode_call("grantRole(bytes32,address)", MINTER_ROLE, BOB))
    assert (await refusal(attempt)).name == "AccessControlUnauthorizedAccount"


async def test_zero_minter_means_none(chain: LocalChain) -> None:
    """Without a minter the admin cannot mint either before it grants the role."""
    token = await Token.deploy(chain, "MintToken", minter=ZERO_ADDRESS)
    assert not await view(chain, token.address, "hasRole(bytes32,address)", "bool", MINTER_ROLE, ZERO_ADDRESS)
    assert (await refusal(token.mint(ALICE, mint_id(1)))).name == "AccessControlUnauthorizedAccount"


@pytest.mark.parametrize(
    ("mint_amount", "max_mint_count", "admin", "error"),
    [
        (0, 1, OWNER, "MintToken__ZeroMintAmount"),
        (1, 0, OWNER, "MintToken__ZeroMaxMintCount"),
        (1, 1, ZERO_ADDRESS, "MintToken__ZeroAdmin"),
        (2**200, 2**200, OWNER, "Panic"),
    ],
)
async def test_constructor_refuses_a_token_that_cannot_work(
    chain: LocalChain, mint_amount: int, max_mint_count: int, admin: Address, error: str
) -> None:
    """No amount, no unit, nobody in charge, or a supply that does not fit a word."""
    attempt = Token.deploy(chain, "MintToken", mint_amount=mint_amount, max_mint_count=max_mint_count, admin=admin)
    assert (await refusal(attempt)).name == error


async def test_it_is_an_erc20(token: Token) -> None:
    """Name, symbol, decimals, and a transfer by the holder."""
    holder = dev_address("holder")
    await token.chain.fund_gas([holder], Wei(10**18))
    await token.mint(holder, mint_id(1))
    await token.chain.send(token.address, encode_call("transfer(address,uint256)", BOB, 7), dev_key("holder"))
    assert await token.balance(BOB) == 7
    assert await view(token.chain, token.address, "name()", "string") == "Pass"
    assert await view(token.chain, token.address, "symbol()", "string") == "PASS"
    assert await token.number("decimals") == 18


async def test_permit_sets_an_allowance(token: Token) -> None:
    """A signed permit (EIP-2612) is an approval without a transaction of the holder's."""
    holder = dev_address("holder")
    deadline = (await token.chain.rpc.head()).time + 600
    message = {"owner": holder, "spender": BOB, "value": 9, "nonce": 0, "deadline": deadline}
    kinds = {"owner": "address", "spender": "address", "value": "uint256", "nonce": "uint256", "deadline": "uint256"}
    signed = Account.sign_typed_data(
        dev_key("holder"),
        domain_data={
            "name": "Pass",
            "version": "1",
            "chainId": CHAIN_ID,
            "verifyingContract": checksum_address(token.address),
        },
        message_types={"Permit": [{"name": name, "type": kind} for name, kind in kinds.items()]},
        message_data=message,
    )
    signature = bytes(signed.signature)
    data = encode_call(
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        holder, BOB, 9, deadline, signature[64], signature[:32], signature[32:64],
    )  # fmt: skip
    await token.chain.send(token.address, data)
    assert await view(token.chain, token.address, "allowance(address,address)", "uint256", holder, BOB) == 9


async def test_reverting_token_refuses_the_whole_batch(chain: LocalChain) -> None:
    """The tests' other token has the same ABI, but one used id takes its batch along."""
    token = await Token.deploy(chain, "RevertingMintToken")
    await token.mint(ALICE, mint_id(1))
    reason = await refusal(token.batch([BOB, BOB], [mint_id(2), mint_id(1)]))
    assert reason.name == "MintToken__MintIdUsed"
    assert not await token.has_minted(mint_id(2))


async def test_reverting_token_mints_fresh_batches(chain: LocalChain) -> None:
    """Without a used id it mints as the other does."""
    token = await Token.deploy(chain, "RevertingMintToken")
    units: list[MintId] = [mint_id(1), mint_id(2)]
    receipt = await token.batch([ALICE, BOB], units)
    assert [unit.mint_id for unit in minted_units(receipt, tokens={token.address})] == units
    assert await token.number("mintCount") == 2
