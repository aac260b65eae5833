"""A connection lost in the middle of a COMMIT: the row decides, read again by its key; never a second payment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from payfirst.pipeline import accept
from payfirst.store.database import Pool

from .shop import MINT_PATH, Buyer, Document, Shop, configure, open_shop, running, until
from .test_refusals import is_problem
from .test_server import serving
from .wire import wire_to

SAID = "Send this same header again, do not sign a new one"
# Of either process, so that both give the same links.
PUBLIC_URL = "https://shop.example"


async def until_stored(pool: Pool) -> None:
    """A row is committed: another session sees it."""

    async def is_stored() -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM payment_queue"))

    await until(is_stored)


async def test_a_commit_whose_answer_is_lost_is_read_again(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The database has the row, the connection dies before it says so: each request gets its 202, those behind too."""
    await open_shop(pool)
    async with wire_to(database_url) as wire, running(configure(wire.url), pool) as shop:
        nonce = buyer.authorize().nonce
        headers = [buyer.header(nonce=nonce), *(Buyer().header() for _ in range(5))]
        wire.lose_answers(after=nonce)
        waiting = asyncio.gather(*(shop.mint(header) for header in headers))
        await until_stored(pool)
        await wire.cut()
        await wire.mend()
        answers = await waiting
        assert [answer.status_code for answer in answers] == [202] * 6
        for header, answer in zip(headers, answers, strict=True):
            assert (await shop.mint(header)).content == answer.content
        assert await shop.count() == 6


async def test_a_commit_that_never_arrived_is_not_called_a_payment(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """No row is found, but one might still come: 503, the same header again, and then it is one payment."""
    await open_shop(pool)
    async with wire_to(database_url) as wire, running(configure(wire.url), pool) as shop:
        header = buyer.header()
        wire.lose_questions()
        waiting = asyncio.create_task(shop.mint(header))
        await until_storing(shop)
        await wire.cut()
        await wire.mend()
        answer = await waiting
        assert is_problem(answer, 503, "outcome_unknown")
        assert (answer.headers["retry-after"], SAID in answer.json()["detail"]) == ("1", True)
        assert await shop.count() == 0
        assert (await shop.mint(header)).status_code == 202
        assert await shop.count() == 1


async def test_a_server_process_that_dies_in_a_commit(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """PostgreSQL ends the session that inserts: rolled back, said to be unknown, taken at the next try."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as shop, pool.acquire() as connection:
        header = buyer.header()
        held_up = connection.transaction()
        await held_up.start()
        await connection.execute("LOCK TABLE authorizations IN EXCLUSIVE MODE")
        waiting = asyncio.create_task(shop.mint(header))

        async def is_ended() -> bool:
            return bool(
                await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted AND"
                    " relation = 'authorizations'::regclass"
                )
            )

        await until(is_ended)
        answer = await waiting
        await held_up.rollback()
        assert is_problem(answer, 503, "outcome_unknown")
        assert await shop.count() == 0
        assert (await shop.mint(header)).status_code == 202
        assert await shop.count() == 1


async def test_a_commit_that_stays_unknown_is_known_elsewhere(
    database_url: str, pool: Pool, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is there, this process cannot see it: 503, never "nothing was taken"; another process says 202."""
    monkeypatch.setattr(accept, "REREAD_S", 0.2)
    await open_shop(pool)
    async with (
        wire_to(database_url) as wire,
        running(configure(wire.url), pool) as shop,
        running(configure(database_url), pool) as other,
    ):
        nonce = buyer.authorize().nonce
        header = buyer.header(nonce=nonce)
        wire.lose_answers(after=nonce)
        waiting = asyncio.create_task(shop.mint(header))
        await until_stored(pool)
        await wire.cut()
        answer = await waiting
        assert is_problem(answer, 503, "outcome_unknown")
        assert "othing was taken" not in answer.json()["detail"]
        first = await other.mint(header)
        assert first.status_code == 202
        await wire.mend()

        async def is_known() -> bool:
            return (await shop.mint(header)).content == first.content

        await until(is_known)
        assert await other.count() == 1


async def test_a_hundred_across_two_processes_and_a_cut(
    database_url: str, pool: Pool, buyer: Buyer, tmp_path: Path
) -> None:
    """Real servers, one header, fifty requests to each, the commit of one cut: one row and a hundred equal answers."""
    await open_shop(pool)
    folders = [tmp_path / "cut", tmp_path / "whole"]
    for folder in folders:
        folder.mkdir()
    public = {"PAYFIRST_SERVER__PUBLIC_URL": PUBLIC_URL}
    limits = httpx.Limits(max_connections=None)
    async with (
        wire_to(database_url) as wire,
        serving(wire.url, folders[0], **public) as cut,
        serving(database_url, folders[1], **public) as whole,
        httpx.AsyncClient(limits=limits, timeout=30) as client,
    ):
        nonce = buyer.authorize().nonce
        header = buyer.header(nonce=nonce)

        async def pay(url: str, **body: object) -> httpx.Response:
            document: Document = {"quantity": 1, **body}
            return await client.post(url + MINT_PATH, headers=header, json=document)

        wire.lose_answers(after=nonce)
        first = [asyncio.create_task(pay(cut.url)) for _ in range(50)]
        await until_stored(pool)
        second = [asyncio.create_task(pay(whole.url)) for _ in range(50)]
        conflicting = await pay(whole.url, recipient="0x" + "ab" * 20)
        await wire.cut()
        await wire.mend()
        answers = await asyncio.gather(*first, *second)
        assert "request_failed" not in cut.output + whole.output
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert (conflicting.status_code, conflicting.json()["code"]) == (409, "authorization_reused")
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") == 1
    assert await pool.fetchval("SELECT count(*) FROM authorizations") == 1


async def until_storing(shop: Shop) -> None:
    """A payment of this process is being stored."""

    async def is_storing() -> bool:
        return bool(shop.app._mint._storing)  # type: ignore[attr-defined]  # seen from outside it is only silence

    await until(is_storing)
