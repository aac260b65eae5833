"""`payfirst settings` and `payfirst drain`, as an operator types them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import asyncpg
import pytest
from api.shop import Buyer, Shop, configure, open_shop, running
from api.shop_sql import complete, send

from .command import invoke
from .rows import payment

Payfirst = Callable[..., CompletedProcess[str]]


@pytest.fixture
def payfirst(tmp_path: Path, database_url: str) -> Payfirst:
    """The command in an empty folder, with a database."""

    def call(*words: str, **more: str) -> CompletedProcess[str]:
        return invoke(*words, cwd=tmp_path, **{"DATABASE_URL": database_url} | more)

    return call


@pytest.fixture
async def shop(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Shop]:
    """An API process over a database that looks as if workers lived."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as opened:
        yield opened


def listed(payfirst: Payfirst, **more: str) -> dict[str, dict[str, Any]]:
    """`payfirst settings list --json`, by setting."""
    done = payfirst("settings", "list", "--json", **more)
    assert done.returncode == 0, done.stderr
    return {row["setting"]: row for row in json.loads(done.stdout.splitlines()[-1])}


async def test_a_setting_is_set_shown_audited_and_unset(payfirst: Payfirst, pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Its source is the default, the file, the environment or the database; who set it stands in the audit log."""
    (tmp_path / "payfirst.toml").write_text("[settle]\nlinger_ms = 20\n", encoding="utf-8")
    before = listed(payfirst, PAYFIRST_MINT__BATCH_MAX="9")
    assert (before["settle.batch_max"]["value"], before["settle.batch_max"]["source"]) == ("200", "default")
    assert before["settle.linger_ms"]["source"] == "payfirst.toml:settle.linger_ms"
    assert before["mint.batch_max"]["source"] == "environment: PAYFIRST_MINT__BATCH_MAX"
    assert payfirst("settings", "set", "settle.batch_max", "50").returncode == 0
    assert payfirst("settings", "set", "network.max_fee_gwei", "2.5", "--actor", "ada@ops").returncode == 0
    after = listed(payfirst)
    assert after["settle.batch_max"]["value"] == "50"
    assert after["settle.batch_max"]["source"].startswith("database: ")
    assert after["network.max_fee_gwei"]["value"] == "2.5"
    assert payfirst("settings", "unset", "settle.batch_max").returncode == 0
    assert "was not set" in payfirst("settings", "unset", "settle.batch_max").stdout
    assert listed(payfirst)["settle.batch_max"]["value"] == "200"
    log = await pool.fetch("SELECT actor, action, subject, details FROM audit_log ORDER BY id")
    assert [(r["action"], r["subject"], json.loads(r["details"])) for r in log] == [
        ("settings.set", "settle.batch_max", {"before": None, "after": 50}),
        ("settings.set", "network.max_fee_gwei", {"before": None, "after": "2.5"}),
        ("settings.unset", "settle.batch_max", {"before": 50, "after": None}),
    ]
    assert [row["actor"] == "ada@ops" for row in log] == [False, True, False]
    assert all("@" in row["actor"] for row in log)
    assert "Payments in one transaction" in payfirst("settings", "list", COLUMNS="200").stdout


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("settle.batch_max", "0", "expected a whole number from 1 to 250"),
        ("settle.batch_max", "many", "expected a whole number from 1 to 250"),
        ("pause.minting", "yes", "expected true or false"),
        ("network.priority_fee_gwei", "51", "at most network.max_fee_gwei (50.0)"),
        ("server.port", "4022", "taken up by a restart only"),
        ("settle.bach_max", "5", "did you mean settle.batch_max?"),
    ],
)
async def test_what_the_file_may_not_say_cannot_be_set(
    payfirst: Payfirst, pool: asyncpg.Pool, setting: str, value: str, said: str
) -> None:
    """One sentence, exit code 2, and nothing is stored."""
    refused = payfirst("settings", "set", setting, value)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert await pool.fetchval("SELECT count(*) FROM settings") == 0
    assert await pool.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_a_value_is_judged_beside_those_that_are_set(payfirst: Payfirst) -> None:
    """The tip may not be above a maximum that was set before it."""
    assert payfirst("settings", "set", "network.max_fee_gwei", "60").returncode == 0
    assert payfirst("settings", "set", "network.priority_fee_gwei", "55").returncode == 0
    refused = payfirst("settings", "set", "network.max_fee_gwei", "50")
    assert (refused.returncode, "network.priority_fee_gwei" in refused.stderr) == (2, True)


async def test_the_list_says_which_processes_have_taken_a_setting_up(payfirst: Payfirst, shop: Shop) -> None:
    """The API has within seconds; the worker of this test, which is only a row, never does."""
    await asyncio.to_thread(payfirst, "settings", "set", "payments.queue_depth_max", "7")

    async def row() -> dict[str, Any]:
        return (await asyncio.to_thread(listed, payfirst))["payments.queue_depth_max"]

    async with asyncio.timeout(20):
        while (found := await row())["takenUpBy"] != "1 of 2":
            assert found["takenUpBy"] == "0 of 2"
    (late,) = found["notYet"]
    assert late.startswith("worker ")


async def test_drain_stops_every_api_and_reports_what_is_left(payfirst: Payfirst, shop: Shop, buyer: Buyer) -> None:
    """Returns once the API has stopped accepting; `--off` opens it again. Both are audited."""
    header = buyer.header()
    accepted = (await shop.mint(header)).json()["paymentQueueId"]
    done = await asyncio.to_thread(payfirst, "drain", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])  # the API logs to the same place
    assert (document["accepting"], document["done"], document["notTakenUpBy"]) == (False, False, [])
    assert document["left"]["pending"] == 1
    assert (await shop.mint(buyer.header())).status_code == 503
    assert (await shop.mint(header)).json()["paymentQueueId"] == accepted
    opened = await asyncio.to_thread(payfirst, "drain", "--off")
    assert opened.returncode == 0, opened.stderr
    assert (await shop.mint(buyer.header())).status_code == 202
    actions = [row["action"] for row in await shop.pool.fetch("SELECT action FROM audit_log ORDER BY id")]
    assert actions == ["drain", "undrain"]


async def test_drain_waits_until_nothing_is_left(payfirst: Payfirst, shop: Shop, buyer: Buyer) -> None:
    """With `--wait` it returns when the last unit is minted; what is held does not keep it."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    await payment(shop.pool, "pending", held="by hand")
    waiting = asyncio.create_task(asyncio.to_thread(payfirst, "drain", "--wait"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while (await shop.mint(buyer.header())).status_code != 503:
                await shop.pool.execute("DELETE FROM payment_queue WHERE id <> $1 AND held_reason IS NULL", payment_id)
    assert not waiting.done()
    await send(shop.pool, payment_id)
    await complete(shop.pool, payment_id, quantity=1)
    await shop.pool.execute("DELETE FROM payment_queue WHERE status = 'pending' AND held_reason IS NULL")
    done = await waiting
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✅ Nothing is left" in done.stdout
    assert "1 rows are held" in done.stdout


async def test_drain_gives_up_after_its_timeout(payfirst: Payfirst, pool: asyncpg.Pool) -> None:
    """Exit code 1, and what is left is named; the shop stays closed."""
    await payment(pool, "sent")
    done = payfirst("drain", "--wait", "--timeout", "1")
    assert done.returncode == 1
    assert "0 payments to send, 1 sent" in done.stdout
    assert await pool.fetchval("SELECT value::text FROM settings WHERE key = 'pause.accepting'") == "true"


async def test_drain_says_which_process_goes_on(payfirst: Payfirst, pool: asyncpg.Pool) -> None:
    """An API process that lives and has not taken it up, as one of the release before, is exit code 1."""
    await pool.execute(
        "INSERT INTO processes (id, role, network, host, pid, heartbeat_at)"
        " VALUES (gen_random_uuid(), 'api', 'eip155:84532', 'old', 7, now() + interval '1 minute')"
    )
    done = payfirst("drain")
    assert done.returncode == 1
    assert "api 7 on old has not taken it up" in done.stdout


def test_off_goes_before_a_file_that_pauses(payfirst: Payfirst, tmp_path: Path) -> None:
    """Accepting again means accepting again."""
    (tmp_path / "payfirst.toml").write_text("[pause]\naccepting = true\n", encoding="utf-8")
    assert payfirst("drain", "--off").returncode == 0
    assert listed(payfirst)["pause.accepting"]["value"] == "false"


@pytest.fixture
def buyer() -> Buyer:
    """Somebody who can sign."""
    return Buyer()
