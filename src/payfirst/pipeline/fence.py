"""The fence: a signer whose chain is ahead of the database signs nothing until what was lost is adopted."""

from __future__ import annotations

import datetime as dt

from payfirst.ops.log import get_logger
from payfirst.store import signers
from payfirst.store.database import Connection
from payfirst.units import AccountNonce, Address, checksum_address, hex_text

log = get_logger()


async def if_behind(
    connection: Connection, network: str, address: Address, *, chain_nonce: AccountNonce, cut: dt.datetime | None
) -> bool:
    """Fence the signer if the chain counts more transactions of it than the database gave nonces to.

    `chain_nonce` is the chain's count with what waits in the pool, read before this is called. `cut`: up to when rows
    are older than the loss, None when it is not known. Returns whether it was fenced now.
    """
    sentence = (
        f"the chain holds transactions up to nonce {chain_nonce - 1} that the database does not know (restored from a"
        " backup?). Workers adopt them and go on; payfirst audit shows what is missing"
    )
    fenced = await signers.fence(connection, network, address, chain_nonce=chain_nonce, sentence=sentence, cut=cut)
    if fenced:
        log.error(
            "signer_fenced",
            message=f"{checksum_address(address)} signs nothing: {sentence}",
            signer=hex_text(address),
            chain_nonce=chain_nonce,
        )
    return fenced
