"""503: nothing to settle with, or no database; and back again."""

from __future__ import annotations

import asyncio
import io
import json

import asyncpg
import httpx
import pytest

from payfirst.store.database import Pool

from .shop import TOKEN, Buyer, Shop, configure, open_shop, running, until
from .wire import wire_to

STALE_WORKER = "UPDATE processes SET heartbeat_at = now() - interval '31 seconds' WHERE role = 'worker'"
STALE_HEAD = "UPDATE chain_heads SET head_seen_at = now() - interval '31 seconds'"
NEVER_SYNCED = "UPDATE tokens SET max_mint_count = NULL"
PAUSED = "UPDATE tokens SET status = 'paused'"
HELD = "UPDATE tokens SET held_reason = 'the contract is paused'"
NO_WORKER = "DELETE FROM processes WHERE role = 'worker'"
NO_HEAD = "DELETE FROM chain_heads"


@pytest.mark.parametrize("fault", [STALE_WORKER, STALE_HEAD, NEVER_SYNCED, PAUSED, HELD, NO_WORKER, NO_HEAD])
async def test_only_what_can_be_settled_is_accepted(database_url: str, pool: Pool, buyer: Buyer, fault: str) -> None:
    """503 with `Retry-After`, for an offer as for a payment, and nothing is stored."""
    await open_shop(pool)
    await pool.execute(fault)
    async with running(configure(database_url), pool) as shop:
        for headers in (None, buyer.header()):
            answer = await shop.mint(headers)
            assert answer.status_code == 503
            assert answer.json()["code"] == "not_now"
            assert int(answer.headers["retry-after"]) >= 1
        assert await shop.count() == 0


async def test_a_heartbeat_that_comes_back_opens_the_shop(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The next look finds the workers alive, and the same header is taken."""
    await open_shop(pool)
    await pool.execute(STALE_WORKER)
    async with running(configure(database_url), pool) as shop:
        header = buyer.header()
        assert (await shop.mint(header)).status_code == 503
        await pool.execute("UPDATE processes SET heartbeat_at = now() WHERE role = 'worker'")

        async def is_taken() -> bool:
            return (await shop.mint(header)).status_code == 202

        await until(is_taken)


async def test_a_process_without_a_database_lives_and_says_so(pool: Pool, database_url: str, buyer: Buyer) -> None:
    """It starts, is alive, is not ready, answers 503 everywhere, and serves once the database is there."""
    await open_shop(pool)
    async with wire_to(database_url) as wire:
        await wire.cut()
        async with running(configure(wire.url), pool) as shop:
            assert (await shop.client.get("/health")).status_code == 200
            for path in (
                "/ready",
                "/api/tokens",
                "/api/payment/stats",
                f"/api/payment/{'0' * 8}-0000-0000-0000-{'0' * 12}",
            ):
                answer = await shop.client.get(path)
                assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
                assert answer.headers["retry-after"]
            header = buyer.header()
            for headers in (None, header):
                assert (await shop.mint(headers)).status_code == 503
            await wire.mend()
            await until_ready(shop)
            assert (await shop.mint(header)).status_code == 202


async def test_a_database_that_goes_away_comes_back(pool: Pool, database_url: str, buyer: Buyer) -> None:
    """Meanwhile a payment is answered 503 and told to come again with the same header; then it is taken once."""
    await open_shop(pool)
    async with wire_to(database_url) as wire, running(configure(wire.url), pool) as shop:
        known, unknown = buyer.header(), buyer.header()
        first = await shop.mint(known)
        assert first.status_code == 202
        await wire.cut()
        replayed, new = await asyncio.gather(shop.mint(known), shop.mint(unknown))
        for answer in (replayed, new):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "same header again" in answer.json()["detail"]
            assert "othing was taken" not in answer.json()["detail"]
        assert (await shop.client.get(first.json()["statusUrl"])).status_code == 503
        assert (await shop.client.get("/ready")).status_code == 503
        await wire.mend()
        await until_ready(shop)
        assert (await shop.mint(known)).content == first.content
        assert (await shop.mint(unknown)).status_code == 202
        assert await shop.count() == 2


async def test_an_expired_replay_without_a_database_is_no_402(pool: Pool, database_url: str, buyer: Buyer) -> None:
    """Whether it was accepted cannot be looked up, so it is neither refused nor confirmed."""
    await open_shop(pool)
    async with wire_to(database_url) as wire, running(configure(wire.url), pool) as shop:
        header = buyer.header()
        await shop.mint(header)
        await wire.cut()
        answer = await shop.mint(header, quantity=2)
        assert answer.status_code == 503
        # Whoever is not the payer has had nothing accepted.
        stranger = await shop.mint(Buyer().header(payer=buyer.address), quantity=2)
        assert stranger.status_code == 402


async def test_a_failed_task_is_logged_and_started_again(
    database_url: str, pool: Pool, buyer: Buyer, log_lines: io.StringIO
) -> None:
    """A table that is missing for a while stops neither the process nor, later, its work."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as shop:
        await pool.execute("ALTER TABLE tokens RENAME TO tokens_away")

        async def is_logged() -> bool:
            return any(json.loads(line)["event"] == "task_failed" for line in log_lines.getvalue().splitlines())

        await until(is_logged)
        await pool.execute("ALTER TABLE tokens_away RENAME TO tokens")
        await until_ready(shop)
        assert (await shop.mint(buyer.header())).status_code == 202


async def test_an_unexpected_failure_shows_no_internals(shop: Shop, buyer: Buyer, log_lines: io.StringIO) -> None:
    """500 as a problem document; the traceback is in the log, and the signature is not."""
    await shop.pool.execute("ALTER TABLE authorizations RENAME TO authorizations_away")
    header = buyer.header()
    answer = await shop.mint(header)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "authorizations" not in answer.text
    assert "same header again" in answer.json()["detail"]
    failed = next(
        line for line in map(json.loads, log_lines.getvalue().splitlines()) if line["event"] == "request_failed"
    )
    assert "Traceback" in failed["exception"]
    assert header["X-PAYMENT"] not in log_lines.getvalue()
    await shop.pool.execute("ALTER TABLE authorizations_away RENAME TO authorizations")
    assert (await shop.mint(header)).status_code == 202


async def test_an_unexpected_failure_of_a_read_shows_no_internals(shop: Shop, log_lines: io.StringIO) -> None:
    """The routes behind Starlette answer alike."""
    await shop.pool.execute("ALTER TABLE mint_queue RENAME TO mint_queue_away")
    answer = await shop.client.get("/api/queue/stats")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "mint_queue" not in answer.text
    assert "request_failed" in log_lines.getvalue()


async def test_ready_says_everything_that_is_missing(database_url: str, pool: Pool) -> None:
    """Not only the first reason, so that an operator needs one look."""
    await open_shop(pool)
    for fault in (STALE_WORKER, STALE_HEAD, PAUSED):
        await pool.execute(fault)
    async with running(configure(database_url), pool) as shop:
        answer = await shop.client.get("/ready")
        assert_not_ready(answer, "No worker has reported", "The chain has not been seen", "No active token")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (NO_WORKER, "No worker has reported yet."),
        (NO_HEAD, "No worker has reported yet."),
        (NEVER_SYNCED, "No active token"),
        (HELD, "This token cannot be minted"),
    ],
)
async def test_ready_names_the_reason(database_url: str, pool: Pool, fault: str, reason: str) -> None:
    """503, `Retry-After`, and why."""
    await open_shop(pool)
    await pool.execute(fault)
    async with running(configure(database_url), pool) as shop:
        assert_not_ready(await shop.client.get("/ready"), reason)


async def test_one_token_that_sells_is_enough_to_be_ready(database_url: str, pool: Pool) -> None:
    """A second token that is held does not close the shop."""
    await open_shop(pool)
    await pool.execute(
        "INSERT INTO tokens (network, address, price, held_reason) VALUES ('eip155:84532', $1, 1, 'held')",
        "0x" + "99" * 20,
    )
    async with running(configure(database_url), pool) as shop:
        await until_ready(shop)
        assert len((await shop.client.get("/api/tokens")).json()["tokens"]) == 2
        assert (await shop.mint(path=f"/api/mint/0x{TOKEN.hex()}")).status_code == 402


def assert_not_ready(answer: httpx.Response, *reasons: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"] == "5"
    assert len(answer.json()["reasons"]) == len(reasons)
    for said, expected in zip(answer.json()["reasons"], reasons, strict=True):
        assert said.startswith(expected)


async def until_ready(shop: Shop) -> None:
    async def is_ready() -> bool:
        return (await shop.client.get("/ready")).status_code == 200

    await until(is_ready)


async def test_a_database_that_lets_nobody_in_is_503(
    database_url: str, pool: Pool, buyer: Buyer, log_lines: io.StringIO
) -> None:
    """Not 500: whatever PostgreSQL says to a new connection, nothing was asked of it; the same header sells later."""
    await open_shop(pool)
    name = database_url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(database_url.replace(name, "postgres"))
    try:
        async with running(configure(database_url), pool) as shop:
            header = buyer.header()
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            assert (await shop.mint(header)).status_code == 503, log_lines.getvalue()
            assert (await shop.client.get("/api/payment/stats")).status_code == 503
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

            async def is_taken() -> bool:
                return (await shop.mint(header)).status_code == 202

            await until(is_taken)
    finally:
        await admin.close()
