"""The headers of every answer: what browsers are told about safety, and which pages may read it (CORS).

All of them are made once. For a server that no page may call, a request costs one look into a tuple.
Sources: the Fetch standard (CORS), RFC 6797 (HSTS), CSP level 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from payfirst.api.problems import Answer, Header

ALLOWED_METHODS = b"GET, HEAD, POST"
ALLOWED_HEADERS = b"Content-Type, X-PAYMENT, PAYMENT-SIGNATURE, Prefer, Last-Event-ID, If-None-Match"
EXPOSED_HEADERS = (
    b"PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE, Retry-After, ETag, Location, Preference-Applied"
)
PREFLIGHT_MAX_AGE_S = 7_200  # the longest that browsers keep one
HSTS_MAX_AGE_S = 31_536_000
# Answers of the API are data: nothing in them is ever run, framed or loaded.
API_POLICY = b"default-src 'none'; frame-ancestors 'none'"

ANY = "*"


class ResponseHeaders:
    """What is added to every answer, and the answer to a browser that asks beforehand.

    `page_policies` holds the Content-Security-Policy of each path that is a page.
    """

    def __init__(self, *, base_url: str, cors_origins: Sequence[str], page_policies: dict[str, bytes]) -> None:
        common: tuple[Header, ...] = (
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        )
        if base_url.startswith("https://"):
            common += ((b"strict-transport-security", b"max-age=%d" % HSTS_MAX_AGE_S),)
        self._any_origin = tuple(cors_origins) == (ANY,)
        self._sharing = {} if self._any_origin else {o.encode(): _shared_with(o.encode()) for o in cors_origins}
        if self._any_origin:
            common += _shared_with(b"*")
        elif self._sharing:
            # A cache must not give one origin's answer to another.
            common += ((b"vary", b"Origin"),)
        self._api = (*common, (b"content-security-policy", API_POLICY))
        self._pages = {path: (*common, (b"content-security-policy", policy)) for path, policy in page_policies.items()}

    def of(self, path: str, request_headers: Iterable[Header]) -> tuple[Header, ...]:
        """What is added to the answer to this request."""
        added = self._pages.get(path, self._api)
        if not self._sharing:
            return added
        for name, value in request_headers:
            if name == b"origin":
                return added + self._sharing.get(value, ())
        return added

    def preflight(self, method: str, request_headers: Iterable[Header]) -> Answer | None:
        """204 for a browser's question before a request, None for anything else.

        The same for all paths and origins: what a page may do is said by the headers that `of` adds.
        """
        if method != "OPTIONS" or not (self._any_origin or self._sharing):
            return None
        names = {name for name, _ in request_headers}
        if not {b"origin", b"access-control-request-method"} <= names:
            return None
        return Answer(
            204,
            (
                (b"access-control-allow-methods", ALLOWED_METHODS),
                (b"access-control-allow-headers", ALLOWED_HEADERS),
                (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
            ),
            b"",
        )


def _shared_with(origin: bytes) -> tuple[Header, ...]:
    return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED_HEADERS))
