"""The OpenAPI document is true: of routes, of answers and of its own examples. And its page loads nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser

import jsonschema_rs
import openapi_spec_validator
import pytest
from starlette.routing import Route

from payfirst.api import openapi
from payfirst.store.database import Pool
from payfirst.x402.networks import network_from_text

from . import shop_sql
from .contract import DOCUMENT, STRICT, conforms, demand
from .shop import BASE_URL, MINT_PATH, USDC, Buyer, Document, Shop, configure, requirements, running


def test_it_is_openapi() -> None:
    """By the official meta-schema, with every reference resolved."""
    openapi_spec_validator.validate(DOCUMENT)


def test_every_route_is_in_it_and_nothing_else(shop: Shop) -> None:
    """Each path with its methods; HEAD and OPTIONS go without saying."""
    others = shop.app._others  # type: ignore[attr-defined]  # the routes are nobody else's business
    served = {"/api/mint/{token}": {"post"}}
    for route in others.routes:
        assert isinstance(route, Route)
        assert route.methods is not None
        served[route.path] = {method.lower() for method in route.methods} - {"head"}
    assert {path: set(methods) for path, methods in DOCUMENT["paths"].items()} == served


def test_a_chain_without_a_v1_name_is_paid_in_version_2() -> None:
    """The older header is not offered where it cannot name the network."""
    asset = dataclasses.replace(USDC, network=network_from_text("eip155:10"))
    document = openapi.document(dataclasses.replace(requirements(1), asset=asset), base_url=BASE_URL)
    openapi_spec_validator.validate(document)
    (operation,) = document["paths"]["/api/mint/{token}"].values()
    named = {parameter["name"] for parameter in operation["parameters"]}
    assert named == {"token", "PAYMENT-SIGNATURE", "Prefer"}
    assert "X-PAYMENT-RESPONSE" not in operation["responses"]["200"]["headers"]


def contents(document: Document) -> Iterator[tuple[str, Document]]:
    """Every body that a request or an answer may have, and where it stands."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = {**operation["responses"], "body": operation.get("requestBody", {})}
            for where, body in bodies.items():
                for media in body.get("content", {}).values():
                    yield f"{method} {path} {where}", media


def test_every_answer_has_an_example_that_is_one() -> None:
    """Each example is what its schema says, and no body goes without."""
    seen = 0
    for where, media in contents(DOCUMENT):
        shown = [example["value"] for example in media.get("examples", {}).values()]
        shown += [media["example"]] if "example" in media else []
        assert shown, where
        for example in shown:
            demand(media["schema"], example)
            seen += 1
    assert seen > 50


def test_every_parameter_has_an_example_that_is_one() -> None:
    """Headers too, with the payment inside their base64."""
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                demand(parameter["schema"], parameter["example"])
                if "contentSchema" in parameter["schema"]:
                    inside = json.loads(base64.b64decode(parameter["example"], validate=True))
                    demand(parameter["schema"]["contentSchema"], inside)


def test_a_member_that_nobody_documented_is_found() -> None:
    """The look at examples and answers can fail."""
    example = DOCUMENT["paths"]["/health"]["get"]["responses"]["200"]["content"]["application/json"]["examples"]["ok"]
    demand(STRICT["HealthDocument"], example["value"])
    with pytest.raises(jsonschema_rs.ValidationError):
        demand(STRICT["HealthDocument"], {**example["value"], "secret": 1})
    with pytest.raises(jsonschema_rs.ValidationError):
        demand(STRICT["HealthDocument"], {})


async def test_answers_are_as_documented(shop: Shop, buyer: Buyer) -> None:
    """A payment in each of its statuses, its units, the tokens, the stats: real answers against their schemas."""
    header, failing = buyer.header(2), buyer.header()
    accepted = await shop.mint(header, quantity=2)
    payment_id = accepted.json()["paymentQueueId"]
    answers = [await shop.mint(), accepted, await shop.client.get(f"/api/payment/{payment_id}")]
    await shop_sql.send(shop.pool, payment_id)
    answers.append(await shop.client.get(f"/api/payment/{payment_id}"))
    queue_ids = await shop_sql.complete(shop.pool, payment_id, quantity=2)
    answers.append(await shop.client.get(f"/api/payment/{payment_id}"))
    answers.append(await shop.mint(header, quantity=2))
    waited = await shop.mint({**header, "Prefer": "wait=1"}, quantity=2)
    answers.append(waited)
    tag = (await shop.client.get(f"/api/payment/{payment_id}")).headers["etag"]
    asked = ({"If-None-Match": tag}, {"If-None-Match": tag, "Prefer": "wait=1"}, {"Prefer": "wait=1"})
    answers += [await shop.client.get(f"/api/payment/{payment_id}", headers=headers) for headers in asked]
    failed_id = (await shop.mint(failing)).json()["paymentQueueId"]
    await shop_sql.fail(shop.pool, failed_id, error="No balance.", code="insufficient_funds")
    answers.append(await shop.mint(failing))
    stream = await shop.client.get(f"/api/payment/{failed_id}/events")
    answers.append(stream)
    (last_id,) = set(re.findall("^id: (.*)$", stream.text, re.MULTILINE))
    answers.append(await shop.client.get(f"/api/payment/{failed_id}/events", headers={"Last-Event-ID": last_id}))
    paths = ["/api/tokens", MINT_PATH.replace("mint", "tokens"), "/api/payment/stats", "/api/queue/stats", "/health"]
    paths += ["/ready", "/openapi.json", "/docs", *(f"/api/queue/{queue_id}" for queue_id in queue_ids)]
    answers += [await shop.client.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {200, 202, 204, 304, 402}
    for answer in answers:
        assert conforms(answer), answer


async def test_a_token_without_facts_is_as_documented(shop: Shop) -> None:
    """Null where the contract was never read, and a cap above 64 bits as a number."""
    await shop.pool.execute("UPDATE tokens SET name = NULL, symbol = NULL, mint_amount = NULL, max_mint_count = NULL")
    assert conforms(await shop.client.get("/api/tokens"))


async def test_the_served_document_is_this_one(database_url: str, pool: Pool) -> None:
    """With the public URL as its server, and links that begin with it."""
    public = "https://shop.example/pay"
    async with running(configure(database_url, server__public_url=public), pool) as shop:
        served = (await shop.client.get("/openapi.json")).json()
    assert served["servers"] == [{"url": public}]
    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    accepted = served["paths"]["/api/mint/{token}"]["post"]["responses"]["202"]["content"]["application/json"]
    assert accepted["examples"]["accepted"]["value"]["statusUrl"].startswith(f"{public}/api/payment/")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_the_reference_is_revalidated(shop: Shop, path: str) -> None:
    """A browser keeps it for minutes, then asks by ETag and is sent nothing while it is the same."""
    first = await shop.client.get(path)
    assert first.headers["cache-control"] == "public, max-age=300"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await shop.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert conforms(again)
    assert (await shop.client.get(path, headers={"If-None-Match": '"other"'})).content == first.content
    assert (await shop.client.head(path)).headers["etag"] == etag


class Page(HTMLParser):
    """What a browser would do with a page: load, link, apply."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.add(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_loads_nothing(shop: Shop) -> None:
    """No script, no image, no foreign style; the one style is the one that its policy names, and all links lead on."""
    answer = await shop.client.get("/docs")
    page = Page(answer.text)
    assert not page.open
    assert not page.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert not {name for name in page.attributes if name.startswith("on")} | page.attributes & {"src", "style"}
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "frame-ancestors 'none'" in policy
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json", "https://www.x402.org"}


async def test_the_page_names_everything(shop: Shop) -> None:
    """Each path, each schema, each refusal's code."""
    text = (await shop.client.get("/docs")).text
    for named in (*DOCUMENT["paths"], *DOCUMENT["components"]["schemas"]):
        assert named in text
    for code in STRICT["Problem"]["properties"]["code"]["enum"]:
        assert code in text


async def test_an_id_of_nobody_is_as_documented(shop: Shop) -> None:
    """A refusal of a read."""
    assert conforms(await shop.client.get(f"/api/payment/{uuid.uuid4()}"))
