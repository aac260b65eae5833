"""What is for sale: from the snapshot by which payments are admitted, so it costs no query."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payfirst.api.documents import TokenDocument, token_document
from payfirst.api.problems import TokenPathUnknown
from payfirst.api.respond import document
from payfirst.api.runtime import Runtime
from payfirst.store.tokens import Token
from payfirst.units import parse_address


class TokensDocument(msgspec.Struct):
    """All tokens, the one that was offered first first."""

    tokens: list[TokenDocument]


def routes(runtime: Runtime) -> list[Route]:
    """All tokens, and one by its address."""
    config = runtime.config
    asset, quantity_max = config.asset.address_bytes, config.payments.quantity_max

    def shown(token: Token) -> TokenDocument:
        waiting_units = runtime.service.admission.snapshot.queue.waiting_units.get(token.address, 0)
        return token_document(
            token, asset=asset, network=runtime.network, waiting_units=waiting_units, quantity_max=quantity_max
        )

    async def list_tokens(_request: Request) -> Response:
        return document(TokensDocument([shown(t) for t in runtime.service.admission.snapshot.tokens.values()]))

    async def show_token(request: Request) -> Response:
        try:
            address = parse_address(str(request.path_params["address"]))
        except ValueError as error:
            raise TokenPathUnknown(f"No such token: {error}. GET /api/tokens lists them.") from None
        return document(shown(runtime.service.admission.token(address)))

    return [Route("/api/tokens", list_tokens), Route("/api/tokens/{address}", show_token)]
