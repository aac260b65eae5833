"""docs/migrating.md and docs/buying.md: their programs run as printed, against a real seller, and are minted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from client.conftest import account, shop
from commands import environment
from conformance.official import NPM
from conformance.shop import Shop
from flow.rig import MINT_AMOUNT
from flow.rig import Buyer as Account

from payfirst.local import node
from payfirst.units import hex_text

from .readme import ROOT

__all__ = ["account", "shop"]  # fixtures

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM_TIMEOUT_S = 60
MARK = "<!-- tests/docs/test_migrating.py runs this block as printed -->\n"
# Addresses of the reader's own, and the default port.
SERVER, TOKEN = "http://127.0.0.1:4021", "0xYourToken"

# What the page has: fetch by paths of its own origin, and a wallet that pays. The payment is signed beforehand.
PAGE = """
const { SHOP, TOKEN, PAYMENT } = process.env;
const overNetwork = globalThis.fetch;
globalThis.fetch = (path, init) => overNetwork(new URL(path.replace(':address', TOKEN), SHOP), init);
const fetchWithPayment = (path, init) => fetch(path, { ...init, headers: { ...init.headers, 'X-PAYMENT': PAYMENT } });
let polls = 0;
const everySoOften = globalThis.setInterval;
globalThis.setInterval = (act, ms) => everySoOften(() => { polls += 1; return act(); }, ms);
process.on('exit', () => console.log(JSON.stringify({ paymentQueueId, polls })));
"""


def blocks(name: str, language: str) -> list[str]:
    """The blocks of a document that are run as printed."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"{re.escape(MARK)}```{language}\n(.*?)```", text, re.DOTALL)


async def run(*words: str | Path, cwd: Path, **more: str) -> str:
    """A program to its end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=cwd, env=environment(**more), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PROGRAM_TIMEOUT_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


async def minted(shop: Shop, account: Account, units: int) -> None:
    """Each unit comes into the wallet; who polled for `completed` has seen them paid only."""
    sql = "SELECT count(*) FROM mint_queue WHERE recipient = $1 AND status = 'completed'"

    async def known() -> bool:
        return bool(await shop.rig.pool.fetchval(sql, hex_text(account.address)) == units)

    await shop.rig.until(known)
    assert await shop.rig.balance(shop.rig.token, account.address) == units * MINT_AMOUNT
    await shop.rig.check_invariants()


async def test_the_polling_example_runs_as_printed(shop: Shop, account: Account, tmp_path: Path) -> None:
    """The seed's block, character by character: 202, polls every two seconds, and an end once it is paid."""
    (example,) = blocks("migrating.md", "typescript")
    (tmp_path / "page.mjs").write_text(PAGE + example, encoding="utf-8")
    payment = account.header(account.authorize(10))["X-PAYMENT"]
    said = json.loads(
        await run(node.node(), "page.mjs", cwd=tmp_path, SHOP=shop.url, TOKEN=shop.token, PAYMENT=payment)
    )
    assert 1 <= said["polls"] <= 10
    document = await shop.rig.payment(said["paymentQueueId"])
    assert (document["status"], document["quantity"]) == ("completed", 10)
    await minted(shop, account, 10)


async def test_the_blocking_request_waits_as_printed(shop: Shop, account: Account, tmp_path: Path) -> None:
    """`Prefer: wait` answers 200 with the settlement header once it is paid."""
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(curl .*?)\n```", text)
    payment = account.header(account.authorize(10))["X-PAYMENT"]
    command = command.replace(SERVER, shop.url).replace(TOKEN, shop.token)
    said = await run("/bin/sh", "-c", f"{command} --silent", cwd=tmp_path, PAYMENT=payment)
    assert "HTTP/1.1 200" in said
    assert "x-payment-response: " in said.lower()
    await minted(shop, account, 10)


async def test_the_python_example_runs_as_printed(shop: Shop, account: Account, tmp_path: Path) -> None:
    """docs/buying.md: run twice it pays once, because of its reference."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "buying.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "buy.py").write_text(example.replace(SERVER, shop.url).replace(TOKEN, shop.token), encoding="utf-8")
    key = hex_text(account.key)
    first = await run(sys.executable, "buy.py", cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
    assert first.splitlines()[:3] == ["Offered", "Signed", "Accepted"]
    assert first.splitlines()[-1].startswith("minted 0x")
    again = await run(sys.executable, "buy.py", cwd=tmp_path, PAYFIRST_BUYER_KEY=key)
    assert again.splitlines() == ["Ended", first.splitlines()[-1]]
    await minted(shop, account, 2)


async def test_the_commands_of_the_buying_guide_work(shop: Shop, account: Account, tmp_path: Path) -> None:
    """In the order printed, with the reader's own key and token."""
    text = (ROOT / "docs" / "buying.md").read_text(encoding="utf-8")
    printed = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for mine, theirs in ((SERVER, shop.url), (TOKEN, shop.token), ("0xYourKey", hex_text(account.key))):
        printed = printed.replace(mine, theirs)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = await run("/bin/sh", "-e", "-c", printed, cwd=tmp_path, PATH=path, XDG_STATE_HOME=str(tmp_path))
    assert said.startswith("Minted: 2 of 2")
    assert said.endswith("Nothing is unfinished.\n")
    await minted(shop, account, 2)


@pytest.mark.slow
async def test_the_example_with_the_official_client_runs_as_printed(shop: Shop, account: Account) -> None:
    """Beside the installed packages; it says each state and how it ended."""
    (example,) = blocks("migrating.md", "js")
    program = NPM / "node_modules" / ".migrating.mjs"  # where its imports are found
    program.write_text(example.replace(SERVER, shop.url).replace(TOKEN, shop.token), encoding="utf-8")
    try:
        said = await run(node.node(), program, cwd=NPM, BUYER_KEY=hex_text(account.key))
    finally:
        program.unlink()
    assert re.search(r"^paid in 0x[0-9a-f]{64}, 10 of 10 minted$", said.splitlines()[-1])
    await minted(shop, account, 10)
