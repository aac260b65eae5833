"""DevStablecoin on a chain: EIP-3009, each function, refusal and event, as FiatTokenV2.2 has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from payfirst.chain.contracts import (
    AUTHORIZATION_CANCELED_TOPIC,
    AUTHORIZATION_USED_TOPIC,
    TRANSFER_TOPIC,
    Artifact,
    encode_call,
)
from payfirst.chain.evidence import paid_transfers
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import ZERO_ADDRESS, UnixTime, keccak
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text

from .calls import refusal, view, word
from .coin import PAYER, SELLER, Coin, sign, sign_cancel
from .token import compiled_for_tests

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def burn_wallet() -> Artifact:
    """A smart wallet that agrees with every signature."""
    return compiled_for_tests("BurnWallet")


# ---- what it is


async def test_it_calls_itself_what_usdc_on_base_sepolia_does(chain: LocalChain, coin: Coin) -> None:
    """Name, version, symbol and decimals are what clients sign and show."""
    assert await view(chain, coin.address, "name()", "string") == "USDC"
    assert await view(chain, coin.address, "version()", "string") == "2"
    assert await view(chain, coin.address, "symbol()", "string") == "USDC"
    assert await view(chain, coin.address, "decimals()", "uint8") == 6


async def test_its_domain_is_the_one_payfirst_signs_for(chain: LocalChain, coin: Coin) -> None:
    """DOMAIN_SEPARATOR follows from chain id and address, although the code was set in place."""
    asset = Asset(network=network_from_text("base-sepolia"), address=coin.address, name="USDC", version="2", decimals=6)
    assert await view(chain, coin.address, "DOMAIN_SEPARATOR()", "bytes32") == asset.domain_separator


async def test_storage_slot_0_holds_its_owner(chain: LocalChain, coin: Coin) -> None:
    """The local chain names the owner by setting slot 0, and that leaves it unpaused."""
    slot = await chain.rpc.call("eth_getStorageAt", "0x" + coin.address.hex(), "0x0", "latest", result=str)
    assert bytes.fromhex(slot[2:]) == word(dev_address("owner"))
    assert await view(chain, coin.address, "owner()", "address") == "0x" + dev_address("owner").hex()
    assert not await view(chain, coin.address, "paused()", "bool")


@pytest.mark.parametrize("kind", ["Transfer", "Receive"])
async def test_it_tells_the_types_it_signs(chain: LocalChain, coin: Coin, kind: str) -> None:
    """The type hashes are EIP-3009's."""
    fields = "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    name = f"{kind.upper()}_WITH_AUTHORIZATION_TYPEHASH()"
    expected = keccak(f"{kind}WithAuthorization{fields}".encode())
    assert await view(chain, coin.address, name, "bytes32") == expected


# ---- transferWithAuthorization


@pytest.mark.parametrize("form", ["v, r, s", "bytes"])
async def test_authorization_moves_the_money_once(coin: Coin, form: str) -> None:
    """A stranger submits the payer's authorization; the second time it is used."""
    await coin.fund()
    order = await coin.order()
    submit = coin.transfer if form == "v, r, s" else coin.transfer_bytes
    assert not await coin.used(order)
    await submit(order, sign(order))
    assert await coin.used(order)
    assert await coin.balance(SELLER) == order.value
    assert await coin.balance(PAYER) == 1_000_000 - order.value
    reason = await refusal(submit(order, sign(order)))
    assert str(reason) == "FiatTokenV2: authorization is used or canceled"


async def test_use_is_logged_before_the_transfer(coin: Coin) -> None:
    """AuthorizationUsed, then Transfer: what evidence of a payment rests on."""
    await coin.fund()
    order = await coin.order()
    receipt = await coin.transfer(order, sign(order))
    used, transfer = receipt.logs
    assert used.topics == (AUTHORIZATION_USED_TOPIC, word(PAYER), order.nonce)
    assert transfer.topics == (TRANSFER_TOPIC, word(PAYER), word(SELLER))
    assert int.from_bytes(transfer.data) == order.value
    assert [paid.nonce for paid in paid_transfers(receipt, asset=coin.address)] == [order.nonce]


async def test_not_yet_valid_is_refused(coin: Coin) -> None:
    """validAfter has to lie before the block's time."""
    await coin.fund()
    order = await coin.order()
    order = replace(order, valid_after=UnixTime(order.valid_after + 3_600))
    assert str(await refusal(coin.transfer(order, sign(order)))) == "FiatTokenV2: authorization is not yet valid"


async def test_expired_is_refused(coin: Coin) -> None:
    """validBefore has to lie after the block's time."""
    await coin.fund()
    order = await coin.order()
    order = replace(order, valid_before=UnixTime(order.valid_after + 1_800))
    assert str(await refusal(coin.transfer(order, sign(order)))) == "FiatTokenV2: authorization is expired"


async def test_signature_of_another_key_is_refused(coin: Coin) -> None:
    """Only the payer authorizes."""
    await coin.fund()
    order = await coin.order()
    assert str(await refusal(coin.transfer(order, sign(order, role="thief")))) == "FiatTokenV2: invalid signature"


async def test_signature_of_a_receive_is_no_transfer(coin: Coin) -> None:
    """The two kinds of authorization are signed apart."""
    await coin.fund()
    order = await coin.order()
    signature = sign(order, kind="ReceiveWithAuthorization")
    assert str(await refusal(coin.transfer(order, signature))) == "FiatTokenV2: invalid signature"


async def test_high_s_is_refused(coin: Coin) -> None:
    """The mirrored signature, equally valid mathematically, is not accepted (EIP-2)."""
    await coin.fund()
    order = await coin.order()
    signature = sign(order)
    mirrored_s = (CURVE_ORDER - int.from_bytes(signature[32:64])).to_bytes(32)
    mirrored = signature[:32] + mirrored_s + bytes([55 - signature[64]])
    assert str(await refusal(coin.transfer(order, mirrored))) == "ECRecover: invalid signature 's' value"


@pytest.mark.parametrize("v", [0, 1, 26, 29])
async def test_v_is_27_or_28(coin: Coin, v: int) -> None:
    """The recovery id without its 27 is refused too."""
    await coin.fund()
    order = await coin.order()
    signature = sign(order)[:64] + bytes([v])
    assert str(await refusal(coin.transfer(order, signature))) == "ECRecover: invalid signature 'v' value"


async def test_signature_that_recovers_nobody_is_refused(coin: Coin) -> None:
    """r = 0 belongs to no key; the zero address is never taken for the signer."""
    order = replace(await coin.order(), payer=ZERO_ADDRESS)
    signature = bytes(32) + (1).to_bytes(32) + b"\x1b"
    assert str(await refusal(coin.transfer(order, signature))) == "ECRecover: invalid signature"


async def test_signature_of_64_bytes_is_refused(coin: Coin) -> None:
    """The compact form (EIP-2098) is not taken."""
    order = await coin.order()
    reason = await refusal(coin.transfer_bytes(order, sign(order)[:64]))
    assert str(reason) == "ECRecover: invalid signature length"


async def test_empty_account_cannot_pay(coin: Coin) -> None:
    """Without the money the authorization stays unused."""
    order = await coin.order()
    assert str(await refusal(coin.transfer(order, sign(order)))) == "ERC20: transfer amount exceeds balance"
    assert not await coin.used(order)


async def test_nobody_cannot_be_paid(coin: Coin) -> None:
    """The zero address is refused as payee."""
    await coin.fund()
    order = replace(await coin.order(), pay_to=ZERO_ADDRESS)
    assert str(await refusal(coin.transfer(order, sign(order)))) == "ERC20: transfer to the zero address"


# ---- smart wallets


async def test_account_with_code_is_asked_itself(chain: LocalChain, coin: Coin) -> None:
    """A wallet that agrees (EIP-1271) pays with a signature that no key made."""
    wallet = await chain.deploy(burn_wallet())
    await coin.fund(wallet)
    order = replace(await coin.order(), payer=wallet)
    await coin.transfer_bytes(order, b"whatever the wallet likes")
    assert await coin.balance(SELLER) == order.value


async def test_key_of_an_account_with_code_does_not_count(chain: LocalChain, coin: Coin) -> None:
    """Once an account has code that knows no EIP-1271, its own key authorizes nothing."""
    await coin.fund()
    order = await coin.order()
    await chain.set_code(PAYER, bytes.fromhex("5f5ffd"))  # reverts
    assert str(await refusal(coin.transfer(order, sign(order)))) == "FiatTokenV2: invalid signature"


async def test_armed_wallet_burns_gas_only_where_it_costs(chain: LocalChain, coin: Coin) -> None:
    """It agrees in an eth_call, and in a transaction uses up what it is given."""
    wallet = await chain.deploy(burn_wallet())
    await chain.send(wallet, encode_call("arm(bool)", True))
    question = encode_call("isValidSignature(bytes32,bytes)", bytes(32), b"")
    assert (await chain.call(wallet, question))[:4] == bytes.fromhex("1626ba7e")
    receipt = await chain.send(wallet, question, gas=300_000)
    assert (receipt.succeeded, receipt.gas_used) == (False, 300_000)


# ---- receiveWithAuthorization


@pytest.mark.parametrize("form", ["v, r, s", "bytes"])
async def test_payee_receives(coin: Coin, form: str) -> None:
    """The payee submits the authorization itself."""
    await coin.fund()
    order = replace(await coin.order(), pay_to=dev_address("payee"))
    submit = coin.receive if form == "v, r, s" else coin.receive_bytes
    receipt = await submit(order, sign(order, kind="ReceiveWithAuthorization"), role="payee")
    assert [log.topics[0] for log in receipt.logs] == [AUTHORIZATION_USED_TOPIC, TRANSFER_TOPIC]
    assert await coin.balance(dev_address("payee")) == order.value


@pytest.mark.parametrize("form", ["v, r, s", "bytes"])
async def test_nobody_else_receives(coin: Coin, form: str) -> None:
    """A stranger cannot submit what is for the payee to receive."""
    await coin.fund()
    order = replace(await coin.order(), pay_to=dev_address("payee"))
    submit = coin.receive if form == "v, r, s" else coin.receive_bytes
    reason = await refusal(submit(order, sign(order, kind="ReceiveWithAuthorization"), role="stranger"))
    assert str(reason) == "FiatTokenV2: caller must be the payee"


# ---- cancelAuthorization


@pytest.mark.parametrize("form", ["v, r, s", "bytes"])
async def test_cancelled_authorization_is_worthless(coin: Coin, form: str) -> None:
    """After the payer's cancellation the authorization counts as used, and no money moved."""
    await coin.fund()
    order = await coin.order()
    submit = coin.cancel if form == "v, r, s" else coin.cancel_bytes
    receipt = await submit(order, sign_cancel(order))
    assert [log.topics for log in receipt.logs] == [(AUTHORIZATION_CANCELED_TOPIC, word(PAYER), order.nonce)]
    assert await coin.used(order)
    reason = await refusal(coin.transfer(order, sign(order)))
    assert str(reason) == "FiatTokenV2: authorization is used or canceled"


@pytest.mark.parametrize("form", ["v, r, s", "bytes"])
async def test_only_the_payer_cancels(coin: Coin, form: str) -> None:
    """A cancellation by another key is refused."""
    order = await coin.order()
    submit = coin.cancel if form == "v, r, s" else coin.cancel_bytes
    reason = await refusal(submit(order, sign_cancel(order, role="thief")))
    assert str(reason) == "FiatTokenV2: invalid signature"


async def test_used_authorization_cannot_be_cancelled(coin: Coin) -> None:
    """What is paid is paid."""
    await coin.fund()
    order = await coin.order()
    await coin.transfer(order, sign(order))
    reason = await refusal(coin.cancel(order, sign_cancel(order)))
    assert str(reason) == "FiatTokenV2: authorization is used or canceled"
