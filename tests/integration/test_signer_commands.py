"""`payfirst signers`, as a seller types it, and a worker that signs with what it made."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from commands import PASSPHRASE, Payfirst, in_folder

from payfirst.chain import keystores
from payfirst.errors import OperatorError
from payfirst.local.chain import LocalChain, dev_address, dev_key
from payfirst.units import Wei, checksum_address, hex_text


@pytest.fixture
def payfirst(tmp_path: Path, database_url: str) -> Payfirst:
    """The command in an empty folder, with a database and a passphrase."""
    return in_folder(tmp_path, DATABASE_URL=database_url, PAYFIRST_SIGNERS__PASSPHRASE=PASSPHRASE)


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A chain to ask for balances."""
    async with LocalChain(block_time_s=None) as running:
        yield running


def only_keystore(folder: Path) -> keystores.Keystore:
    """The one that is there."""
    (found,) = keystores.find(folder / "payfirst-data/signers")
    return found


def test_a_new_key_is_kept_encrypted_for_its_owner_only(payfirst: Payfirst, tmp_path: Path) -> None:
    """A folder and a file that nobody else may read; the passphrase opens it, and none other."""
    made = payfirst("signers", "new", "--purpose", "settle")
    assert made.returncode == 0, made.stderr
    kept = only_keystore(tmp_path)
    assert checksum_address(kept.address) in made.stdout
    assert kept.purpose == "settle"
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700
    key = keystores.unlock(kept, PASSPHRASE)
    assert key.hex() not in kept.path.read_text() + made.stdout + made.stderr
    with pytest.raises(OperatorError, match="passphrase is not its own"):
        keystores.unlock(kept, "another passphrase")
    with pytest.raises(OperatorError, match="PAYFIRST_SIGNERS__PASSPHRASE"):
        keystores.unlock(kept, None)
    kept.path.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        keystores.unlock(kept, PASSPHRASE)


def test_a_key_that_is_there_is_imported_once(payfirst: Payfirst, tmp_path: Path) -> None:
    """From a file that only its owner may read; a second purpose for it is refused."""
    raw = tmp_path / "raw.key"
    raw.write_text(hex_text(dev_key("settle")) + "\n")
    raw.chmod(0o644)
    open_to_all = payfirst("signers", "import", "--purpose", "settle", "--key-file", str(raw))
    assert (open_to_all.returncode, "chmod 600" in open_to_all.stderr) == (2, True)
    raw.chmod(0o600)
    assert payfirst("signers", "import", "--purpose", "settle", "--key-file", str(raw)).returncode == 0
    assert only_keystore(tmp_path).address == dev_address("settle")
    again = payfirst("signers", "import", "--purpose", "mint", "--key-file", str(raw))
    assert (again.returncode, "is there already, to settle" in again.stderr) == (2, True)
    raw.write_text("0x1234")
    no_key = payfirst("signers", "import", "--purpose", "mint", "--key-file", str(raw))
    assert (no_key.returncode, "no private key" in no_key.stderr) == (2, True)
    short = payfirst("signers", "new", "--purpose", "mint", PAYFIRST_SIGNERS__PASSPHRASE="short")
    assert (short.returncode, "at least 8 characters" in short.stderr) == (2, True)


async def test_signers_are_listed_paused_and_resumed(payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain) -> None:
    """A signer that no worker has used is no row yet; the others say how they fare."""
    settle = checksum_address(dev_address("settle"))
    unknown = payfirst("signers", "pause", settle)
    assert (unknown.returncode, "no worker has used" in unknown.stderr) == (2, True)
    await pool.execute(
        "INSERT INTO signers (network, address, purpose, next_nonce) VALUES ('eip155:84532', $1, 'settle', 7)",
        settle.lower(),
    )
    assert "is paused" in payfirst("signers", "pause", settle, "--reason", "key rotation").stdout
    assert "was paused already" in payfirst("signers", "pause", settle).stdout
    (row,) = json.loads(payfirst("signers", "list", "--json").stdout)
    assert (row["address"], row["state"], row["nextNonce"]) == (settle, "paused: key rotation", 7)
    assert "goes on" in payfirst("signers", "resume", settle).stdout
    assert "was not paused" in payfirst("signers", "resume", settle).stdout
    (row,) = json.loads(payfirst("signers", "list", "--json").stdout)
    assert row["state"] == "no worker holds it"
    assert payfirst("signers", "list").returncode == 0
    await chain.fund_gas([dev_address("settle")], Wei(25 * 10**16))
    asked = payfirst("signers", "balance", PAYFIRST_NETWORK__RPC_URLS=chain.url)
    assert f"{settle} 0.250000 ether" in asked.stdout, asked.stderr
    wrong = payfirst("signers", "pause", "0x12")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
