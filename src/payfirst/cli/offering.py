"""Putting a token on offer: who may mint it, whether it can be sold, and what the chain says of it, in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.chain import keystores, token_check
from payfirst.chain.rpc import RpcClient
from payfirst.chain.token_check import TokenReport
from payfirst.cli import settings
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.store import audit_log, signers, tokens
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.tokens import Token, TokenFacts
from payfirst.units import Address, AtomicAmount, checksum_address, format_units, hex_text, parse_address


class NotOffered(OperatorError):
    """The address is no token of this database."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A token that is on offer now; `is_new` when this call has put it there."""

    report: TokenReport
    is_new: bool
    is_paused: bool


async def mint_signers(config: Config, pool: Pool, *, named: Sequence[Address] = ()) -> tuple[Address, ...]:
    """Those who mint here: the `named`, or else each keystore's and each that a worker has used.

    A signer that the operator has paused is left out: it may be one that is being replaced. Raises OperatorError
    where there is none.
    """
    if named:
        return tuple(dict.fromkeys(named))
    async with session(pool, "read the signers") as connection:
        registered = await signers.read_all(connection, config.network.network.caip2)
    stopped = {s.address for s in registered if s.paused_reason and not s.paused_reason.startswith(signers.EMPTY)}
    kept = [k.address for k in keystores.find(config.signers_dir) if k.purpose == "mint"]
    used = [s.address for s in registered if s.purpose == "mint"]
    found = tuple(address for address in dict.fromkeys([*kept, *used]) if address not in stopped)
    if not found:
        raise OperatorError(
            "no mint signer is known here: run payfirst signers new --purpose mint first, or name its address"
            " with --minter"
        )
    return found


async def offer(
    config: Config,
    pool: Pool,
    rpc: RpcClient,
    token: Address,
    *,
    price: AtomicAmount,
    minters: Sequence[Address],
    try_a_mint: bool = True,
) -> Offered:
    """Check the token on chain, and offer it with what the chain says of it, so that it is sold at once.

    Raises TokenUnfit with all that is wrong, and OperatorError where it is on offer at another price.
    """
    network = config.network.network.caip2
    head = await rpc.head()
    report = await token_check.check(rpc, token, minters=minters, at=head.number, try_a_mint=try_a_mint)
    async with transaction(pool, "offer a token") as connection:
        is_new = await tokens.add(connection, network, token, price=price)
        row = await demand(connection, network, token)
        if row.price != price:
            raise OperatorError(
                f"{checksum_address(token)} is there already, at {_in_asset(config, row.price)} a mint:"
                " payfirst tokens price changes that"
            )
        await tokens.sync_newer(connection, network, facts_of(report), height=report.height)
        if is_new:
            details = {"network": network, "price": str(price), "minters": [hex_text(m) for m in minters]}
            await audit_log.record(
                connection, actor=settings.operator(), action="token_added", subject=hex_text(token), details=details
            )
    return Offered(report, is_new=is_new, is_paused=not row.active)


async def demand(connection: Connection, network: str, token: Address) -> Token:
    """The token's row. Raises NotOffered."""
    found = await tokens.find(connection, network, token)
    if found is None:
        raise NotOffered(
            f"{checksum_address(token)} is not on offer here: payfirst tokens list shows what is,"
            " payfirst tokens add offers it"
        )
    return found


def facts_of(report: TokenReport) -> TokenFacts:
    """What the store keeps of a report."""
    return TokenFacts(
        address=report.address,
        name=report.name,
        symbol=report.symbol,
        mint_amount=report.mint_amount,
        max_mint_count=report.max_mint_count,
        minted=report.minted,
    )


def address_given(text: str) -> Address:
    """An address as typed, in any letter case. Raises OperatorError."""
    try:
        return parse_address(text.strip())
    except ValueError as error:
        raise OperatorError(str(error)) from error


def _in_asset(config: Config, amount: AtomicAmount) -> str:
    return f"{format_units(amount, decimals=config.asset.decimals)} {config.asset.name}"
