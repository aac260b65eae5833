"""Whose a row of the queues is while it is worked with: the SQL of it.

The leases of a process' signers stand for the rows that it works with as long as no other process has a signer of that
purpose: nothing is written for it, neither a version of the row nor a commit. Where several have, each leases its rows
one by one, so that they do not work with the same. In both cases it is the change of the status that decides: it is
made once, by whoever comes first, and with all else of its batch or not at all.
"""

from __future__ import annotations

from payfirst.store.signers import Purpose


def is_alone(purpose: Purpose, network: str, owner: str) -> str:
    """The signer `owner` is held, and no signer of this purpose by another process. Placeholders, as below."""
    return (
        f"EXISTS (SELECT FROM signers s WHERE s.network = {network} AND s.address = {owner} AND s.lease_until > now())"
        f" AND NOT EXISTS (SELECT FROM signers o WHERE o.network = {network} AND o.purpose = '{purpose}'"
        " AND o.lease_until > now() AND o.lease_owner IS DISTINCT FROM"
        f" (SELECT s.lease_owner FROM signers s WHERE s.network = {network} AND s.address = {owner}))"
    )


def holds_signer(network: str, owner: str, epoch: str) -> str:
    """Nobody has taken the signer since. Where a transaction is stored, its account nonce is spent on it."""
    return f"EXISTS (SELECT FROM signers s WHERE s.network = {network} AND s.address = {owner} AND s.epoch = {epoch})"


def is_ours(owner: str, epoch: str) -> str:
    """Since a row was read, no other signer has claimed it, and no operator has put it on hold."""
    return (
        "held_reason IS NULL"
        f" AND (lease_until IS NULL OR lease_until < now() OR (lease_owner = {owner} AND lease_epoch = {epoch}))"
    )
