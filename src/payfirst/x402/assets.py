"""The assets that are known without asking: USDC, with the EIP-712 domain of each chain's contract. Pure.

Source: Circle's list of USDC contracts; the names differ ("USD Coin" on Base, "USDC" on Base Sepolia).
"""

from __future__ import annotations

from payfirst.units import parse_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text

USDC_ON_BASE = Asset(
    network=network_from_text("base"),
    address=parse_address("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
    name="USD Coin",
    version="2",
    decimals=6,
)
USDC_ON_BASE_SEPOLIA = Asset(
    network=network_from_text("base-sepolia"),
    address=parse_address("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
    name="USDC",
    version="2",
    decimals=6,
)
WELL_KNOWN = (USDC_ON_BASE, USDC_ON_BASE_SEPOLIA)
