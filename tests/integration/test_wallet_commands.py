"""`payfirst wallets`, as a seller types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Payfirst, in_folder

from payfirst.store import wallets
from payfirst.store.database import Pool
from payfirst.units import Address, checksum_address, hex_text

NETWORK = "eip155:84532"
BURNER, SIBLING, STRANGER = (Address(bytes([n]) * 20) for n in (0xB1, 0xB2, 0xB3))


@pytest.fixture
def payfirst(tmp_path: Path, database_url: str) -> Payfirst:
    """The command in an empty folder, with a database."""
    return in_folder(tmp_path, DATABASE_URL=database_url)


@pytest.fixture
async def apart(pool: Pool) -> Pool:
    """One payer burned a transaction of its own, one had code in a batch that ran out of gas; one's time is over."""
    async with pool.acquire() as connection:
        await wallets.quarantine(connection, network=NETWORK, payers=[BURNER, SIBLING], burned=False, for_s=600)
        await wallets.quarantine(connection, network=NETWORK, payers=[BURNER], burned=True, for_s=900)
        await wallets.quarantine(connection, network=NETWORK, payers=[STRANGER], burned=True, for_s=0)
    return pool


async def test_the_list_shows_who_is_set_apart_and_what_that_means(payfirst: Payfirst, apart: Pool) -> None:
    """Who burned a transaction of its own is refused, others are settled alone; who is free again is not there."""
    listed = json.loads(payfirst("wallets", "list", "--json").stdout)
    assert [(row["payer"], row["burns"]) for row in listed] == [(hex_text(BURNER), 1), (hex_text(SIBLING), 0)]
    shown = payfirst("wallets", "list").stdout.splitlines()
    assert [("refused" in line, "settled alone" in line) for line in shown[1:]] == [(True, False), (False, True)]
    assert STRANGER.hex() not in payfirst("wallets", "list", "--csv").stdout


async def test_who_is_released_is_taken_again_and_that_is_on_record(payfirst: Payfirst, apart: Pool) -> None:
    """By its address in any letter case; one who is not set apart is said to be so, with exit code 1."""
    done = payfirst("wallets", "release", checksum_address(BURNER), hex_text(STRANGER), "--actor", "ada")
    assert done.returncode == 1, done.stderr
    assert [line.partition(": ")[2].split(" ")[0] for line in done.stdout.splitlines()] == ["no", "is"]
    async with apart.acquire() as connection:
        assert await wallets.refused(connection, NETWORK) == {}
        assert set(await wallets.quarantined(connection, network=NETWORK, payers=[BURNER, SIBLING])) == {SIBLING}
    logged = await apart.fetch("SELECT actor, action, subject, details FROM audit_log")
    assert [tuple(row) for row in logged] == [
        ("ada", "wallets.release", hex_text(BURNER), '{"burns": 1, "network": "eip155:84532"}')
    ]


async def test_all_are_released_at_once_but_only_if_all_is_said(payfirst: Payfirst, apart: Pool) -> None:
    """Not beside a name: which of the two was meant?"""
    refused = payfirst("wallets", "release", hex_text(BURNER), "--all")
    assert (refused.returncode, "name the payers, or say --all" in refused.stderr) == (2, True)
    assert await apart.fetchval("SELECT count(*) FROM audit_log") == 0
    done = payfirst("wallets", "release", "--all", "--json")
    assert (done.returncode, [one["ok"] for one in json.loads(done.stdout)]) == (0, [True, True])
    assert payfirst("wallets", "list").stdout.strip() == "No payer is set apart"
