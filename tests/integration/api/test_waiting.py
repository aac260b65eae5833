"""Prefer: wait, and what tells those who wait: settled, failed, too late, too many, and nothing lost with a NOTIFY."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from x402.http.utils import decode_payment_response_header

from payfirst.api import waiting
from payfirst.store import wake
from payfirst.store.database import Pool
from payfirst.units import checksum_address, hex_text

from . import shop_sql
from .shop import NETWORK, Buyer, Shop, configure, open_shop, running, until
from .stream import open_stream

USUAL_LOOK_EVERY_S = waiting.LOOK_EVERY_S
SETTLEMENT_HEADERS = {1: "x-payment-response", 2: "payment-response"}


async def only_payment(pool: Pool) -> str:
    """The id of the one payment there is, once there is one."""

    async def is_there() -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM payment_queue"))

    await until(is_there)
    return str(await pool.fetchval("SELECT id FROM payment_queue"))


async def say_changed(pool: Pool, *ids: str) -> None:
    """What a worker says after its commit."""
    await pool.execute(wake.SEND_CHANGED, wake.STATUS, wake._payloads([uuid.UUID(one) for one in ids]))


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker says what changed here, and most tests are not about how long a look takes."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)


@pytest.fixture
def usual_looks(monkeypatch: pytest.MonkeyPatch, quick_looks: None) -> None:
    """As often as in service."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", USUAL_LOOK_EVERY_S)


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch, quick_looks: None) -> None:
    """Nobody looks by himself: only what is said is heard."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 3_600.0)


@contextmanager
def taking_less_than(seconds: float) -> Iterator[None]:
    """What waited for its time to be over would take longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.mark.parametrize("version", [1, 2])
async def test_a_held_request_is_answered_when_it_is_settled(shop: Shop, buyer: Buyer, version: int) -> None:
    """200, the status document, and the settlement that the official client reads."""
    header = buyer.header(2, version=version)
    with taking_less_than(10):
        request = asyncio.create_task(shop.mint({**header, "Prefer": "wait=20"}, quantity=2))
        payment_id = await only_payment(shop.pool)
        queue_ids = await shop_sql.complete(shop.pool, payment_id, quantity=2)
        answer = await request
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    assert answer.json()["result"] == {"queueIds": queue_ids, "quantity": 2}
    assert answer.content == (await shop.client.get(f"/api/payment/{payment_id}")).content
    settled = decode_payment_response_header(answer.headers[SETTLEMENT_HEADERS[version]])
    assert (settled.success, settled.transaction) == (True, hex_text(shop_sql.PAYMENT_TX))
    assert settled.payer == checksum_address(buyer.address)
    assert settled.network == (NETWORK.name if version == 1 else NETWORK.caip2)
    assert SETTLEMENT_HEADERS[3 - version] not in answer.headers


async def test_a_payment_that_fails_is_no_402(shop: Shop, buyer: Buyer) -> None:
    """A client that saw 402 would sign another one: 200, and a settlement that says why there was none."""
    request = asyncio.create_task(shop.mint({**buyer.header(version=2), "Prefer": "wait=20"}))
    payment_id = await only_payment(shop.pool)
    await shop_sql.fail(shop.pool, payment_id, error="Too little money.", code="insufficient_funds")
    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    settled = decode_payment_response_header(answer.headers["payment-response"])
    assert (settled.success, settled.error_reason, settled.transaction) == (False, "insufficient_funds", "")


async def test_when_the_time_is_over_it_is_the_202(shop: Shop, buyer: Buyer) -> None:
    """Byte for byte the answer to a request that would not wait."""
    header = buyer.header()
    held = await shop.mint({**header, "Prefer": "wait=1"})
    plain = await shop.mint(header)
    assert (held.status_code, held.content) == (202, plain.content)
    assert (held.headers["location"], held.headers["preference-applied"]) == (plain.headers["location"], "wait=1")
    assert "preference-applied" not in plain.headers


async def test_who_would_not_wait_is_answered_at_once(shop: Shop) -> None:
    """Also who cannot say it."""
    for prefer in ("wait=0", "wait=soon", "respond-async"):
        with taking_less_than(5):
            answer = await shop.mint({**Buyer().header(), "Prefer": prefer})
        assert (answer.status_code, answer.headers.get("preference-applied")) == (202, None)


async def test_nobody_waits_longer_than_the_server_allows(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The answer says how long it was."""
    await open_shop(pool)
    async with running(configure(database_url, server__wait_s_max="1"), pool) as shop:
        with taking_less_than(5):
            answer = await shop.mint({**buyer.header(), "Prefer": "wait=600"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")


async def test_where_too_many_wait_it_is_the_202_at_once(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """A preference is no right: the payment is accepted all the same; a stream is asked to come later."""
    await open_shop(pool)
    async with running(configure(database_url, server__waiters_max="0"), pool) as shop:
        answer = await shop.mint({**buyer.header(), "Prefer": "wait=20"})
        assert (answer.status_code, answer.headers.get("preference-applied")) == (202, None)
        path = f"/api/payment/{answer.json()['paymentQueueId']}"
        with taking_less_than(5):
            assert (await shop.client.get(path, headers={"Prefer": "wait=20"})).status_code == 200
        refused = await shop.client.get(f"{path}/events")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_now")
        assert int(refused.headers["retry-after"]) >= 1


async def test_a_replay_waits_too(shop: Shop, buyer: Buyer) -> None:
    """A client that lost its connection goes on waiting with the same header."""
    header = buyer.header()
    payment_id = (await shop.mint(header)).json()["paymentQueueId"]
    request = asyncio.create_task(shop.mint({**header, "Prefer": "wait=20"}))
    await shop_sql.complete(shop.pool, payment_id, quantity=1)
    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await shop.count() == 1


async def test_a_replay_of_what_has_ended_does_not_wait(shop: Shop, buyer: Buyer) -> None:
    """With or without the preference it is the same answer, settlement included."""
    header = buyer.header(version=2)
    payment_id = (await shop.mint(header)).json()["paymentQueueId"]
    await shop_sql.complete(shop.pool, payment_id, quantity=1)
    with taking_less_than(5):
        answers = [await shop.mint(header), await shop.mint({**header, "Prefer": "wait=20"})]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["payment-response"] == answers[1].headers["payment-response"]


async def test_an_offer_is_not_held(shop: Shop) -> None:
    """There is nothing to wait for before a payment."""
    with taking_less_than(5):
        assert (await shop.mint({"Prefer": "wait=20"})).status_code == 402


async def test_a_stop_answers_who_waits(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """At once, with the 202: its time was not over, so the preference was not applied."""
    await open_shop(pool)
    with taking_less_than(8):
        async with running(configure(database_url), pool) as shop:
            request = asyncio.create_task(shop.mint({**buyer.header(), "Prefer": "wait=25"}))
            await only_payment(pool)
    answer = await request
    assert (answer.status_code, answer.headers.get("preference-applied")) == (202, None)


# ---- the status document ---------------------------------------------------------------------------


async def test_a_document_that_is_known_is_not_sent_again(shop: Shop, buyer: Buyer) -> None:
    """304 with the same ETag, until it changes; another process gives the same ETag."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    path = f"/api/payment/{payment_id}"
    tag = (await shop.client.get(path)).headers["etag"]
    known = await shop.client.get(path, headers={"If-None-Match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert (await shop.client.head(path)).headers["etag"] == tag
    await shop_sql.complete(shop.pool, payment_id, quantity=1)
    changed = await shop.client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["status"]) == (200, "completed")
    assert changed.headers["etag"] != tag


async def test_a_unit_has_an_etag_too(shop: Shop, buyer: Buyer) -> None:
    """`/api/queue/{id}`."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    (queue_id,) = await shop_sql.complete(shop.pool, payment_id, quantity=1)
    tag = (await shop.client.get(f"/api/queue/{queue_id}")).headers["etag"]
    again = await shop.client.get(f"/api/queue/{queue_id}", headers={"If-None-Match": tag})
    assert (again.status_code, again.headers["etag"]) == (304, tag)


async def test_a_poll_waits_for_the_next_state(shop: Shop, buyer: Buyer) -> None:
    """With the ETag of what the client has, it is answered by the first change."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    path = f"/api/payment/{payment_id}"
    tag = (await shop.client.get(path)).headers["etag"]
    poll = {"Prefer": "wait=20", "If-None-Match": tag}
    request = asyncio.create_task(shop.client.get(path, headers=poll))
    await shop_sql.send(shop.pool, payment_id)
    answer = await request
    assert (answer.status_code, answer.json()["status"]) == (200, "sent")
    assert answer.headers["preference-applied"] == "wait=20"
    with taking_less_than(5):  # it is not as the client has it: nothing to wait for
        assert (await shop.client.get(path, headers=poll)).status_code == 200


async def test_a_poll_without_news_is_a_304(shop: Shop, buyer: Buyer) -> None:
    """When the time is over."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    path = f"/api/payment/{payment_id}"
    tag = (await shop.client.get(path)).headers["etag"]
    answer = await shop.client.get(path, headers={"Prefer": "wait=1", "If-None-Match": tag})
    assert (answer.status_code, answer.headers["preference-applied"]) == (304, "wait=1")


async def test_nobody_waits_for_what_has_ended(shop: Shop, buyer: Buyer) -> None:
    """Also a client that has the last state already is told so at once."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
    with taking_less_than(5):
        answer = await shop.client.get(
            f"/api/payment/{payment_id}", headers={"Prefer": "wait=20", "If-None-Match": "*"}
        )
    assert answer.status_code == 304


async def test_a_poll_without_an_etag_waits_for_the_end(shop: Shop, buyer: Buyer) -> None:
    """Past `sent`, to the last state."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    request = asyncio.create_task(shop.client.get(f"/api/payment/{payment_id}", headers={"Prefer": "wait=20"}))
    await shop_sql.send(shop.pool, payment_id)
    await say_changed(shop.pool, payment_id)
    await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
    assert (await request).json()["status"] == "failed"


async def test_nobody_waits_for_a_payment_that_is_not_there(shop: Shop) -> None:
    """404 at once."""
    with taking_less_than(5):
        path = f"/api/payment/{uuid.uuid4()}"
        assert (await shop.client.get(path, headers={"Prefer": "wait=20"})).status_code == 404


# ---- what tells them -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_look")
async def test_what_a_worker_says_is_heard(shop: Shop, buyer: Buyer) -> None:
    """Nobody looks: the NOTIFY alone wakes."""
    payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
    async with open_stream(shop.app, f"/api/payment/{payment_id}/events") as stream:
        assert await stream.event()  # its first read is over: only a word can wake it now
        await shop_sql.send(shop.pool, payment_id)
        await shop.pool.execute("SELECT pg_notify($1, 'not base64')", wake.STATUS)
        await say_changed(shop.pool, *(str(uuid.uuid4()) for _ in range(1_000)), payment_id)
        event = await stream.event()
    assert event is not None
    assert event.name == "sent"


@pytest.mark.usefixtures("usual_looks")
@pytest.mark.parametrize("is_cut", [False, True])
async def test_what_nobody_says_is_seen(shop: Shop, buyer: Buyer, is_cut: bool) -> None:
    """A NOTIFY that is lost, or a listener that is cut off, costs about a second."""
    request = asyncio.create_task(shop.mint({**buyer.header(), "Prefer": "wait=20"}))
    payment_id = await only_payment(shop.pool)
    if is_cut:
        await shop.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'payfirst listener' AND datname = current_database()"
        )
    await shop_sql.complete(shop.pool, payment_id, quantity=1)
    with taking_less_than(3):
        assert (await request).status_code == 200


@pytest.mark.usefixtures("no_look")
async def test_a_listener_that_comes_back_looks_at_once(shop: Shop, buyer: Buyer) -> None:
    """What was said while it was away was not heard."""
    request = asyncio.create_task(shop.mint({**buyer.header(), "Prefer": "wait=20"}))
    payment_id = await only_payment(shop.pool)
    await shop.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'payfirst listener' AND datname = current_database()"
    )
    await shop_sql.complete(shop.pool, payment_id, quantity=1)
    with taking_less_than(10):
        assert (await request).status_code == 200


async def test_waiters_cost_no_connections(shop: Shop) -> None:
    """Two hundred wait on one listener and the pool's few connections; all are told."""
    requests = [asyncio.create_task(shop.mint({**Buyer().header(), "Prefer": "wait=20"})) for _ in range(200)]

    async def all_there() -> bool:
        return await shop.count() == 200

    await until(all_there)
    used = await shop.pool.fetch(
        "SELECT application_name, count(*) FROM pg_stat_activity"
        " WHERE application_name IN ('payfirst api', 'payfirst listener') AND datname = current_database()"
        " GROUP BY application_name"
    )
    counts = {row["application_name"]: row["count"] for row in used}
    assert counts["payfirst listener"] == 1
    assert counts["payfirst api"] <= 8
    ids = [str(row["id"]) for row in await shop.pool.fetch("SELECT id FROM payment_queue")]
    for payment_id in ids:
        await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
    await say_changed(shop.pool, *ids)
    answers: list[httpx.Response] = await asyncio.gather(*requests)
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "failed")}


async def test_who_hangs_up_makes_room(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """At once, not when the time is over."""
    await open_shop(pool)
    async with running(configure(database_url, server__waiters_max="1"), pool) as shop:
        payment_id = (await shop.mint(buyer.header())).json()["paymentQueueId"]
        path = f"/api/payment/{payment_id}/events"
        async with open_stream(shop.app, path) as stream:
            assert stream.status == 200
            assert (await shop.client.get(path)).status_code == 503
        async with open_stream(shop.app, path) as stream:
            assert stream.status == 200
