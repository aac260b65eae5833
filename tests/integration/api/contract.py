"""Answers held against the OpenAPI document that the same application serves."""

from __future__ import annotations

import base64
import copy
import json
import re
from typing import Any

import httpx
import jsonschema_rs

from payfirst.api import openapi

from .shop import BASE_URL, Document, requirements
from .stream import fields_of

DOCUMENT = openapi.document(requirements(1), base_url=BASE_URL)


def strict() -> Document:
    """The schemas with no member that they do not name: an answer must not hold what nobody documented."""
    schemas: Document = copy.deepcopy(DOCUMENT["components"]["schemas"])
    for schema in schemas.values():
        # A map (byStatus) says itself what its members are.
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return schemas


STRICT = strict()


def demand(schema: Document, value: Any) -> None:
    """Raises jsonschema_rs.ValidationError where `value` is not what the schema, or a part of it, says."""
    whole = {**schema, "components": {"schemas": STRICT}}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(value)


def operation_of(request: httpx.Request) -> Document | None:
    """The operation that a request is one of; None for a path or method that the document does not have."""
    paths = sorted(DOCUMENT["paths"], key=lambda path: "{" in path)  # fixed paths first, as the router does
    for path in paths:
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", path), request.url.path):
            operation: Document | None = DOCUMENT["paths"][path].get(request.method.lower())
            return operation
    return None


def conforms(answer: httpx.Response) -> bool:
    """Whether the document names this answer: its status, media type, body, headers, and the refusal's code.

    True as well for a request that is none of the document's operations.
    """
    operation = operation_of(answer.request)
    if operation is None:
        return True
    documented = operation["responses"][str(answer.status_code)]
    for name, header in documented.get("headers", {}).items():
        _demand_header(header, answer.headers.get(name))
    content = documented.get("content", {})
    if not content:
        return not answer.content
    media_type = answer.headers["content-type"].partition(";")[0]
    media = content[media_type]
    if media_type == "text/event-stream":
        events = [fields for block in answer.text.split("\n\n") if "event" in (fields := fields_of(block))]
        for event in events:
            demand(media["schema"], event)
            demand(media["schema"]["properties"]["data"]["contentSchema"], json.loads(event["data"]))
        return bool(events)
    body: Any = answer.text if media_type.startswith("text/") else answer.json()
    demand(media["schema"], body)
    if answer.status_code >= 400:
        assert body.get("code", body.get("error")) in media["examples"], body
    return True


def _demand_header(header: Document, value: str | None) -> None:
    if "$ref" in header:
        header = DOCUMENT["components"]["headers"][header["$ref"].rpartition("/")[2]]
    if value is None:
        assert not header.get("required"), header
        return
    schema = header["schema"]
    demand(schema, int(value) if schema["type"] == "integer" else value)
    if "contentSchema" in schema:
        demand(schema["contentSchema"], json.loads(base64.b64decode(value, validate=True)))
