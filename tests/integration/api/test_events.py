"""The event stream of a payment: its state, its changes, its end, and going on in another process."""

from __future__ import annotations

import contextlib
import uuid

import pytest

from payfirst.api import events, waiting
from payfirst.store.database import Pool

from . import shop_sql
from .shop import Buyer, Shop, configure, running
from .stream import open_stream


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker says what changed here."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)


async def accepted(shop: Shop, buyer: Buyer, quantity: int = 1) -> tuple[str, str]:
    """A new payment's id, and the path of its events."""
    payment_id = (await shop.mint(buyer.header(quantity), quantity=quantity)).json()["paymentQueueId"]
    return payment_id, f"/api/payment/{payment_id}/events"


async def mint_all(pool: Pool) -> None:
    """Every unit is minted."""
    await pool.execute(
        "UPDATE mint_queue SET status = 'completed', mint_tx_hash = coalesce(mint_tx_hash, payment_tx_hash)"
    )


async def test_a_stream_from_acceptance_to_the_last_unit(shop: Shop, buyer: Buyer) -> None:
    """Each event carries the whole document, as the status route gives it; then the stream ends."""
    payment_id, path = await accepted(shop, buyer, 2)
    async with open_stream(shop.app, path) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-store", "no")
        heard = [await stream.event()]
        await shop_sql.send(shop.pool, payment_id)
        heard.append(await stream.event())
        await shop_sql.complete(shop.pool, payment_id, quantity=2)  # and the first unit minted
        heard.append(await stream.event())
        await mint_all(shop.pool)
        heard += [await stream.event(), await stream.event()]
        assert await stream.event() is None
    told = [event for event in heard if event is not None]
    assert [event.name for event in told] == ["pending", "sent", "completed", "mint", "end"]
    status = await shop.client.get(f"/api/payment/{payment_id}")
    assert told[-1].document == told[-2].document == status.json()
    assert f'"{told[-1].id}"' == status.headers["etag"]


async def test_a_head_of_a_stream_ends(shop: Shop, buyer: Buyer) -> None:
    """Its headers, and nothing to wait for."""
    _, path = await accepted(shop, buyer)
    answer = await shop.client.head(path)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "text/event-stream", b"")


async def test_a_stream_of_what_has_ended(shop: Shop, buyer: Buyer) -> None:
    """It says how, and ends."""
    payment_id, path = await accepted(shop, buyer)
    await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
    async with open_stream(shop.app, path) as stream:
        first, second, third = [await stream.event() for _ in range(3)]
    assert first is not None
    assert second is not None
    assert (first.name, second.name, third) == ("failed", "end", None)


async def test_another_process_goes_on_where_one_stopped(shop: Shop, buyer: Buyer, database_url: str) -> None:
    """What the client has is not sent again; what happened since is."""
    payment_id, path = await accepted(shop, buyer)
    async with open_stream(shop.app, path) as stream:
        first = await stream.event()
        assert first is not None
    async with running(configure(database_url), shop.pool) as other:
        async with open_stream(other.app, path, {"Last-Event-ID": first.id}) as stream:
            await shop_sql.send(shop.pool, payment_id)
            second = await stream.event()
        assert second is not None
        assert (first.name, second.name) == ("pending", "sent")
        await shop_sql.complete(shop.pool, payment_id, quantity=1)
        async with open_stream(other.app, path, {"Last-Event-ID": second.id}) as stream:
            names = [event.name for event in [await stream.event(), await stream.event()] if event is not None]
    assert names == ["completed", "end"]


async def test_who_has_the_last_event_need_not_come_again(shop: Shop, buyer: Buyer) -> None:
    """204 is what ends an EventSource that reconnects by itself."""
    payment_id, path = await accepted(shop, buyer)
    await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
    tag = (await shop.client.get(f"/api/payment/{payment_id}")).headers["etag"]
    assert (await shop.client.get(path, headers={"Last-Event-ID": tag.strip('"')})).status_code == 204


async def test_a_payment_that_is_not_there(shop: Shop) -> None:
    """A problem, not a stream."""
    answer = await shop.client.get(f"/api/payment/{uuid.uuid4()}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert (await shop.client.get("/api/payment/1/events")).status_code == 400
    assert (await shop.client.head(f"/api/payment/{uuid.uuid4()}/events")).status_code == 404
    answer = await shop.client.post(f"/api/payment/{uuid.uuid4()}/events")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_silence_is_filled(shop: Shop, buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies cut a connection on which nothing moves: a comment moves."""
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.05)
    _, path = await accepted(shop, buyer)
    async with open_stream(shop.app, path) as stream:
        first = (await stream.from_app.get())["body"]
        assert first.startswith(b"retry: 2000\n\nid: ")
        assert (await stream.from_app.get())["body"] == b":\n\n"


async def test_no_stream_is_for_ever(shop: Shop, buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends without an `end`: the client comes again with its last id."""
    monkeypatch.setattr(events, "STREAM_S_MAX", 0.2)
    _, path = await accepted(shop, buyer)
    async with open_stream(shop.app, path) as stream:
        first = await stream.event()
        assert first is not None
        assert (first.name, await stream.event()) == ("pending", None)


async def test_all_who_watch_one_payment_are_told(shop: Shop, buyer: Buyer) -> None:
    """It is read once for all of them."""
    payment_id, path = await accepted(shop, buyer)

    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(open_stream(shop.app, path)) for _ in range(5)]
        await shop_sql.fail(shop.pool, payment_id, error="No.", code="no")
        for stream in streams:
            heard = [await stream.event() for _ in range(3)]
            assert [event.name for event in heard if event is not None] == ["pending", "failed", "end"]
