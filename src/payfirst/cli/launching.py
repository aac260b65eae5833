"""Deploying a token from an account that is nobody else's while it does: the plan, and then the act."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from payfirst.chain import deploying, deployment, keystores
from payfirst.chain.deploying import Cost, DeploymentRefused
from payfirst.chain.deployment import NewToken
from payfirst.chain.fees import Fees
from payfirst.chain.rpc import RpcClient
from payfirst.chain.signers import SignedTransaction, Signer
from payfirst.cli import settings
from payfirst.cli.signers import PASSPHRASE_VARIABLE, key_in
from payfirst.config import KEY_VARIABLES, Config
from payfirst.errors import OperatorError, StoreUnavailable
from payfirst.store import audit_log, deployments, signers
from payfirst.store.database import Pool, session, transaction
from payfirst.store.signers import SignerState, Tenure
from payfirst.store.transactions import Envelope
from payfirst.units import AccountNonce, Address, Gas, Wei, checksum_address, hex_text, parse_bytes32

RENEW_S = 1.0
MINT_KEY_VARIABLE = KEY_VARIABLES[1]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deployer:
    """The account that pays for the deployment; `purpose` where it is a signer of ours."""

    signer: Signer
    purpose: signers.Purpose | None


def deployer(config: Config, *, chosen: Address | None, key_file: Path | None) -> Deployer:
    """The key in a file, or that of a mint signer: the chosen one, the only one there is. Raises OperatorError."""
    if key_file is not None:
        return Deployer(Signer(key_in(key_file)), None)
    given = os.environ.get(MINT_KEY_VARIABLE, "")
    if given and "," not in given:
        try:
            signer = Signer(parse_bytes32(given.strip()))
        except ValueError:
            raise OperatorError(f"{MINT_KEY_VARIABLE} is no private key: 0x and 64 hex digits are") from None
        if chosen in (None, signer.address):
            return Deployer(signer, "mint")
    kept = [k for k in keystores.find(config.signers_dir) if k.purpose == "mint" and chosen in (None, k.address)]
    if len(kept) > 1:
        raise OperatorError("there are several mint signers: say with --signer which of them deploys")
    if not kept:
        raise OperatorError(
            "there is no key to deploy with: give one with --key-file (a file with 0x and 64 hex digits, or a"
            " keystore), or name with --signer a mint signer whose keystore is here"
        )
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if passphrase is None:
        passphrase = str(typer.prompt(f"Passphrase of {kept[0].path}", hide_input=True))
    return Deployer(Signer(keystores.unlock(kept[0], passphrase)), "mint")


async def cost_for(config: Config, rpc: RpcClient, token: NewToken, account: Address) -> Cost:
    """What the deployment costs at most. Raises DeploymentRefused where `account` does not have it."""
    cost = await deploying.estimate(
        rpc,
        token,
        sender=account,
        priority_fee=config.network.priority_fee_wei,
        max_fee=config.network.max_fee_wei,
    )
    has = await rpc.balance(account)
    if has < cost.most:
        raise DeploymentRefused(
            f"{checksum_address(account)} has {ether(has)}, the deployment may cost {ether(cost.most)}:"
            " send it gas money first"
        )
    return cost


async def launch(
    config: Config, pool: Pool, rpc: RpcClient, token: NewToken, *, by: Deployer, cost: Cost, say: Say
) -> None:
    """Deploy the token and return once it stands at depth. Raises DeploymentRefused and NotThereYet."""
    network, account = config.network.network, by.signer.address
    address = deployment.address(token)
    async with _held(config, pool, rpc, by, address) as held:
        signed = held.under_way
        if signed is None:
            signed = deploying.sign(token, by.signer, chain_id=network.chain_id, nonce=held.nonce, cost=cost)
            await _write_down(pool, network.caip2, token, signed, account=account, tenure=held.tenure, by=by)
        await deploying.broadcast(rpc, signed)
        say(f"sent {hex_text(signed.hash)}, waiting for a block")
        await deploying.until_it_stands(
            rpc,
            address,
            signed,
            confirmations=config.network.confirmations,
            poll_s=config.network.poll_interval_ms / 1_000,
            say=say,
        )


async def _write_down(
    pool: Pool,
    network: str,
    token: NewToken,
    signed: SignedTransaction,
    *,
    account: Address,
    tenure: Tenure | None,
    by: Deployer,
) -> None:
    """Before it is sent: who did it, and, of a signer of ours, the transaction itself."""
    async with transaction(pool, "write down a deployment") as connection:
        if tenure is not None and by.purpose is not None:
            envelope = Envelope(
                network=network,
                signer=account,
                nonce=signed.nonce,
                purpose=by.purpose,
                epoch=tenure.epoch,
                to=signed.to,
                gas_limit=signed.gas_limit,
                hash=signed.hash,
                signed=signed.signed,
                max_fee=signed.fees.max_fee,
                max_priority_fee=signed.fees.max_priority_fee,
            )
            if not await deployments.store(connection, envelope):
                raise OperatorError("somebody else holds the account meanwhile: nothing was sent; try again")
        await audit_log.record(
            connection,
            actor=settings.operator(),
            action="token_deployed",
            subject=hex_text(deployment.address(token)),
            details={
                "network": network,
                "name": token.name,
                "symbol": token.symbol,
                "mint_amount": str(token.mint_amount),
                "max_mint_count": str(token.max_mint_count),
                "owner": hex_text(token.owner),
                "minters": [hex_text(m) for m in token.minters],
                "deployer": hex_text(account),
                "tx_hash": hex_text(signed.hash),
            },
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """An account that nobody else signs for meanwhile; `tenure` and `under_way` where it is a signer of ours."""

    nonce: AccountNonce
    tenure: Tenure | None = None
    under_way: SignedTransaction | None = None


@contextlib.asynccontextmanager
async def _held(config: Config, pool: Pool, rpc: RpcClient, by: Deployer, token: Address) -> AsyncIterator[_Held]:
    """Hold the account if it is a signer of ours: its account nonces have one owner, which is a worker usually."""
    network, account = config.network.network.caip2, by.signer.address
    chain_nonce = await rpc.account_nonce(account)
    async with session(pool, "take the signer") as connection:
        if by.purpose is not None:
            await signers.register(connection, network, account, purpose=by.purpose, chain_nonce=chain_nonce)
        row = await signers.read(connection, network, account)
        tenure = sent = None
        if row is not None:
            sent = await deployments.under_way(connection, network, account, token)
            tenure = await signers.take(
                connection,
                network,
                account,
                purpose=row.purpose,
                owner=f"deploy {uuid.uuid4()}",
                chain_nonce=chain_nonce,
            )
    if row is None:
        yield _Held(chain_nonce)
        return
    if tenure is None:
        raise OperatorError(_why_not_held(account, row, chain_nonce=chain_nonce))
    renewing = asyncio.create_task(_renew(pool, network, account, epoch=tenure.epoch))
    try:
        if tenure.next_nonce != chain_nonce and sent is None:
            raise OperatorError(
                f"{checksum_address(account)} has transactions on their way: start payfirst work until they are"
                " through, or deploy from an account of its own with --key-file"
            )
        yield _Held(tenure.next_nonce, tenure, None if sent is None else _as_signed(sent))
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])
        with contextlib.suppress(StoreUnavailable):  # the lease ends by itself
            async with session(pool, "give the signer back") as connection:
                await signers.release(connection, network, account, epoch=tenure.epoch)


def _as_signed(sent: Envelope) -> SignedTransaction:
    fees = Fees(sent.max_fee, sent.max_priority_fee)
    return SignedTransaction(sent.hash, sent.signed, sent.nonce, sent.to, Gas(sent.gas_limit), fees)


def _why_not_held(account: Address, row: SignerState, *, chain_nonce: AccountNonce) -> str:
    if row.paused_reason:
        why, act = "is paused", "resume it"
    elif row.next_nonce < chain_nonce:
        why = f"has sent {chain_nonce - row.next_nonce} transactions that this database does not know"
        act = "run payfirst audit --repair"
    else:
        why, act = "is held by a worker", "stop the workers for as long as this takes"
    return (
        f"{checksum_address(account)} {why}, and its account nonces have one owner: deploy from an account of its own"
        f" with --key-file, or {act}"
    )


async def _renew(pool: Pool, network: str, account: Address, *, epoch: int) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        with contextlib.suppress(StoreUnavailable):  # the next renewal is a second away, the lease is four
            async with session(pool, "hold the signer") as connection:
                await signers.renew(connection, network, account, epoch=epoch)


def ether(amount: Wei) -> str:
    """An amount of gas money for people."""
    return f"{amount / 10**18:.6f} ether"
