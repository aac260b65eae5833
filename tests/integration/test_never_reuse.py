"""The never-reuse key stands for all four parts of an authorization."""

from __future__ import annotations

import itertools
import uuid

import asyncpg
import pytest

from payfirst.store.payments import PAYMENT_OF_AUTHORIZATION

NETWORKS = ("eip155:84532", "eip155:8453")
ASSETS = (b"\xa1" * 20, b"\xa1" * 19 + b"\xa2")
PAYERS = (b"\xb1" * 20, b"\xb1" * 19 + b"\xb2")
NONCES = (bytes(31) + b"\x01", bytes(31) + b"\x02", b"\x01" + bytes(31))  # as one who counts up has them
TAKE = "INSERT INTO authorizations (network, asset, payer, authorization_nonce, payment_id) VALUES ($1, $2, $3, $4, $5)"


async def test_what_differs_in_one_part_is_another_authorization_and_the_same_is_never_taken_twice(
    database_url: str,
) -> None:
    """Each of two networks, assets and payers, and three nonces; each is found as itself."""
    connection = await asyncpg.connect(database_url)
    keys = list(itertools.product(NETWORKS, ASSETS, PAYERS, NONCES))
    ids = {key: uuid.uuid4() for key in keys}
    for key in keys:
        await connection.execute(TAKE, *key, ids[key])
    for network, asset, payer, nonce in keys:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(TAKE, network, asset, payer, nonce, uuid.uuid4())
        found = await connection.fetchval(PAYMENT_OF_AUTHORIZATION, payer, nonce, asset, network)
        assert found == ids[network, asset, payer, nonce]
    await connection.close()
