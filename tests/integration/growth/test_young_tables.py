"""Tables that grow faster than their statistics: what is asked of them then must still be found by key."""

from __future__ import annotations

import datetime as dt

import asyncpg
import pytest

from payfirst.store import adoption, auditing, crediting, payments

NETWORK, ASSET = "n", bytes(20)
TAKEN, ASKED = 20_000, 1_500
FILL = """
INSERT INTO authorizations (network, asset, payer, authorization_nonce, payment_id)
SELECT $1, $2, decode(lpad(to_hex(i), 40, '0'), 'hex'), decode(lpad(to_hex(i), 64, '0'), 'hex'), gen_random_uuid()
FROM generate_series(1, $3) i
"""
PAYERS, NONCES = [n.to_bytes(20) for n in range(ASKED)], [n.to_bytes(32) for n in range(ASKED)]
STATEMENTS: dict[str, tuple[str, tuple[object, ...]]] = {
    "credit": (crediting.CREDIT_CANDIDATES, (NETWORK, ASSET, PAYERS, NONCES)),
    "find": (payments.FIND_AUTHORIZATIONS, (NETWORK, ASSET, PAYERS, NONCES)),
    "audit": (auditing.CLAIMED, (NETWORK, ASSET, PAYERS, NONCES)),
    "adopt": (adoption.LINK_PAYMENTS, (1, PAYERS, NONCES, dt.datetime.now(dt.UTC), ASSET, NETWORK)),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_authorizations_are_looked_up_one_by_one(database_url: str, name: str) -> None:
    """A block's payments were compared with every authorization there was: that took more CPU than all the rest."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE authorizations SET (autovacuum_enabled = false)")  # so never analyzed
    await connection.execute(FILL, NETWORK, ASSET, TAKEN)
    sql, arguments = STATEMENTS[name]
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *arguments))
    await connection.close()
    assert "Scan using authorizations_once" in plan, plan
    assert "Seq Scan on authorizations" not in plan, plan
