"""`signers`: who may sign with which account nonce, under which epoch."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.units import AccountNonce, Address, Wei, hex_text

Purpose = Literal["settle", "mint", "refund"]

LEASE_S = 4.0
# empty: how the reason of a pause begins that ends by itself once there is gas money again.
EMPTY = "balance too low: "
# fenced: how the reason of a pause begins that ends by itself once the database knows all that the chain holds.
FENCED = "fenced: "

# register_signer: make the row of a signer that is seen for the first time.
REGISTER_SIGNER = """
INSERT INTO signers (network, address, purpose, next_nonce) VALUES ($1, $2, $3, $4)
ON CONFLICT (network, address) DO NOTHING
"""

# take_signer: take a free signer under a new epoch; whatever an earlier holder planned is void from here on.
# A chain that is ahead of the database ($5) holds transactions that the database lost: then nobody may sign.
TAKE_SIGNER = """
UPDATE signers
SET epoch = epoch + 1, lease_owner = $3, lease_until = now() + $4 * interval '1 second'
WHERE network = $1 AND address = $2 AND purpose = $6 AND paused_reason IS NULL AND next_nonce >= $5
  AND (lease_until IS NULL OR lease_until < now() OR lease_owner = $3)
RETURNING epoch, next_nonce
"""

# renew_signer: the holder is alive.
RENEW_SIGNER = """
UPDATE signers SET lease_until = now() + $4 * interval '1 second'
WHERE network = $1 AND address = $2 AND epoch = $3 AND paused_reason IS NULL
"""

# release_signer: the holder stops in good order; the next one need not wait.
RELEASE_SIGNER = """
UPDATE signers SET lease_until = NULL, lease_owner = NULL WHERE network = $1 AND address = $2 AND epoch = $3
"""

# spend_nonce: compare-and-swap, under the epoch; anything but one row changed undoes the whole transaction.
SPEND_NONCE = """
UPDATE signers SET next_nonce = next_nonce + 1
WHERE network = $1 AND address = $2 AND epoch = $3 AND next_nonce = $4 AND paused_reason IS NULL
"""

# pause_signer: stop signing until an operator says otherwise.
PAUSE_SIGNER = """
UPDATE signers SET paused_reason = $3 WHERE network = $1 AND address = $2 AND paused_reason IS NULL
"""

# rest_signer: its holder has found that it cannot pay for gas; it goes on by itself when it can.
REST_SIGNER = """
UPDATE signers
SET paused_reason = $4 || $5, balance_wei = $6, lease_until = NULL, lease_owner = NULL
WHERE network = $1 AND address = $2 AND epoch = $3 AND paused_reason IS NULL
"""

# wake_signer: it has been given gas money since; what an operator has paused stays paused.
WAKE_SIGNER = """
UPDATE signers SET paused_reason = NULL, balance_wei = $4
WHERE network = $1 AND address = $2 AND starts_with(paused_reason, $3) AND $4 > coalesce(balance_wei, 0)
"""

# resume_signer: the operator says so. A fence ends by an audit only.
RESUME_SIGNER = """
UPDATE signers SET paused_reason = NULL
WHERE network = $1 AND address = $2 AND paused_reason IS NOT NULL AND NOT starts_with(paused_reason, $3)
"""

# note_balance: as the holder saw it last.
NOTE_BALANCE = "UPDATE signers SET balance_wei = $3 WHERE network = $1 AND address = $2 AND paused_reason IS NULL"

# read_signer: purpose and pause of one signer.
READ_SIGNER = "SELECT purpose, next_nonce, paused_reason FROM signers WHERE network = $1 AND address = $2"

# fence_signer: the chain is ahead of the database ($3), which has lost what it stored before it was sent. The new epoch
# voids what an earlier holder planned. $6: rows up to this time are older than the loss (NULL: it is not known).
FENCE_SIGNER = """
UPDATE signers
SET paused_reason = $4 || $5, fence_cut = $6, epoch = epoch + 1, lease_until = NULL, lease_owner = NULL
WHERE network = $1 AND address = $2 AND paused_reason IS NULL AND next_nonce < $3
"""

# advance_nonce: the nonces below are used by transactions that the database knows of now.
ADVANCE_NONCE = """
UPDATE signers SET next_nonce = $3, epoch = epoch + 1 WHERE network = $1 AND address = $2 AND next_nonce < $3
"""

# unfence_signer: nothing of the chain's is missing any more ($3: its count with what waits in the pool), and all that
# is mined ($5) has been read and judged.
UNFENCE_SIGNER = """
UPDATE signers s SET paused_reason = NULL, fence_cut = NULL
WHERE network = $1 AND address = $2 AND starts_with(paused_reason, $4) AND next_nonce >= $3
  AND NOT EXISTS (
    SELECT 1 FROM chain_transactions t
    WHERE t.network = s.network AND t.signer = s.address AND t.state = 'sent' AND t.account_nonce < $5)
"""

# fenced_signers: which signers wait for an audit, and up to when rows are older than what was lost.
FENCED_SIGNERS = """
SELECT address, fence_cut FROM signers WHERE network = $1 AND starts_with(paused_reason, $2)
"""

# list_signers: every signer that a worker has registered, with what it has on its way.
LIST_SIGNERS = """
SELECT s.address, s.purpose, s.next_nonce, s.paused_reason, s.balance_wei,
       coalesce(s.lease_until > now(), false) AS held,
       (SELECT count(*) FROM chain_transactions t
        WHERE t.network = s.network AND t.signer = s.address AND t.state = 'sent') AS unresolved
FROM signers s WHERE s.network = $1 ORDER BY s.purpose DESC, s.created_at, s.address
"""


@dataclass(frozen=True, slots=True)
class Tenure:
    """A signer held: every write names this epoch, and none other can spend `next_nonce`."""

    epoch: int
    next_nonce: AccountNonce


@dataclass(frozen=True, slots=True)
class SignerState:
    """What the row of a signer says."""

    purpose: Purpose
    next_nonce: AccountNonce
    paused_reason: str | None


@dataclass(frozen=True, slots=True)
class ListedSigner:
    """A registered signer; `balance` is what its holder saw last, None before it did."""

    address: Address
    purpose: Purpose
    next_nonce: AccountNonce
    paused_reason: str | None
    balance: Wei | None
    held: bool
    unresolved: int


async def register(
    connection: Connection, network: str, address: Address, *, purpose: Purpose, chain_nonce: AccountNonce
) -> None:
    """Make the signer's row if there is none; its first nonce is the chain's."""
    await connection.execute(REGISTER_SIGNER, network, hex_text(address), purpose, chain_nonce)


async def take(
    connection: Connection,
    network: str,
    address: Address,
    *,
    purpose: Purpose,
    owner: str,
    chain_nonce: AccountNonce,
) -> Tenure | None:
    """Take the signer if it is free; None while another holds it, while it is paused, or while the chain is ahead."""
    row = await connection.fetchrow(TAKE_SIGNER, network, hex_text(address), owner, LEASE_S, chain_nonce, purpose)
    return None if row is None else Tenure(row["epoch"], AccountNonce(row["next_nonce"]))


async def renew(connection: Connection, network: str, address: Address, *, epoch: int) -> bool:
    """Prolong the lease; False when the signer is no longer ours."""
    changed = await connection.execute(RENEW_SIGNER, network, hex_text(address), epoch, LEASE_S)
    return changed == "UPDATE 1"


async def release(connection: Connection, network: str, address: Address, *, epoch: int) -> None:
    """Give the signer back in good order."""
    await connection.execute(RELEASE_SIGNER, network, hex_text(address), epoch)


async def spend_nonce(
    connection: Connection, network: str, address: Address, *, epoch: int, nonce: AccountNonce
) -> bool:
    """Use up `nonce`; False when the epoch or the nonce is no longer what the caller believes."""
    changed = await connection.execute(SPEND_NONCE, network, hex_text(address), epoch, nonce)
    return changed == "UPDATE 1"


async def pause(connection: Connection, network: str, address: Address, *, reason: str) -> bool:
    """Stop the signer; False when it is paused already."""
    return (await connection.execute(PAUSE_SIGNER, network, hex_text(address), reason)) == "UPDATE 1"


async def rest(
    connection: Connection, network: str, address: Address, *, epoch: int, sentence: str, balance: Wei
) -> None:
    """Pause a signer that cannot pay for gas, and give it back."""
    await connection.execute(REST_SIGNER, network, hex_text(address), epoch, EMPTY, sentence, balance)


async def wake(connection: Connection, network: str, address: Address, *, balance: Wei) -> bool:
    """Let a signer go on that rested for want of gas money, if its balance has grown; False otherwise."""
    return (await connection.execute(WAKE_SIGNER, network, hex_text(address), EMPTY, balance)) == "UPDATE 1"


async def resume(connection: Connection, network: str, address: Address) -> bool:
    """End a pause; False when there is none, or when it is a fence."""
    return (await connection.execute(RESUME_SIGNER, network, hex_text(address), FENCED)) == "UPDATE 1"


async def note_balance(connection: Connection, network: str, address: Address, *, balance: Wei) -> None:
    """Remember what a signer has for gas."""
    await connection.execute(NOTE_BALANCE, network, hex_text(address), balance)


async def read_all(connection: Connection, network: str) -> list[ListedSigner]:
    """Every registered signer, the settle signers first."""
    rows = await connection.fetch(LIST_SIGNERS, network)
    return [
        ListedSigner(
            address=address_of(row["address"]),
            purpose=row["purpose"],
            next_nonce=AccountNonce(row["next_nonce"]),
            paused_reason=row["paused_reason"],
            balance=None if row["balance_wei"] is None else Wei(int(row["balance_wei"])),
            held=row["held"],
            unresolved=row["unresolved"],
        )
        for row in rows
    ]


async def read(connection: Connection, network: str, address: Address) -> SignerState | None:
    """The signer's row, None before it was registered."""
    row = await connection.fetchrow(READ_SIGNER, network, hex_text(address))
    if row is None:
        return None
    return SignerState(row["purpose"], AccountNonce(row["next_nonce"]), row["paused_reason"])


async def fence(
    connection: Connection,
    network: str,
    address: Address,
    *,
    chain_nonce: AccountNonce,
    sentence: str,
    cut: dt.datetime | None,
) -> bool:
    """Let the signer sign nothing until the database knows what the chain holds; False if it is not behind.

    `chain_nonce` must have been read before this is called: whatever is sent is stored before. `cut`: rows that
    were made up to then are older than what was lost; None when that is not known.
    """
    changed = await connection.execute(FENCE_SIGNER, network, hex_text(address), chain_nonce, FENCED, sentence, cut)
    return changed == "UPDATE 1"


async def advance(connection: Connection, network: str, address: Address, *, next_nonce: AccountNonce) -> None:
    """Never give out nonces below `next_nonce` again, and void what is planned under the old epoch."""
    await connection.execute(ADVANCE_NONCE, network, hex_text(address), next_nonce)


async def unfence(
    connection: Connection, network: str, address: Address, *, mined: AccountNonce, waiting: AccountNonce
) -> bool:
    """End a fence, if the database knows what is mined and what waits, and has judged what is mined."""
    changed = await connection.execute(UNFENCE_SIGNER, network, hex_text(address), waiting, FENCED, mined)
    return changed == "UPDATE 1"


async def fenced(connection: Connection, network: str) -> dict[Address, dt.datetime | None]:
    """The fenced signers, and up to when rows are older than what was lost."""
    rows = await connection.fetch(FENCED_SIGNERS, network, FENCED)
    return {address_of(row["address"]): row["fence_cut"] for row in rows}
