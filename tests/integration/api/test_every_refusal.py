"""Every refusal there is, over HTTP: its status, its code, a sentence that says what to do, and nothing stored."""

from __future__ import annotations

import httpx
import pytest

from payfirst.api import problems
from payfirst.api.refusals import BY_CODE, REFUSALS
from payfirst.errors import PayerError
from payfirst.pipeline import accept
from payfirst.store.database import Pool
from payfirst.units import checksum_address, hex_text

from .contract import conforms
from .refused import ALONE, CUT, GROUPS, Case, changed, signed
from .shop import MINT_PATH, TOKEN, Buyer, Document, Shop, configure, open_shop, running
from .test_refusals import is_problem
from .wire import wire_to


def check(case: Case, answer: httpx.Response) -> None:
    """The answer is the refusal that the case names, and one that the OpenAPI document knows."""
    document: Document = answer.json()
    if answer.status_code == 402:
        assert document["error"] == case.code
        assert document["accepts"]
        assert answer.headers["payment-required"]
    else:
        assert is_problem(answer, case.status, case.code), document
    assert answer.status_code == case.status == BY_CODE[case.code].status
    assert case.advice in document["detail"]
    assert ("retry-after" in answer.headers) == (case.status in (429, 503))
    assert conforms(answer)


@pytest.mark.parametrize("group", GROUPS)
async def test_each_is_refused(shop: Shop, subtests: pytest.Subtests, group: str) -> None:
    """One shop for a group: what is refused leaves nothing behind."""
    buyer = Buyer()
    for case in GROUPS[group]:
        with subtests.test(case.name):
            check(case, await case.send(shop, buyer))
    assert await shop.count() == 0
    assert await shop.count("authorizations") == 0


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
async def test_each_state_is_refused(shop: Shop, buyer: Buyer, case: Case) -> None:
    """What depends on more than the request."""
    check(case, await case.send(shop, buyer))


async def test_an_unknown_outcome_is_said(
    database_url: str, pool: Pool, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is gone while a payment is stored: never "nothing was taken"."""
    monkeypatch.setattr(accept, "REREAD_S", 0.0)
    await open_shop(pool)
    async with wire_to(database_url) as wire, running(configure(wire.url), pool) as shop:
        await wire.cut()
        check(CUT, await CUT.send(shop, buyer))


def test_the_table_names_every_code_that_is_raised() -> None:
    """Each code of an error class or a problem document is in the table, and nothing else is."""
    raised = {
        error.code
        for error in subclasses(PayerError)
        # A buyer's program has refusals of its own, which no server sends.
        if "code" in vars(error) and not error.__module__.startswith("payfirst.client")
    }
    assert raised | set(problems.TITLES) | {"payment_required"} == set(BY_CODE)
    assert len(BY_CODE) == len(REFUSALS)
    assert {refusal.code for refusal in REFUSALS if refusal.status != 402} == set(problems.TITLES)


def test_every_code_is_sent() -> None:
    """No row of the table is out of reach."""
    sent = {case.code for cases in (*GROUPS.values(), ALONE, [CUT]) for case in cases}
    assert sent == set(BY_CODE)


def subclasses(base: type[PayerError]) -> set[type[PayerError]]:
    """All of them, at any depth, of the product."""
    found = {cls for cls in base.__subclasses__() if cls.__module__.startswith("payfirst.")}
    return found.union(*map(subclasses, found)) if found else found


@pytest.mark.parametrize(
    "path",
    [
        f"/api/mint/{hex_text(TOKEN)}",
        f"/api/mint/0X{TOKEN.hex().upper()}",
        f"/api/mint/{checksum_address(TOKEN)}",
        f"{MINT_PATH}?quantity=99&recipient=nobody",
    ],
)
async def test_spelling_does_not_matter(shop: Shop, buyer: Buyer, path: str) -> None:
    """Addresses in any letter case, and a query that means nothing, are taken; the recipient likewise."""
    answer = await shop.mint(buyer.header(), path=path, recipient="0x" + "aB" * 20, more={"ignored": True})
    assert answer.status_code == 202


@pytest.mark.parametrize("version", [1, 2])
async def test_a_payment_in_capitals_is_taken(shop: Shop, buyer: Buyer, version: int) -> None:
    """Checksums are not demanded of a payer's hex, anywhere."""

    def shout(document: Document) -> None:
        holders = [document["payload"], document["payload"]["authorization"], document.get("accepted", {})]
        for holder in holders:
            for name, value in holder.items():
                if isinstance(value, str) and value.startswith("0x"):
                    holder[name] = "0X" + value[2:].upper()

    assert (await changed(version, shout)(shop, buyer)).status_code == 202


async def test_what_is_refused_is_taken_when_it_is_put_right(shop: Shop, buyer: Buyer) -> None:
    """The negatives above differ from this by one thing each."""
    for version in (1, 2):
        assert (await signed(version)(shop, buyer)).status_code == 202
