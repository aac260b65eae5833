"""Signers' keys at rest: encrypted files of the Web3 Secret Storage format, one a key, named by purpose and address.

The name says what a key is for, so that one folder holds them all: `settle-0x….json`, `mint-0x….json`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payfirst.errors import OperatorError
from payfirst.units import Address, checksum_address, parse_address

PURPOSES = ("settle", "mint", "refund", "treasury")
FILE_BYTES_MAX = 16_384

_NAME = re.compile(rf"({'|'.join(PURPOSES)})-(0x[0-9a-fA-F]{{40}})\.json")


@dataclass(frozen=True, slots=True)
class Keystore:
    """One file; the key in it is not known until it is unlocked."""

    path: Path
    purpose: str
    address: Address


def find(folder: Path) -> list[Keystore]:
    """The keystores in `folder`, in the order of their names; a folder that is not there has none."""
    if not folder.is_dir():
        return []
    names = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    return [Keystore(path, name[1], parse_address(name[2])) for path, name in names if name]


def write(folder: Path, *, purpose: str, key: bytes, passphrase: str) -> Keystore:
    """Encrypt a key into `folder`, for its owner's eyes only. Raises OperatorError where it is there already."""
    address = parse_address(_account().from_key(key).address)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for known in find(folder):
        if known.address == address:
            raise OperatorError(f"{checksum_address(address)} is there already, to {known.purpose}: {known.path}")
    path = folder / f"{purpose}-{checksum_address(address)}.json"
    text = json.dumps(_account().encrypt(key, passphrase), indent=1)
    # Whole or not at all: a key that has been given gas money must not be lost to a crash.
    unfinished = path.with_suffix(".tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
    return Keystore(path, purpose, address)


def unlock(keystore: Keystore, passphrase: str | None) -> bytes:
    """The private key, 32 bytes; takes about a second.

    Raises OperatorError for a file that others may read, one that is none, and a passphrase that is not its own.
    """
    path = keystore.path
    if passphrase is None:
        raise OperatorError(f"{path} needs its passphrase: set PAYFIRST_SIGNERS__PASSPHRASE or signers.passphrase_file")
    key = decrypt(path, passphrase)
    if parse_address(_account().from_key(key).address) != keystore.address:
        raise OperatorError(f"{path} holds the key of another address than its name says: rename or remove it")
    return key


def decrypt(path: Path, passphrase: str) -> bytes:
    """The private key in any keystore file. Raises OperatorError as `unlock` does."""
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise OperatorError(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): run chmod 600 {path}")
        text = path.read_bytes()[:FILE_BYTES_MAX]
        document: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OperatorError(f"{path} is no readable keystore: {reason}") from None
    try:
        return bytes(_account().decrypt(document, passphrase))
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        reason = "the passphrase is not its own" if "MAC" in str(error) else f"it is no keystore ({error!r})"
        raise OperatorError(f"{path} cannot be unlocked: {reason}") from None


def _account() -> Any:  # Any: eth_account's class is typed as untyped calls
    """eth_account, loaded when a key is at hand: it takes most of a second, which other commands need not spend."""
    from eth_account import Account

    return Account
