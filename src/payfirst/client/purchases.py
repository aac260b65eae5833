"""The folder of purchases: one file each, written whole and synced before anything is sent.

`unfinished/` holds what `resume` goes on with, `finished/` what was bought, without its signed header. A file is its
owner's alone (0600): whoever reads an unfinished one can make the payment, though to its payee only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import msgspec

from payfirst.client.errors import AlreadyUnderWay, FolderUnusable, OfferRefused
from payfirst.client.order import Order
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    checksum_address,
    hex_text,
    parse_address,
    parse_bytes32,
)

FILE_BYTES_MAX = 65_536
FORMAT = 1

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Outcome(Enum):
    """How a purchase ended."""

    MINTED = "minted"
    OWED = "owed"  # paid, and not all of it could be minted
    FAILED = "failed"  # taken, and not settled: no money moved
    REFUSED = "refused"  # not taken: no money moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One order with the one payment that was signed for it."""

    order: Order
    reference: str | None  # the caller's own name for it
    payer: Address
    pay_to: Address
    network: str  # CAIP-2
    asset: Address
    asset_name: str
    decimals: int
    amount: AtomicAmount
    nonce: AuthorizationNonce
    valid_before: UnixTime
    signed_at: UnixTime
    header: str | None = field(repr=False)  # PAYMENT-SIGNATURE; None once it has ended
    payment_id: str | None = None
    outcome: Outcome | None = None
    tx_hash: str | None = None
    minted: int = 0
    error_code: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Its file's name while it is unfinished: one for each reference, else one for each payer's same order."""
        if self.reference is not None:
            return f"ref.{self.reference}"
        return f"order.{self.order.digest(self.payer)[:16]}"

    @property
    def finished_name(self) -> str:
        """Its file's name afterwards: the same order may be made again, a reference is used once."""
        return self.name if self.reference is not None else f"{self.name}.{self.nonce.hex()[:16]}"


class _File(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    format: int
    base_url: str
    token: str
    quantity: int
    recipient: str | None
    reference: str | None
    payer: str
    pay_to: str
    network: str
    asset: str
    asset_name: str
    decimals: int
    amount: str
    nonce: str
    valid_before: int
    signed_at: int
    header: str | None = None
    payment_id: str | None = None
    outcome: Outcome | None = None
    tx_hash: str | None = None
    minted: int = 0
    error_code: str | None = None
    error: str | None = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_File)


class Folder:
    """A folder of purchases; several programs may use one at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unfinished = path / "unfinished"
        self._finished = path / "finished"

    def open(self) -> None:
        """Make it, for its owner only. Raises FolderUnusable where it cannot be written."""
        try:
            for folder in (self.path, self._unfinished, self._finished):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(self.path)
        except OSError as error:
            raise FolderUnusable(f"{self.path} cannot be used for purchases: {error.strerror}") from None

    def add(self, purchase: Purchase) -> None:
        """Keep a purchase whose payment is about to be sent; it is on the disk when this returns.

        Raises AlreadyUnderWay where its reference, or without one the same order, has a purchase already;
        FolderUnusable where it cannot be written.
        """
        with self._alone(), self._written(purchase) as written:
            # Looked at under the lock: of two programs with one order, one goes on.
            if self.find(purchase.order, purchase.payer, purchase.reference) is not None:
                raise self.under_way()
            written.replace(self._path_of(purchase))
            _sync(self._unfinished)

    def change(self, purchase: Purchase) -> None:
        """Keep what has become of an unfinished purchase. Raises FolderUnusable."""
        with self._alone():
            if not self._is_there(purchase):
                return  # another program that follows it has seen its end
            with self._written(purchase) as written:
                written.replace(self._path_of(purchase))
                _sync(self._unfinished)

    def finish(self, purchase: Purchase) -> Purchase:
        """Keep how it ended, without the header, which nobody needs any more. Raises FolderUnusable."""
        ended = replace(purchase, header=None)
        with self._alone(), self._written(ended) as written:
            written.replace(self._finished / f"{ended.finished_name}.json")
            _sync(self._finished)
            if self._is_there(purchase):
                self._path_of(purchase).unlink()
        return ended

    def unfinished(self) -> list[Purchase]:
        """Those that were signed and have not ended, the oldest first. Raises FolderUnusable."""
        if not self._unfinished.is_dir():
            return []
        found = [self._read(path) for path in sorted(self._unfinished.glob("*.json"))]
        return sorted((p for p in found if p is not None), key=lambda p: p.signed_at)

    def find(self, order: Order, payer: Address, reference: str | None) -> Purchase | None:
        """The purchase of this reference, ended or not; without one, the unfinished one of the same order.

        Raises AlreadyUnderWay where the reference is another order's, ValueError where it is no reference.
        """
        if reference is None:
            return self._read(self._unfinished / f"order.{order.digest(payer)[:16]}.json")
        if not _REFERENCE.fullmatch(reference):
            raise AlreadyUnderWay(f"a reference has 1 to 64 letters, digits, '.', '_' and '-': {reference[:80]!r}")
        name = f"ref.{reference}.json"
        found = self._read(self._unfinished / name) or self._read(self._finished / name)
        if found is not None and (found.order, found.payer) != (order, payer):
            raise AlreadyUnderWay(
                f"the reference {reference} is that of another order ({found.order.quantity} at {found.order.url},"
                f" paid by {checksum_address(found.payer)}): use another one."
            )
        return found

    def under_way(self) -> AlreadyUnderWay:
        """Why an order that has an unfinished purchase is not signed for again."""
        return AlreadyUnderWay(
            f"a purchase of the same order is unfinished in {self.path}: go on with it (resume; payfirst buy --resume),"
            " or give the new one a reference of its own."
        )

    def _path_of(self, purchase: Purchase) -> Path:
        return self._unfinished / f"{purchase.name}.json"

    def _is_there(self, purchase: Purchase) -> bool:
        """Whether the unfinished file of its name is its own, and not that of a later purchase of the same order."""
        found = self._read(self._path_of(purchase))
        return found is not None and found.nonce == purchase.nonce

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """For the length of a change no other program changes the folder; a crash gives the lock back."""
        try:
            entry = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FolderUnusable(f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            try:
                fcntl.flock(entry, fcntl.LOCK_EX)
            except OSError as error:
                raise FolderUnusable(f"{self.path} cannot be locked: {error.strerror}") from None
            yield
        finally:
            os.close(entry)

    @contextlib.contextmanager
    def _written(self, purchase: Purchase) -> Iterator[Path]:
        """A synced file with the purchase, to be moved or linked to where it belongs; gone afterwards."""
        path = self.path / f".{secrets.token_hex(8)}.tmp"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_ENCODER.encode(_file(purchase)))
                file.flush()
                os.fsync(file.fileno())
            yield path
        except OSError as error:
            raise FolderUnusable(f"{self.path} cannot be written: {error.strerror}") from None
        finally:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Purchase | None:
        """The purchase in a file; None where there is none. Raises FolderUnusable for one that cannot be read."""
        try:
            with path.open("rb") as file:
                return _purchase(_DECODER.decode(file.read(FILE_BYTES_MAX)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FolderUnusable(f"{path} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, ValueError, OfferRefused) as error:
            raise FolderUnusable(
                f"{path} is no purchase of this release ({error}): move it away, but keep it, a payment may be in it"
            ) from None


def _sync(folder: Path) -> None:
    """Have the folder's entries on the disk; a file that was synced may lack its name without this."""
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _file(purchase: Purchase) -> _File:
    order = purchase.order
    return _File(
        format=FORMAT,
        base_url=order.base_url,
        token=checksum_address(order.token),
        quantity=order.quantity,
        recipient=None if order.recipient is None else checksum_address(order.recipient),
        reference=purchase.reference,
        payer=checksum_address(purchase.payer),
        pay_to=checksum_address(purchase.pay_to),
        network=purchase.network,
        asset=checksum_address(purchase.asset),
        asset_name=purchase.asset_name,
        decimals=purchase.decimals,
        amount=str(purchase.amount),
        nonce=hex_text(purchase.nonce),
        valid_before=purchase.valid_before,
        signed_at=purchase.signed_at,
        header=purchase.header,
        payment_id=purchase.payment_id,
        outcome=purchase.outcome,
        tx_hash=purchase.tx_hash,
        minted=purchase.minted,
        error_code=purchase.error_code,
        error=purchase.error,
    )


def _purchase(file: _File) -> Purchase:
    """Raises ValueError, or the OfferRefused of an order that is none."""
    if file.format != FORMAT:
        raise ValueError(f"format {file.format}, expected {FORMAT}")
    return Purchase(
        order=Order(
            base_url=file.base_url,
            token=parse_address(file.token),
            quantity=file.quantity,
            recipient=None if file.recipient is None else parse_address(file.recipient),
        ),
        reference=file.reference,
        payer=parse_address(file.payer),
        pay_to=parse_address(file.pay_to),
        network=file.network,
        asset=parse_address(file.asset),
        asset_name=file.asset_name,
        decimals=file.decimals,
        amount=AtomicAmount(int(file.amount)),
        nonce=AuthorizationNonce(parse_bytes32(file.nonce)),
        valid_before=UnixTime(file.valid_before),
        signed_at=UnixTime(file.signed_at),
        header=file.header,
        payment_id=file.payment_id,
        outcome=file.outcome,
        tx_hash=file.tx_hash,
        minted=file.minted,
        error_code=file.error_code,
        error=file.error,
    )
