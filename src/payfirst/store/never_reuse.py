"""The never-reuse key: finds an authorization among all that were ever taken.

`authorizations` keeps network, asset, payer and nonce as they are. Its unique index holds the payer and 16 bytes that
stand for the other three: it grows for ever and is written to all over, and the first change of each of its pages after
a checkpoint logs the whole page, so that half the width is half of those. Nobody can make another payer's nonces
collide; a payer who makes two of their own collide (about 2^64 digests) has the second one never accepted.
"""

from __future__ import annotations


def key_of(nonce: str, asset: str, network: str) -> str:
    """The 16 bytes, in SQL, of expressions of the types bytea, bytea and text.

    It is the expression of migration 0011: change neither alone.
    """
    return f"substring(sha256({nonce} || {asset} || ({network})::bytea) FROM 1 FOR 16)"


def where_held(payer: str, nonce: str, asset: str, network: str) -> str:
    """The condition on `authorizations` that one authorization's row meets: found by the key, and is the one."""
    return (
        f"payer = {payer} AND {key_of('authorization_nonce', 'asset', 'network')} = {key_of(nonce, asset, network)}"
        f" AND authorization_nonce = {nonce} AND asset = {asset} AND network = {network}"
    )
