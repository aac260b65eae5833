"""`payfirst tokens`, as a seller types it, on a real chain and a real database.

A process for each command costs a second; those whose processes matter are run so, the others in this one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import asyncpg
import pytest
import structlog
from commands import PASSPHRASE, run
from contracts.token import MINT_AMOUNT, Token, mint_id
from typer.testing import CliRunner

from payfirst.chain import keystores
from payfirst.cli.main import app
from payfirst.errors import PayfirstError
from payfirst.local.chain import LocalChain, dev_address, dev_key
from payfirst.store import tokens
from payfirst.units import Address, BlockNumber, Wei, checksum_address, hex_text, parse_address

NETWORK = "eip155:84532"
OWNER = dev_address("owner")
SELLER = dev_address("seller")
ALICE = dev_address("alice")

Payfirst = Callable[..., Coroutine[object, object, CompletedProcess[str]]]


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A chain that mines by itself, as a deployment needs."""
    async with LocalChain(block_time_s=0.25) as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, database_url: str, chain: LocalChain) -> dict[str, str]:
    """A database, a chain, a passphrase, and a folder of its own."""
    return {
        "DATABASE_URL": database_url,
        "PAYFIRST_DATA_DIR": str(tmp_path / "payfirst-data"),
        "PAYFIRST_SIGNERS__PASSPHRASE": PASSPHRASE,
        "PAYFIRST_NETWORK__RPC_URLS": chain.url,
        "PAYFIRST_NETWORK__POLL_INTERVAL_MS": "50",
    }


@pytest.fixture
def payfirst(environment: dict[str, str]) -> Iterator[Payfirst]:
    """The command, in this process."""

    def invoke(words: tuple[str, ...], more: dict[str, str]) -> CompletedProcess[str]:
        ended = CliRunner().invoke(app, words, env=environment | more)
        if isinstance(ended.exception, PayfirstError):  # as `main` tells it
            return CompletedProcess(words, 2, ended.stdout, f"payfirst: {ended.exception}")
        return CompletedProcess(words, ended.exit_code, ended.stdout, f"{ended.stderr}{ended.exception}")

    async def call(*words: str, **more: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(invoke, words, more)

    yield call
    structlog.reset_defaults()  # a command logs to the streams it was given


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Payfirst:
    """The command, in a process of its own."""

    async def call(*words: str, **more: str) -> CompletedProcess[str]:
        return await asyncio.to_thread(run, *words, cwd=tmp_path, **environment | more)

    return call


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once it holds; looked at every 50 ms."""
    async with asyncio.timeout(30):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def deploy_by_hand(chain: LocalChain, contract: str = "MintToken", *, minter: Address = OWNER) -> Token:
    """A token that stands before payfirst knows of it."""
    return await Token.deploy(chain, contract, max_mint_count=10, admin=OWNER, minter=minter)


async def audited(pool: asyncpg.Pool) -> list[tuple[str, str, dict[str, object]]]:
    """What the seller did: action, subject, details."""
    rows = await pool.fetch("SELECT actor, action, subject, details FROM audit_log ORDER BY id")
    assert all("@" in row["actor"] for row in rows)
    return [(row["action"], row["subject"], json.loads(row["details"])) for row in rows]


def refused(ended: CompletedProcess[str], *words: str) -> None:
    """One sentence with these words, exit code 2, no traceback."""
    assert ended.returncode == 2, ended.stdout
    assert ended.stderr.startswith("payfirst: "), ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def done(ended: CompletedProcess[str]) -> str:
    """What a command that worked has printed."""
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# ---- add -------------------------------------------------------------------------------------------


async def test_an_added_token_is_checked_and_synced_at_once(
    process: Payfirst, payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain
) -> None:
    """In any letter case; no worker is needed for it to be on sale."""
    token = await deploy_by_hand(chain)
    await token.mint(ALICE, mint_id(1))
    shouted = "0X" + token.address.hex().upper()
    said = done(await process("tokens", "add", shouted, "--price", "0.01", "--minter", hex_text(OWNER)))
    assert "is offered at 0.01 USDC a mint: Pass (PASS), 5 a mint, 9 of 10 left" in said
    assert "a used mint id is skipped" in said
    (row,) = json.loads(done(await payfirst("tokens", "list", "--json")))
    assert row["address"] == checksum_address(token.address)
    assert (row["price"], row["mintAmount"], row["maxMintCount"], row["minted"]) == ("10000", str(MINT_AMOUNT), 10, 1)
    assert (row["active"], row["heldReason"]) == (True, None)
    assert row["syncedHeight"] > 0
    ((action, subject, details),) = await audited(pool)
    assert (action, subject, details["price"]) == ("token_added", hex_text(token.address), "10000")
    assert "0.01" in done(await payfirst("tokens", "list"))


async def test_adding_again_changes_nothing_and_another_price_is_refused(
    payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain
) -> None:
    """A script that runs twice does no harm; a price is changed by the command for it."""
    token = hex_text((await deploy_by_hand(chain)).address)
    add = ("tokens", "add", token, "--minter", hex_text(OWNER), "--price")
    done(await payfirst(*add, "0.01"))
    done(await payfirst("tokens", "pause", token))
    again = done(await payfirst(*add, "0.010"))
    assert "was offered already" in again
    assert "It is paused: payfirst tokens resume" in again
    refused(await payfirst(*add, "0.02"), "at 0.01 USDC a mint", "payfirst tokens price")
    assert await pool.fetchval("SELECT price FROM tokens") == 10_000
    assert [action for action, _, _ in await audited(pool)] == ["token_added", "token_paused"]


async def test_what_cannot_be_sold_is_not_added(payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain) -> None:
    """The role, the contract's kind and the mint signers are looked at first; nothing is stored."""
    token = await deploy_by_hand(chain)
    add = ("tokens", "add", "--price", "0.01")
    refused(await payfirst(*add, hex_text(token.address)), "no mint signer is known", "--minter")
    refused(
        await payfirst(*add, hex_text(token.address), "--minter", hex_text(ALICE)),
        f"the mint signer {checksum_address(ALICE)} has no MINTER_ROLE",
        "grantRole(0x",
    )
    refused(await payfirst(*add, hex_text(chain.usdc), "--minter", hex_text(OWNER)), "does not answer mintAmount()")
    refused(await payfirst(*add, hex_text(ALICE), "--minter", hex_text(OWNER)), "no contract is there")
    careless = await deploy_by_hand(chain, "CarelessMintToken")
    named = (hex_text(careless.address), "--minter", hex_text(OWNER))
    refused(await payfirst(*add, *named), "it mints a used mint id again")
    for price in ("0", "0.0000001", "cheap"):
        refused(await payfirst("tokens", "add", hex_text(token.address), "--price", price))
    refused(await payfirst(*add, "0x1234"), "not an address")
    assert await pool.fetchval("SELECT count(*) FROM tokens") == 0
    assert await audited(pool) == []
    # The clear word for an endpoint that tries nothing: views and roles are still read.
    assert "was not tried" in done(await payfirst(*add, *named, "--untried"))
    refused(await payfirst(*add, hex_text(token.address), "--minter", hex_text(ALICE), "--untried"), "MINTER_ROLE")


async def test_another_chain_and_no_chain_are_said(payfirst: Payfirst, chain: LocalChain) -> None:
    """Before anything is believed of the address."""
    add = ("tokens", "add", hex_text(ALICE), "--price", "1", "--minter", hex_text(OWNER))
    refused(await payfirst(*add, PAYFIRST_NETWORK__NAME="base"), "serves chain 84532", "network.rpc_urls")
    refused(await payfirst(*add, PAYFIRST_NETWORK__RPC_URLS="http://127.0.0.1:9"), "no RPC endpoint answers")


# ---- pause, resume, price, sync --------------------------------------------------------------------


async def test_pause_and_price_are_changed_and_written_down(
    payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain
) -> None:
    """Each once: what changes nothing is said, and leaves no line in the log."""
    token = await deploy_by_hand(chain)
    shouted = "0x" + token.address.hex().upper()
    done(await payfirst("tokens", "add", shouted, "--price", "0.01", "--minter", hex_text(OWNER)))
    assert "is paused" in done(await payfirst("tokens", "pause", shouted))
    assert "was paused already" in done(await payfirst("tokens", "pause", shouted))
    (row,) = json.loads(done(await payfirst("tokens", "list", "--json")))
    assert row["active"] is False
    assert "is on sale again" in done(await payfirst("tokens", "resume", shouted))
    assert "was neither paused nor held" in done(await payfirst("tokens", "resume", shouted))
    await pool.execute("UPDATE tokens SET held_reason = 'AccessControlUnauthorizedAccount'")
    (row,) = json.loads(done(await payfirst("tokens", "list", "--json")))
    assert (row["active"], row["heldReason"]) == (True, "AccessControlUnauthorizedAccount")
    assert "is on sale again" in done(await payfirst("tokens", "resume", shouted))
    assert await pool.fetchval("SELECT held_reason FROM tokens") is None
    assert "costs 0.02 instead of 0.01 a mint" in done(await payfirst("tokens", "price", shouted, "0.02"))
    assert "costs 0.02 USDC already" in done(await payfirst("tokens", "price", shouted, "0.02"))
    refused(await payfirst("tokens", "price", shouted, "0"), "above zero")
    assert [action for action, _, _ in await audited(pool)] == [
        "token_added",
        "token_paused",
        "token_resumed",
        "token_resumed",
        "token_price_changed",
    ]
    *_, (_, subject, details) = await audited(pool)
    assert subject == hex_text(token.address)
    assert details == {"network": NETWORK, "from": "10000", "to": "20000"}


@pytest.mark.parametrize("words", [("pause",), ("resume",), ("price", "1"), ("sync",)], ids=lambda words: words[0])
async def test_a_token_that_was_never_offered_is_named(payfirst: Payfirst, words: tuple[str, ...]) -> None:
    """A typing error pauses nothing, and says so."""
    refused(
        await payfirst("tokens", words[0], hex_text(ALICE), *words[1:]),
        f"{checksum_address(ALICE)} is not on offer here",
    )


async def test_sync_reads_what_the_chain_says_now(payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain) -> None:
    """All tokens or one; one that does not answer is named, the others are synced."""
    token = await deploy_by_hand(chain)
    done(await payfirst("tokens", "add", hex_text(token.address), "--price", "1", "--minter", hex_text(OWNER)))
    await token.mint(ALICE, mint_id(7))
    assert "1 of 10 minted" in done(await payfirst("tokens", "sync"))
    assert await pool.fetchval("SELECT minted FROM tokens") == 1
    await pool.execute("INSERT INTO tokens (network, address, price) VALUES ($1, $2, 1)", NETWORK, hex_text(ALICE))
    await token.mint(ALICE, mint_id(8))
    refused(await payfirst("tokens", "sync"), checksum_address(ALICE), "no contract is there")
    assert await pool.fetchval("SELECT minted FROM tokens WHERE synced_height IS NOT NULL") == 2
    assert "2 of 10 minted" in done(await payfirst("tokens", "sync", hex_text(token.address)))


async def test_a_late_read_never_overwrites_what_a_worker_has_counted(pool: asyncpg.Pool) -> None:
    """Else units that were just minted would be sold again."""
    token = Address(b"\x11" * 20)
    facts = tokens.TokenFacts(token, "Pass", "PASS", 1, 10, 4)
    async with pool.acquire() as connection:
        await tokens.add(connection, NETWORK, token, price=1)  # type: ignore[arg-type]  # atomic
        assert await tokens.sync_newer(connection, NETWORK, facts, height=BlockNumber(7))
        await tokens.sync(connection, NETWORK, facts, height=BlockNumber(9))
        for height in (8, 9):
            older = tokens.TokenFacts(token, "Pass", "PASS", 1, 10, 3)
            assert not await tokens.sync_newer(connection, NETWORK, older, height=BlockNumber(height))
        found = await tokens.find(connection, NETWORK, token)
    assert found is not None
    assert (found.minted, found.synced_height) == (4, 9)


# ---- deploy ----------------------------------------------------------------------------------------

WORDS = (
    *("tokens", "deploy", "--name", "Launch Pass", "--symbol", "LP", "--mint-amount", "2.5"),
    *("--max-mint-count", "7", "--price", "0.05", "--owner", hex_text(SELLER)),
)


def kept_mint_signer(folder: Path) -> Address:
    """A mint signer in data_dir/signers, as `payfirst signers new` makes it."""
    return keystores.write(
        folder / "payfirst-data/signers", purpose="mint", key=dev_key("mint"), passphrase=PASSPHRASE
    ).address


async def test_a_token_is_deployed_with_its_roles_and_offered(
    payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain, tmp_path: Path
) -> None:
    """By the mint signer that is there; the same words again find it, and send nothing."""
    minter = kept_mint_signer(tmp_path)
    await chain.fund_gas([minter], Wei(10**18))
    said = done(await payfirst(*WORDS, "--yes"))
    (row,) = json.loads(done(await payfirst("tokens", "list", "--json")))
    assert said.index(f"will stand at {row['address']}") < said.index("sent 0x") < said.index("it stands")
    for expected in (checksum_address(SELLER), f"may mint    {checksum_address(minter)}", "7 of 7 left"):
        assert expected in said
    assert (row["name"], row["symbol"], row["price"]) == ("Launch Pass", "LP", "50000")
    assert (row["mintAmount"], row["maxMintCount"], row["minted"]) == (str(25 * 10**17), 7, 0)
    spent = await chain.rpc.account_nonce(minter)
    again = done(await payfirst(*WORDS))
    assert f"{row['address']} stands already" in again
    assert "was offered already" in again
    assert await chain.rpc.account_nonce(minter) == spent
    assert [action for action, _, _ in await audited(pool)] == ["token_deployed", "token_added"]
    (_, subject, details), _ = await audited(pool)
    assert parse_address(subject) == parse_address(row["address"])
    assert (details["deployer"], details["minters"]) == (hex_text(minter), [hex_text(minter)])
    # Held while it signed, free afterwards; its transaction is stored like all that a signer sends.
    held = await pool.fetchrow("SELECT lease_until, next_nonce, purpose FROM signers")
    assert held is not None
    assert (held["lease_until"], held["next_nonce"], held["purpose"]) == (None, spent, "mint")
    assert await pool.fetchval("SELECT account_nonce FROM chain_transactions") == spent - 1
    # Other mint signers would make a second token of the same name: not by mistake.
    other = ("--minter", hex_text(ALICE), "--yes")
    refused(await payfirst(*WORDS, *other), f"is there already at {row['address']}", "--another")
    done(await payfirst(*WORDS, *other, "--another"))
    assert await pool.fetchval("SELECT count(*) FROM tokens") == 2


async def test_a_deployment_that_was_cut_off_is_gone_on_with(
    process: Payfirst, payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain, tmp_path: Path
) -> None:
    """Sent and in no block yet when its process ends: the same command once more brings it to its end."""
    minter = kept_mint_signer(tmp_path)
    await chain.fund_gas([minter], Wei(10**18))
    await chain.set_interval(0)

    async def is_sent() -> bool:
        return await chain.rpc.account_nonce(minter, "pending") == 1

    async def is_held_again() -> bool:
        return bool(await pool.fetchval("SELECT lease_until IS NOT NULL FROM signers"))

    begun = asyncio.create_task(process(*WORDS, "--yes"))
    await until(is_sent)
    # While it waits it holds the account, as a worker would.
    refused(await payfirst(*WORDS, "--yes"), "held by a worker", "--key-file")
    await pool.execute("UPDATE signers SET lease_until = NULL, lease_owner = NULL, epoch = epoch + 1")  # as if killed
    again = asyncio.create_task(process(*WORDS, "--yes"))
    await until(is_held_again)
    await chain.set_interval(1)
    done(await begun)
    done(await again)
    assert await chain.rpc.account_nonce(minter) == 1
    assert await pool.fetchval("SELECT count(*) FROM tokens") == 1


async def test_what_stands_in_the_way_of_a_deployment_is_said(
    payfirst: Payfirst, pool: asyncpg.Pool, chain: LocalChain, tmp_path: Path
) -> None:
    """Before anything is sent: no signer, no key, no gas money, nobody to ask, a transaction on its way."""
    refused(await payfirst(*WORDS, "--yes"), "no mint signer is known")
    named = (*WORDS, "--minter", hex_text(ALICE))
    refused(await payfirst(*named, "--yes"), "no key to deploy with", "--key-file")
    raw = tmp_path / "deployer.key"
    raw.write_text(hex_text(dev_key("deployer")))
    raw.chmod(0o600)
    by_file = (*named, "--key-file", str(raw))
    refused(await payfirst(*by_file, "--yes"), checksum_address(dev_address("deployer")), "send it gas money")
    await chain.fund_gas([dev_address("deployer"), dev_address("mint")], Wei(10**18))
    refused(await payfirst(*by_file), "add --yes")
    refused(await payfirst(*by_file, "--yes", PAYFIRST_NETWORK__MAX_FEE_GWEI="0.001"), "network.max_fee_gwei")
    refused(await payfirst(*by_file, "--yes", "--symbol", ""), "the symbol is 1 to 64 bytes")
    refused(await payfirst(*by_file, "--yes", "--mint-amount", "0"), "above zero")
    refused(await payfirst(*by_file, "--yes", "--owner", "0x" + "00" * 20), "zero address")
    kept_mint_signer(tmp_path)
    mint = hex_text(dev_address("mint"))
    await pool.execute(
        "INSERT INTO signers (network, address, purpose, next_nonce) VALUES ($1, $2, 'mint', 3)", NETWORK, mint
    )
    refused(await payfirst(*WORDS, "--yes"), "has transactions on their way")
    await pool.execute("UPDATE signers SET paused_reason = 'rotation', next_nonce = 0")
    refused(await payfirst(*WORDS, "--yes"), "no mint signer is known")
    refused(await payfirst(*WORDS, "--yes", "--minter", mint), "is paused", "resume it")
    assert await audited(pool) == []
    assert await chain.rpc.account_nonce(dev_address("mint")) == 0
    # An account that is no signer needs nobody's leave.
    assert f"paid by     {checksum_address(dev_address('deployer'))}" in done(await payfirst(*by_file, "--yes"))


async def test_a_chain_without_the_deployment_proxy_is_said(
    payfirst: Payfirst, chain: LocalChain, tmp_path: Path
) -> None:
    """Then the contract is deployed by other means."""
    kept_mint_signer(tmp_path)
    await chain.set_code(parse_address("0x4e59b44847b379578588920cA78FbF26c0B4956C"), b"")
    refused(await payfirst(*WORDS, "--yes"), "deterministic deployment proxy", "payfirst tokens add")
