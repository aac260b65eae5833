"""`/openapi.json` and `/docs`: made once, revalidated by ETag."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payfirst.api import docs_page, openapi
from payfirst.api.conditions import is_known
from payfirst.api.documents import tag_of
from payfirst.x402.requirements import PaymentRequirements

OPENAPI_PATH = "/openapi.json"
DOCS_PATH = "/docs"
MAX_AGE_S = 300

# Pages, and what each of them may do.
POLICIES = {DOCS_PATH: docs_page.POLICY}


def routes(requirements: PaymentRequirements, *, base_url: str) -> list[Route]:
    """Both; `requirements` are those of an example's purchase."""
    document = openapi.document(requirements, base_url=base_url)
    return [
        Route(OPENAPI_PATH, _kept(openapi.encode(document), "application/json")),
        Route(DOCS_PATH, _kept(docs_page.render(document).encode(), "text/html; charset=utf-8")),
    ]


def _kept(body: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """A handler for content that stays the same while the process lives."""
    tag = tag_of(body)
    headers = {"etag": f'"{tag}"', "cache-control": f"public, max-age={MAX_AGE_S}"}

    async def show(request: Request) -> Response:
        if is_known(tag, request.headers.get("if-none-match")):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    return show
