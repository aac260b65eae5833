"""What two endpoints say alike: one that invents or withholds decides nothing alone.

Asked one after the other until two of different hosts have given the same answer. Where they do not, nothing is
answered, it is said aloud, and whoever asks goes on asking: it is over by itself once they agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

from payfirst.chain.abi import UndecodableAnswer
from payfirst.chain.endpoints import Endpoint
from payfirst.chain.rpc_errors import RpcUnavailable
from payfirst.errors import RetriedError
from payfirst.ops import metrics
from payfirst.ops.log import get_logger

# One of them may be a moment behind; what lasts longer is told, and told again.
TOLD_AFTER_S = 1.0
TOLD_AGAIN_S = 30.0

# What they may not agree on, for logs and metrics: a payment that was made, and what ends one or what it rests on.
Subject = Literal["payment", "expired", "lost", "used", "nonce", "fault"]

C = TypeVar("C")
T = TypeVar("T")

log = get_logger()


class RpcDisagreement(RetriedError):
    """Endpoints give different answers to one question; nothing changes until two of them agree."""


class Agreement:
    """Asks, compares, and keeps in mind since when they disagree on a subject, and when that was told."""

    def __init__(self) -> None:
        self._since: dict[Subject, float] = {}
        self._told_at: dict[Subject, float] = {}

    async def of(
        self,
        endpoints: Sequence[tuple[Endpoint, C]],
        ask: Callable[[C], Awaitable[T]],
        *,
        subject: Subject,
        about: str,
        same: Callable[[T], object],
    ) -> T:
        """The answer that two endpoints of different hosts give alike, as `same` compares them.

        Raises RpcDisagreement when they do not, RpcUnavailable when fewer than two answer.
        """
        answers: list[tuple[Endpoint, T]] = []
        troubles: list[str] = []
        for endpoint, one in endpoints:
            try:
                answer = await ask(one)
            except (RetriedError, UndecodableAnswer) as error:
                troubles.append(f"{endpoint.label}: {error}")
                continue
            for other, theirs in answers:
                if other.origin != endpoint.origin and same(theirs) == same(answer):
                    odd = [e for e, a in answers if same(a) != same(answer)]
                    if odd:
                        self._outvoted(odd, subject, about)
                    else:
                        self._since.pop(subject, None)
                    return theirs
            answers.append((endpoint, answer))
        if len({endpoint.origin for endpoint, _ in answers}) < 2:
            said = "; ".join(troubles) or "no other is configured, or it rests"
            raise RpcUnavailable(f"RPC: two endpoints have to agree on {about}, and {len(answers)} answered ({said})")
        names = " and ".join(endpoint.label for endpoint, _ in answers)
        sentence = f"{names} do not agree on {about}: nothing changes until two do"
        self._tell(subject, f"RPC: {sentence}. Ask both, and take the wrong one out of network.rpc_urls", answers)
        raise RpcDisagreement(f"RPC: {sentence}")

    def _outvoted(self, odd: Sequence[Endpoint], subject: Subject, about: str) -> None:
        names = " and ".join(endpoint.label for endpoint in odd)
        said = f"RPC: {names} says otherwise than two others of {about}: what the two say counts"
        self._tell(subject, said, [(endpoint, None) for endpoint in odd])

    def _tell(self, subject: Subject, sentence: str, answers: Sequence[tuple[Endpoint, object]]) -> None:
        metrics.RPC_DISAGREEMENTS.add(subject)
        now = asyncio.get_running_loop().time()
        is_new = now - self._since.setdefault(subject, now) < TOLD_AFTER_S
        if is_new or now - self._told_at.get(subject, float("-inf")) < TOLD_AGAIN_S:
            return
        self._told_at[subject] = now
        log.error(
            "rpc_disagreement",
            message=sentence,
            subject=subject,
            endpoints=[endpoint.label for endpoint, _ in answers],
        )
