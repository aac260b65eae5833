"""The way to the seller: one request, one whole answer, or word that none came. No redirect is followed."""

from __future__ import annotations

from typing import Self

import aiohttp

from payfirst.client.answers import HttpAnswer, NoAnswer

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
# Thousands of units fit; what is longer is no answer of payfirst's.
BODY_BYTES_MAX = 8 * 1024 * 1024
HEAD_LINE_BYTES_MAX = 65_536


class Http:
    """A few connections to sellers."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            trust_env=True,  # a proxy of the environment is obeyed, as curl does
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        within_s: float = ANSWER_TIMEOUT_S,
    ) -> HttpAnswer | NoAnswer:
        """One request; it fails in no other way than by having no answer."""
        if self._session is None:
            raise RuntimeError("an Http is used as a context manager")
        timeout = aiohttp.ClientTimeout(total=within_s, connect=CONNECT_TIMEOUT_S)
        sent = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, url, data=body, headers=sent, timeout=timeout, allow_redirects=False
            ) as response:
                content = await response.content.read(BODY_BYTES_MAX + 1)
                while len(content) <= BODY_BYTES_MAX and not response.content.at_eof():
                    content += await response.content.read(BODY_BYTES_MAX + 1 - len(content))
                if len(content) > BODY_BYTES_MAX:
                    return NoAnswer(f"the answer is longer than {BODY_BYTES_MAX} bytes")
                return HttpAnswer(response.status, {n.lower(): v for n, v in response.headers.items()}, content)
        except TimeoutError:
            return NoAnswer(f"no answer within {within_s:.0f} s")
        # ValueError: a URL or a chunk that aiohttp cannot read.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not the error's own text: it may quote the request with its headers.
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            return NoAnswer(f"no answer ({reason})")
