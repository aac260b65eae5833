"""The endpoints of one chain: which is asked next, which rests and for how long, and what was learned of each.

Held in memory only: a restart asks every endpoint anew. URLs carry keys, so an endpoint is spoken of by its number and
host.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import email.utils
import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from payfirst.ops import metrics
from payfirst.ops.log import get_logger
from payfirst.units import BlockNumber

CALLS_PER_BATCH_MAX = 100

FAILED_FIRST_S = 0.5
FAILED_MOST_S = 30.0
LIMITED_FIRST_S = 1.0
LIMITED_MOST_S = 60.0
RETRY_AFTER_MOST_S = 300.0
# A rate limit that goes on is logged again after so long.
LIMITED_TOLD_AGAIN_S = 10.0
# A URL that leads to another chain is a mistake in the configuration; it is looked at again in case it is mended.
MISPLACED_S = 300.0
# While others answer, an endpoint that failed before is given this long to show that it is back.
PROBE_S = 2.0
# Shorter parts of a URL are words such as v2 or mainnet, which an error may well say.
SECRET_CHARACTERS_MIN = 8

# Changes are logged, once each: `well` is the start.
State = Literal["well", "failing", "limited", "misplaced"]

log = get_logger()


def back_off_s(failures: int, *, first_s: float, most_s: float, jitter: float) -> float:
    """How long an endpoint rests after so many failures in a row: doubled each time, between half and all of it.

    `jitter` is from 0 to 1, so that the workers of several machines do not come back at the same instant.
    """
    return float(min(most_s, first_s * 2 ** min(failures - 1, 30)) * (0.5 + jitter / 2))


def retry_after_s(header: str | None, *, now: dt.datetime) -> float | None:
    """Seconds of a Retry-After header (a number, or a date: RFC 9110), None where it says nothing."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), RETRY_AFTER_MOST_S))
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    return min(max(0.0, (then - now).total_seconds()), RETRY_AFTER_MOST_S)


@dataclass(slots=True, eq=False)
class Endpoint:
    """One URL, and what was learned of it."""

    number: int  # from 1, as configured
    url: str
    is_alone: bool  # there is no other: when it fails, its callers say so
    state: State = "well"
    failures: int = 0  # in a row
    rests_until: float = 0.0  # the loop's time
    lags: bool = False
    head: BlockNumber | None = None  # when it was last compared with the others
    is_on_chain: bool = False  # its chain id was asked for, and is the right one
    calls_per_batch_max: int = CALLS_PER_BATCH_MAX
    told_at: float = float("-inf")  # when its rate limit was last logged
    _secrets: list[str] = field(init=False, repr=False)
    names: tuple[int, str] = field(init=False)  # its number and host, as metrics name it: nothing secret

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self.names = (self.number, parts.hostname or "")
        words = [parts.password or "", *parts.path.split("/"), *re.split("[&=]", parts.query)]
        self._secrets = sorted({word for word in words if len(word) >= SECRET_CHARACTERS_MIN}, key=len, reverse=True)
        for kind in metrics.RPC_ERROR_KINDS:
            metrics.RPC_ERRORS.expect(*self.names, kind)

    @property
    def label(self) -> str:
        """What it is called in logs and errors, without anything secret."""
        return f"endpoint {self.number} ({urlsplit(self.url).hostname})"

    @property
    def origin(self) -> str:
        """Its host and port: two URLs of one host are one opinion."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def without_secrets(self, text: str) -> str:
        """What it said, without what only its URL should hold: providers quote keys that they refuse."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def answered(self) -> None:
        """It gave an answer that can be used."""
        if self.state != "well" and self._is_told(self.state):
            log.info("rpc_endpoint_back", message=f"RPC: {self.label} answers again", endpoint=self.number)
        self.state, self.failures, self.rests_until = "well", 0, 0.0

    def failed(self, reason: str, *, now: float) -> None:
        """It did not answer, or with a trouble of its own: others go before it for a while."""
        self._rest("failing", reason, now=now, seconds=None, first_s=FAILED_FIRST_S, most_s=FAILED_MOST_S)
        self.is_on_chain = False  # what comes back may be another node

    def limited(self, reason: str, *, now: float, seconds: float | None) -> None:
        """It asked to be left alone, for `seconds` if it said so: it is not asked before."""
        self._rest("limited", reason, now=now, seconds=seconds, first_s=LIMITED_FIRST_S, most_s=LIMITED_MOST_S)

    def misplaced(self, *, found: int, expected: int, now: float) -> None:
        """It serves another chain: it is not used."""
        metrics.RPC_ERRORS.add(*self.names, "misplaced")
        if self.state != "misplaced":
            log.error(
                "rpc_endpoint_misplaced",
                message=f"RPC: {self.label} serves chain {found} instead of {expected} and is not used:"
                " correct network.rpc_urls",
                endpoint=self.number,
            )
        self.state, self.rests_until = "misplaced", now + MISPLACED_S

    def seen_at(self, height: BlockNumber, *, best: BlockNumber, lag_blocks_max: int) -> None:
        """Its head, beside the best of all."""
        self.head = height
        lags = best - height > lag_blocks_max
        if lags and not self.lags:
            log.warning(
                "rpc_endpoint_lags",
                message=f"RPC: {self.label} is {best - height} blocks behind; others go before it",
                endpoint=self.number,
                height=height,
            )
        elif self.lags and not lags:
            log.info("rpc_endpoint_caught_up", message=f"RPC: {self.label} has caught up", endpoint=self.number)
        self.lags = lags

    def _is_told(self, state: State) -> bool:
        return not (self.is_alone and state == "failing")

    def _rest(
        self, state: State, reason: str, *, now: float, seconds: float | None, first_s: float, most_s: float
    ) -> None:
        metrics.RPC_ERRORS.add(*self.names, state)
        was = self.state
        # Answers to calls that were under way together are one failure, not many.
        if now >= self.rests_until or self.state != state:
            self.failures += 1
        self.state = state
        if seconds is None:
            jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
            seconds = back_off_s(self.failures, first_s=first_s, most_s=most_s, jitter=jitter)
        self.rests_until = max(self.rests_until, now + seconds)
        self._tell(was, reason, now=now)

    def _tell(self, was: State, reason: str, *, now: float) -> None:
        """Once when it begins to rest; of a rate limit that goes on, again after a while, because it costs speed."""
        rests_s = round(self.rests_until - now, 1)
        if self.state == "limited" and (was != "limited" or now - self.told_at >= LIMITED_TOLD_AGAIN_S):
            self.told_at = now
            others = "calls wait for it" if self.is_alone else "the others are asked meanwhile"
            log.warning(
                "rpc_endpoint_limited",
                message=f"RPC: {self.label} limits the rate ({reason}): it rests for {rests_s:g} s, {others}",
                endpoint=self.number,
                rests_s=rests_s,
                limits_in_a_row=self.failures,
            )
        elif self.state == "failing" and was != "failing" and self._is_told("failing"):
            log.warning(
                "rpc_endpoint_failing",
                message=f"RPC: {self.label} is failing: {reason}",
                endpoint=self.number,
                rests_s=rests_s,
            )


class Endpoints:
    """The endpoints in their configured order, the first that is well before all others."""

    def __init__(self, urls: Sequence[str], *, clock: Callable[[], float]) -> None:
        if not urls:
            raise ValueError("at least one RPC URL is needed")
        self.all = tuple(Endpoint(number, url, is_alone=len(urls) == 1) for number, url in enumerate(urls, start=1))
        self._clock = clock

    def only(self, endpoint: Endpoint) -> Endpoints:
        """This one alone, with all that is known of it."""
        alone = copy.copy(self)
        alone.all = (endpoint,)
        return alone

    def usable(self) -> list[Endpoint]:
        """Those that may be asked now, the best first.

        One that rests after a failure comes last, because a try costs it nothing; one that asked to be left alone, or
        serves another chain, is left out.
        """
        now = self._clock()
        ready = [e for e in self.all if e.rests_until <= now or e.state == "failing"]
        return sorted(ready, key=lambda e: (e.rests_until > now, e.lags, e.number))

    async def next(self, tried: Collection[Endpoint], *, until: float) -> Endpoint | None:
        """The best that was not tried yet; where all that is left rests, it is waited for, not beyond `until`."""
        while True:
            for endpoint in self.usable():
                if endpoint not in tried:
                    return endpoint
            resting = [e.rests_until for e in self.all if e not in tried and e.state == "limited"]
            if not resting or min(resting) > until:
                return None
            await asyncio.sleep(max(0.0, min(resting) - self._clock()) + 0.001)

    def probe_s(self, endpoint: Endpoint) -> float | None:
        """How long to wait for `endpoint`, if it is only being tried again while others are well.

        Until that is over the others are not disturbed: it counts as resting.
        """
        now = self._clock()
        if endpoint.failures == 0 or all(e is endpoint or e.rests_until > now for e in self.all):
            return None
        endpoint.rests_until = max(endpoint.rests_until, now + PROBE_S)
        return PROBE_S
