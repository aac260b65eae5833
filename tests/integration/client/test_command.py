"""`payfirst buy`, as a buyer types it: a process of its own, killed when it hurts the most."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from commands import environment
from conformance.shop import Shop
from eth_account import Account as EthAccount
from flow.rig import ENOUGH, MINT_AMOUNT, PRICE
from flow.rig import Buyer as Account
from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.errors import PayfirstError
from payfirst.units import Address, checksum_address, hex_text

from .seller_proxy import Act, Cut, Forward, seller_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int | None
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, object]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


async def start(*words: str, cwd: Path, **more: str) -> asyncio.subprocess.Process:
    """`payfirst buy …` as a process, with its purchases in a folder below `cwd`."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "payfirst", "buy", *words, "--state-dir", str(cwd / "purchases"),
        cwd=cwd, env=environment(**more), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def buy(*words: str, cwd: Path, **more: str) -> Said:
    """The same to its end, in this process: starting one takes longer than buying."""

    def invoke() -> Said:
        line = ["buy", *words, "--state-dir", str(cwd / "purchases")]
        result = CliRunner().invoke(app, line, env={"PAYFIRST_BUYER_KEY": None, **more})
        if isinstance(result.exception, PayfirstError):  # which `main` shows and answers with 2
            return Said(2, result.stdout, f"{result.stderr}{result.exception}")
        return Said(result.exit_code, result.stdout, result.stderr)

    async with asyncio.timeout(60):
        return await asyncio.to_thread(invoke)


def key_file(account: Account, folder: Path) -> str:
    """A file with the account's key."""
    path = folder / "buyer.key"
    path.write_text(hex_text(account.key) + "\n")
    path.chmod(0o600)
    return str(path)


async def rows(shop: Shop, account: Account) -> int:
    """How many payments the seller has of an account."""
    sql = "SELECT count(*) FROM payment_queue WHERE payer = $1"
    return int(await shop.rig.pool.fetchval(sql, hex_text(account.address)))


async def test_a_token_is_bought_by_command(shop: Shop, account: Account, tmp_path: Path) -> None:
    """Exit code 0, progress on standard error, the end on standard output; no key anywhere in either."""
    friend = Address(b"\x78" * 20)
    process = await start(
        shop.token, "--server", shop.url, "-n", "2", "--key-file", key_file(account, tmp_path),
        "--recipient", checksum_address(friend), "--max-total", "0.02", cwd=tmp_path,
    )  # fmt: skip
    out, err = await process.communicate()
    said = Said(process.returncode, out.decode(), err.decode())
    assert said.code == 0, said.err
    assert said.out.startswith(
        f"Minted: 2 of 2 × {shop.token} to {checksum_address(friend)}, 0.02 USDC on base-sepolia"
    )
    for words in ("offered for 0.02 USDC", "signed, and kept", "accepted as ", "paid in 0x", "2 of 2 minted"):
        assert words in said.err, words
    assert account.key.hex() not in said.out + said.err
    assert await shop.rig.balance(shop.rig.token, friend) == 2 * MINT_AMOUNT
    nothing = await buy("--resume", cwd=tmp_path)
    assert (nothing.code, nothing.out) == (0, "Nothing is unfinished.\n")


@pytest.mark.parametrize("reached_the_seller", [False, True], ids=["before it arrived", "after it was stored"])
async def test_killed_between_saving_and_the_answer_it_pays_once(
    shop: Shop, account: Account, tmp_path: Path, *, reached_the_seller: bool
) -> None:
    """kill -9 while the payment is under way; the same order is not signed again; --resume sends the same header."""
    sent = asyncio.Event()

    async def hold(_number: int, forward: Forward) -> web.Response:
        if reached_the_seller:
            assert (await forward()).status == 202
        sent.set()
        await asyncio.Event().wait()
        raise Cut

    key = hex_text(account.key)
    async with seller_proxy(shop.url, hold) as proxy:
        order = (shop.mint_url.replace(shop.url, proxy.url), "--quantity", "3")
        process = await start(*order, cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
        async with asyncio.timeout(30):
            await sent.wait()
        process.send_signal(signal.SIGKILL)
        _, error = await process.communicate()
        assert process.returncode == -signal.SIGKILL, error
        assert await rows(shop, account) == int(reached_the_seller)

        proxy.act = honest
        again = await buy(*order, cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
        assert (again.code, "payfirst buy --resume" in again.err) == (2, True), again.err
        resumed = await buy("--resume", "--json", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    (document,) = resumed.documents
    assert (document["outcome"], document["minted"], document["error"]) == ("minted", 3, None)
    assert (len(proxy.payments), len(set(proxy.payments))) == (2, 1)
    assert await rows(shop, account) == 1
    assert await shop.rig.balance(shop.rig.chain.usdc, account.address) == ENOUGH - 3 * PRICE
    assert await shop.rig.balance(shop.rig.token, account.address) == 3 * MINT_AMOUNT
    await shop.rig.check_invariants()


async def honest(_number: int, forward: Forward) -> web.Response:
    """Nothing in between."""
    return await forward()


async def test_the_exit_code_says_how_it_ended(shop: Shop, account: Account, tmp_path: Path) -> None:
    """1 when nothing was bought, 2 when nothing was signed, 3 when the end is not known yet; each with a reason."""
    (poor,) = await shop.rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    failed = await buy(shop.mint_url, "--json", cwd=tmp_path, PAYFIRST_BUYER_KEY=hex_text(poor.key))
    (document,) = failed.documents
    assert (failed.code, document["outcome"]) == (1, "failed")
    assert document["error"] == {
        "code": "insufficient_funds",
        "message": "The payment failed (insufficient_funds): The payer's balance is below the amount. No money moved;"
        " fund the account and pay again.",
    }
    key = hex_text(account.key)
    dear = await buy(shop.mint_url, "--max-total", "0.009", "--json", cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
    assert (dear.code, dear.documents[0]["outcome"]) == (2, "not_signed")
    assert "the cap is 0.009" in dear.err

    async def away(_number: int, _forward: Forward) -> web.Response:
        raise Cut

    act: Act = away
    async with seller_proxy(shop.url, act) as proxy:
        url = shop.mint_url.replace(shop.url, proxy.url)
        unknown = await buy(url, "--patience", "1", "--json", cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
        assert (unknown.code, unknown.documents[0]["outcome"]) == (3, "unknown")
        still = await buy("--resume", "--patience", "1", cwd=tmp_path)
        assert (still.code, "payfirst buy --resume" in still.out) == (3, True)
        proxy.act = honest
        assert (await buy("--resume", cwd=tmp_path)).code == 0
    assert await rows(shop, account) == 1


async def test_a_keystore_buys_with_its_passphrase(shop: Shop, account: Account, tmp_path: Path) -> None:
    """As `payfirst signers` keeps them; another passphrase does not open it."""
    store = tmp_path / "buyer.json"
    store.write_text(json.dumps(EthAccount.encrypt(account.key, PASSPHRASE, iterations=1_024)))
    store.chmod(0o600)
    words = (shop.mint_url, "--key-file", str(store))
    closed = await buy(*words, cwd=tmp_path, PAYFIRST_BUYER_PASSPHRASE="another")
    assert (closed.code, "the passphrase is not its own" in closed.err) == (2, True), closed.err
    bought = await buy(*words, cwd=tmp_path, PAYFIRST_BUYER_PASSPHRASE=PASSPHRASE)
    assert bought.code == 0, bought.err
