"""The official clients of both generations buy to the minted end; docs/clients.md holds what was run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from pathlib import Path

import pytest
from flow.rig import MINT_AMOUNT, Rig

from .official import JAVASCRIPT, NPM, PAYMENT_HEADERS, PYTHON, Bought, Case, buy
from .shop import Shop

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- clients: PAYFIRST_WRITE_TABLE=1 make test-slow -->", "<!-- /clients -->"
SETTLEMENT_HEADERS = {"payment-response", "x-payment-response"}
QUANTITY = 2


@pytest.mark.parametrize("case", PYTHON, ids=str)
async def test_the_python_client_buys_and_is_minted(shop: Shop, case: Case) -> None:
    """202, no settlement header, and two tokens in the wallet; each generation finds its offer in the same 402."""
    await _buy_to_the_end(shop, case)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_every_client_buys_and_the_table_says_so(shop: Shop) -> None:
    """Each of them in turn; the versions are those of the installed packages."""
    rows = []
    for number, case in enumerate([*PYTHON, *JAVASCRIPT], start=1):
        bought = await _buy_to_the_end(shop, case, bought_before=number - 1)
        (header,) = bought.paid_with
        rows.append(
            f"| `{case.package}` {bought.version} | {case.by} | {case.generation} | `{header.upper()}`"
            f" | {bought.status}, {QUANTITY} of {QUANTITY} minted |"
        )
    table = "\n".join(["| client | by | x402 | paid with | result |", "|---|---|---|---|---|", *rows])
    written = DOCUMENT.read_text(encoding="utf-8")
    before, rest = written.split(BEGIN)
    found, after = rest.split(END)
    if os.environ.get("PAYFIRST_WRITE_TABLE") == "1":
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    else:
        assert found.strip() == table, "run this with PAYFIRST_WRITE_TABLE=1 to write what was run"


def test_the_table_names_the_versions_that_are_pinned() -> None:
    """A version that was raised without running the clients is found by the fast tests already."""
    pinned = dict(json.loads((NPM / "package.json").read_text(encoding="utf-8"))["dependencies"])
    pinned["x402"] = importlib.metadata.version("x402")
    rows = re.findall(r"^\| `([^`]+)` (\S+) \| (\w+) \| (v[12]) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert [Case(package, generation, by) for package, _, by, generation in rows] == [*PYTHON, *JAVASCRIPT]
    for package, version, _, _ in rows:
        assert version == pinned[package]


async def _buy_to_the_end(shop: Shop, case: Case, *, bought_before: int = 0) -> Bought:
    rig: Rig = shop.rig
    (buyer,) = await rig.buyers(1)
    bought = await buy(case, shop.mint_url, buyer.key, QUANTITY)
    assert bought.status == 202, (case, bought.body)
    assert bought.body["status"] == "payment_pending"
    assert bought.paid_with == {PAYMENT_HEADERS[case.generation]}
    assert not bought.headers & SETTLEMENT_HEADERS
    purchases = bought_before + 1
    await rig.until_counts(payments_completed=purchases, mints_completed=purchases * QUANTITY)
    assert await rig.balance(rig.token, buyer.address) == QUANTITY * MINT_AMOUNT
    await rig.check_invariants()
    return bought
