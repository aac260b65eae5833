"""What is to be bought, and where. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from payfirst.client.errors import OfferRefused
from payfirst.units import Address, checksum_address, hex_text, keccak, parse_address

MINT_PATH = "/api/mint/"
URL_CHARACTERS_MAX = 1_024
QUANTITY_MAX = 1_000_000

# Printable ASCII: nothing in it can end a request line or hide from a reader's eye.
_PLAIN = re.compile(r"[!-~]+")
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`quantity` units of one token from one seller, minted to `recipient` (None: to the payer)."""

    base_url: str  # without a slash at its end
    token: Address
    quantity: int
    recipient: Address | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quantity <= QUANTITY_MAX:
            raise OfferRefused(f"quantity is a whole number from 1 to {QUANTITY_MAX}, not {self.quantity}.")
        _demand_url(self.base_url)

    @classmethod
    def at(cls, url: str, *, quantity: int = 1, recipient: Address | None = None) -> Order:
        """An order from the address of a token's mint route, `https://shop.example/api/mint/0x…`.

        Raises OfferRefused on any other address.
        """
        base, found, token = url.rpartition(MINT_PATH)
        if not found:
            raise OfferRefused(f"expected the URL of a mint route, such as https://shop.example{MINT_PATH}0x…: {url!r}")
        return cls(base_url=base, token=token_of(token), quantity=quantity, recipient=recipient)

    @property
    def url(self) -> str:
        """Where it is bought."""
        return f"{self.base_url}{MINT_PATH}{checksum_address(self.token)}"

    @property
    def is_private_on_the_way(self) -> bool:
        """Whether nobody between buyer and seller can read or change what is said: https, or this machine."""
        parts = urlsplit(self.base_url)
        if parts.scheme == "https" or parts.hostname == "localhost":
            return True
        try:
            return ipaddress.ip_address(parts.hostname or "").is_loopback
        except ValueError:
            return False

    @property
    def body(self) -> bytes:
        """The request's body; the same order has the same bytes."""
        wanted: dict[str, object] = {"quantity": self.quantity}
        if self.recipient is not None:
            wanted["recipient"] = checksum_address(self.recipient)
        return _ENCODER.encode(wanted)

    def digest(self, payer: Address) -> str:
        """Hex that is the same for the same order of the same payer only."""
        return hex_text(keccak(b"\n".join((self.url.encode(), self.body, payer))))[2:]

    def payment_url(self, payment_id: str) -> str:
        """Where the payment's status stands."""
        return f"{self.base_url}/api/payment/{payment_id}"

    def search_url(self, *, payer: Address, nonce: bytes) -> str:
        """Where a payment is found by what its buyer has in hand."""
        return f"{self.base_url}/api/payment?payer={checksum_address(payer)}&nonce={hex_text(nonce)}"


def token_of(text: str) -> Address:
    """A token's address. Raises OfferRefused."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise OfferRefused(f"the token is {error}") from None


def _demand_url(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # read where it can be refused
    except ValueError:
        raise OfferRefused(f"the seller's address is no URL: {base_url[:80]!r}") from None
    plain = _PLAIN.fullmatch(base_url) and len(base_url) <= URL_CHARACTERS_MAX
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
        raise OfferRefused(f"the seller's address is no http or https URL: {base_url[:80]!r}")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise OfferRefused("the seller's address has a query, a fragment or a login in it: leave those out.")
