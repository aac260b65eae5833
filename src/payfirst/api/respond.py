"""Starlette responses in the forms that every route but the mint route shares."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from payfirst.api.problems import Answer

_ENCODER = msgspec.json.Encoder()


def document(content: msgspec.Struct | bytes) -> Response:
    """200 with a JSON document, encoded already or not; never cached, because all of them change."""
    body = content if isinstance(content, bytes) else _ENCODER.encode(content)
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def response(answer: Answer) -> Response:
    """An answer as Starlette sends it."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers)
