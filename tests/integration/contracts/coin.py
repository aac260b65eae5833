"""The development stablecoin as payers and its owner use it; eth-account signs, as an oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from eth_account import Account

from payfirst.chain.blocks import Receipt
from payfirst.chain.contracts import encode_call, encode_transfer_with_authorization
from payfirst.local.chain import CHAIN_ID, USDC, LocalChain, dev_address, dev_key
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    Wei,
    checksum_address,
    keccak,
)

from .calls import account, view

PAYER = dev_address("payer")
SELLER = account("seller")
DOMAIN = {"name": "USDC", "version": "2", "chainId": CHAIN_ID, "verifyingContract": checksum_address(USDC)}
PRICE = AtomicAmount(1_000)
FIRST_NONCE = AuthorizationNonce(keccak(b"order"))
_TRANSFER = "address,address,uint256,uint256,uint256,bytes32"
_FIELDS = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]
_CANCEL_FIELDS = [{"name": "authorizer", "type": "address"}, {"name": "nonce", "type": "bytes32"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an EIP-3009 authorization says."""

    payer: Address = PAYER
    pay_to: Address = SELLER
    value: AtomicAmount = PRICE
    valid_after: UnixTime
    valid_before: UnixTime
    nonce: AuthorizationNonce = FIRST_NONCE

    def arguments(self) -> tuple[object, ...]:
        """In the order of the ABI."""
        return (self.payer, self.pay_to, self.value, self.valid_after, self.valid_before, self.nonce)

    def numbered(self, number: int) -> Order:
        """The same with a nonce of its own."""
        return replace(self, nonce=AuthorizationNonce(keccak(f"order {number}".encode())))


class Coin:
    """The stablecoin of one chain."""

    def __init__(self, chain: LocalChain) -> None:
        self.chain = chain
        self.address = USDC

    async def order(self) -> Order:
        """An authorization of PAYER's that is valid for the hour around now."""
        now = (await self.chain.rpc.head()).time
        return Order(valid_after=UnixTime(now - 1_800), valid_before=UnixTime(now + 1_800))

    async def fund(self, address: Address = PAYER, amount: int = 1_000_000) -> None:
        """Give `address` money."""
        await self.chain.fund_usdc([address], AtomicAmount(amount))

    async def balance(self, address: Address) -> int:
        """In atomic units."""
        return int(await view(self.chain, USDC, "balanceOf(address)", "uint256", address))

    async def used(self, order: Order) -> bool:
        """Whether the authorization was used or cancelled."""
        return bool(
            await view(self.chain, USDC, "authorizationState(address,bytes32)", "bool", order.payer, order.nonce)
        )

    async def owner(self, signature: str, *args: object) -> Receipt:
        """A transaction of the owner's."""
        return await self.chain.send(USDC, encode_call(signature, *args))

    async def as_role(self, role: str, signature: str, *args: object) -> Receipt:
        """A transaction of the local chain's `role`, which is given gas for it."""
        await self.chain.fund_gas([dev_address(role)], Wei(10**18))
        return await self.chain.send(USDC, encode_call(signature, *args), dev_key(role))

    async def transfer(self, order: Order, signature: bytes) -> Receipt:
        """transferWithAuthorization by a stranger, with v, r and s."""
        return await self.chain.send(USDC, transfer_data(order, signature))

    async def transfer_bytes(self, order: Order, signature: bytes) -> Receipt:
        """transferWithAuthorization by a stranger, with the signature as bytes."""
        return await self.owner(f"transferWithAuthorization({_TRANSFER},bytes)", *order.arguments(), signature)

    async def receive(self, order: Order, signature: bytes, *, role: str) -> Receipt:
        """receiveWithAuthorization by `role`, with v, r and s."""
        parts = split(signature)
        return await self.as_role(
            role, f"receiveWithAuthorization({_TRANSFER},uint8,bytes32,bytes32)", *order.arguments(), *parts
        )

    async def receive_bytes(self, order: Order, signature: bytes, *, role: str) -> Receipt:
        """receiveWithAuthorization by `role`, with the signature as bytes."""
        return await self.as_role(role, f"receiveWithAuthorization({_TRANSFER},bytes)", *order.arguments(), signature)

    async def cancel(self, order: Order, signature: bytes) -> Receipt:
        """cancelAuthorization by a stranger, with v, r and s."""
        parts = split(signature)
        return await self.owner(
            "cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)", order.payer, order.nonce, *parts
        )

    async def cancel_bytes(self, order: Order, signature: bytes) -> Receipt:
        """cancelAuthorization by a stranger, with the signature as bytes."""
        return await self.owner("cancelAuthorization(address,bytes32,bytes)", order.payer, order.nonce, signature)


def transfer_data(order: Order, signature: bytes) -> bytes:
    """Calldata of transferWithAuthorization, by payfirst's own encoder."""
    return encode_transfer_with_authorization(
        payer=order.payer,
        pay_to=order.pay_to,
        value=order.value,
        valid_after=order.valid_after,
        valid_before=order.valid_before,
        nonce=order.nonce,
        signature=signature,
    )


def sign(order: Order, *, kind: str = "TransferWithAuthorization", role: str = "payer") -> bytes:
    """r, s, v over `order` as a transfer or a ReceiveWithAuthorization, by the key of `role`."""
    names = [field["name"] for field in _FIELDS]
    return _sign(role, kind, _FIELDS, dict(zip(names, order.arguments(), strict=True)))


def sign_cancel(order: Order, *, role: str = "payer") -> bytes:
    """r, s, v over the cancellation of `order`."""
    message = {"authorizer": order.payer, "nonce": order.nonce}
    return _sign(role, "CancelAuthorization", _CANCEL_FIELDS, message)


def split(signature: bytes) -> tuple[int, bytes, bytes]:
    """v, r, s."""
    return signature[64], signature[:32], signature[32:64]


def _sign(role: str, kind: str, fields: list[dict[str, str]], message: Mapping[str, object]) -> bytes:
    signed = Account.sign_typed_data(
        dev_key(role), domain_data=DOMAIN, message_types={kind: fields}, message_data=dict(message)
    )
    return bytes(signed.signature)
