"""One good payment, from which each test changes what it is about."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

from payfirst.units import Address, AtomicAmount, AuthorizationNonce, UnixTime, keccak, parse_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import Authorization
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.signing import address_of, header_v1, header_v2, sign_authorization

NOW = UnixTime(1_800_000_000)
PAYER_KEY = keccak(b"payfirst tests: payer")
OTHER_KEY = keccak(b"payfirst tests: somebody else")
PAYER = address_of(PAYER_KEY)
BASE_SEPOLIA = network_from_text("base-sepolia")
USDC = Asset(
    network=BASE_SEPOLIA,
    address=parse_address("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
    name="USDC",
    version="2",
    decimals=6,
)
REQUIREMENTS = PaymentRequirements(
    asset=USDC,
    pay_to=Address(b"\x22" * 20),
    amount=AtomicAmount(10_000),
    max_timeout_s=900,
    resource="http://127.0.0.1:4021/api/mint/0x1111111111111111111111111111111111111111",
    description="1 unit",
)
AUTHORIZATION = Authorization(
    payer=PAYER,
    pay_to=REQUIREMENTS.pay_to,
    value=REQUIREMENTS.amount,
    valid_after=UnixTime(0),
    valid_before=UnixTime(NOW + 900),
    nonce=AuthorizationNonce(keccak(b"payfirst tests: nonce")),
)
SIGNATURE = sign_authorization(USDC, AUTHORIZATION, PAYER_KEY)
HEADER_V1 = header_v1(AUTHORIZATION, SIGNATURE, network=BASE_SEPOLIA)
HEADER_V2 = header_v2(AUTHORIZATION, SIGNATURE, requirements=REQUIREMENTS)

# JSON of any shape, because tests put wrong shapes into it.
Document = dict[str, Any]


def document(version: int) -> Document:
    """The good payment's JSON."""
    decoded: Document = json.loads(base64.b64decode(HEADER_V1 if version == 1 else HEADER_V2))
    return decoded


def encode(content: object) -> str:
    """A header from any JSON value."""
    return base64.b64encode(json.dumps(content).encode()).decode()


def changed(version: int, change: Callable[[Document], object]) -> str:
    """The good payment's header after `change` was applied to its JSON."""
    content = copy.deepcopy(document(version))
    change(content)
    return encode(content)
