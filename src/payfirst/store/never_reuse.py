"""The never-reuse key: finds an authorization among all that were ever taken, by an index of half their width.

`authorizations` keeps network, asset, payer and nonce as they are. Its unique index holds the payer and 16 bytes that
stand for the other three: it grows for ever and is written to all over, and each of its pages that has changed since a
checkpoint is logged as a whole. Nobody can make another payer's nonces meet in it; who makes two of the own meet
(2^64 digests) has the second one refused.
"""

from __future__ import annotations


def key_of(nonce: str, asset: str, network: str) -> str:
    """The 16 bytes, in SQL; of expressions of the types bytea, bytea and text. The index has it in these words."""
    return f"substring(sha256({nonce} || {asset} || ({network})::bytea) FROM 1 FOR 16)"


def where_held(payer: str, nonce: str, asset: str, network: str) -> str:
    """The condition on `authorizations` that one authorization's row meets: found by the key, and is the one."""
    return (
        f"payer = {payer} AND {key_of('authorization_nonce', 'asset', 'network')} = {key_of(nonce, asset, network)}"
        f" AND authorization_nonce = {nonce} AND asset = {asset} AND network = {network}"
    )
