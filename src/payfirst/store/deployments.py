"""Deployments of tokens by an account that is one of the signers: stored like all else that a signer sends.

Without its row a database would seem to have lost a transaction, and the signer would be fenced.
"""

from __future__ import annotations

from payfirst.store import signers, transactions
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.transactions import Envelope
from payfirst.units import AccountNonce, Address, TxHash, Wei, hex_text

# deployment_under_way: what was sent for a token by a signer and has no known outcome yet.
DEPLOYMENT_UNDER_WAY = """
SELECT a.hash, a.signed_bytes, a.max_fee_per_gas_wei, a.max_priority_fee_per_gas_wei, t.account_nonce, t.purpose,
       t.signer_epoch, t.to_address, t.gas_limit
FROM audit_log l
JOIN chain_attempts a ON a.hash = l.details ->> 'tx_hash'
JOIN chain_transactions t ON t.id = a.transaction_id
WHERE l.action = 'token_deployed' AND l.subject = $3 AND t.network = $1 AND t.signer = $2 AND t.state = 'sent'
ORDER BY l.id DESC LIMIT 1
"""


async def store(connection: Connection, envelope: Envelope) -> bool:
    """Store it under the signer's next nonce; False when the signer is no longer the caller's."""
    network, account, nonce = envelope.network, envelope.signer, envelope.nonce
    if not await signers.spend_nonce(connection, network, account, epoch=envelope.epoch, nonce=nonce):
        return False
    await transactions.store(connection, envelope, item_count=0)
    return True


async def under_way(connection: Connection, network: str, signer: Address, token: Address) -> Envelope | None:
    """The transaction that was sent to deploy `token`, if it may still be mined."""
    row = await connection.fetchrow(DEPLOYMENT_UNDER_WAY, network, hex_text(signer), hex_text(token))
    if row is None:
        return None
    return Envelope(
        network=network,
        signer=signer,
        nonce=AccountNonce(row["account_nonce"]),
        purpose=row["purpose"],
        epoch=row["signer_epoch"],
        to=address_of(row["to_address"]),
        gas_limit=row["gas_limit"],
        hash=TxHash(bytes_of(row["hash"])),
        signed=row["signed_bytes"],
        max_fee=Wei(int(row["max_fee_per_gas_wei"])),
        max_priority_fee=Wei(int(row["max_priority_fee_per_gas_wei"])),
    )
