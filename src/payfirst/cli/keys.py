"""Private keys as people keep them: a file with hex digits, or a keystore. Never on the command line."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from payfirst.chain import keystores
from payfirst.errors import OperatorError
from payfirst.units import parse_bytes32

KEY_FILE_BYTES_MAX = 16_384


def key_in_file(path: Path, *, passphrase: Callable[[], str]) -> bytes:
    """The 32 bytes in a file with `0x` and 64 hex digits, or in a keystore, for which a passphrase is asked.

    Raises OperatorError for a file that others may read, one that is neither, and a passphrase that is not its own.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")[:KEY_FILE_BYTES_MAX].strip()
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} cannot be read: {error}") from None
    if mode & 0o077:
        raise OperatorError(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): run chmod 600 {path}")
    return keystores.decrypt(path, passphrase()) if text.startswith("{") else key_in_text(text)


def key_in_text(text: str) -> bytes:
    """The 32 bytes in `0x` and 64 hex digits. Raises OperatorError, which does not repeat the text."""
    try:
        return parse_bytes32(text.strip())
    except ValueError:
        raise OperatorError("that is no private key: 0x and 64 hex digits are") from None
