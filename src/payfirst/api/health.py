"""`/health`: this process lives. `/ready`: a payment could be accepted now, as far as it is ours to say."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payfirst import __version__
from payfirst.api import problems
from payfirst.api.respond import document, response
from payfirst.api.runtime import Runtime
from payfirst.errors import PayerError
from payfirst.pipeline.admission import Admission, NotNow, SoldOut, why_not_accepting, workers_missing

SNAPSHOT_AGE_S_MAX = 1.0
RETRY_AFTER_S = 5


class HealthDocument(msgspec.Struct):
    """`status` is always ok: a process that is not does not answer."""

    status: str
    version: str


class ReadyDocument(msgspec.Struct):
    """What a 200 of `/ready` says."""

    status: str


def routes(runtime: Runtime) -> list[Route]:
    """Both checks."""

    async def health(_request: Request) -> Response:
        return document(HealthDocument("ok", __version__))

    async def ready(_request: Request) -> Response:
        try:
            reasons = reasons_not_ready(runtime.service.admission)
        except NotNow as starting:
            reasons = [str(starting)]
        if not reasons:
            return document(ReadyDocument("ready"))
        return response(
            problems.problem(
                503,
                "not_ready",
                "No payment could be accepted now; reasons says why. Ask again later.",
                headers=[problems.retry_after(RETRY_AFTER_S)],
                reasons=reasons,
            )
        )

    return [Route("/health", health), Route("/ready", ready)]


def reasons_not_ready(admission: Admission) -> list[str]:
    """Everything that keeps a payment from being accepted; empty when one could be."""
    reasons = []
    limits, age_s, snapshot = admission.limits, admission.age_s, admission.snapshot
    stopped = why_not_accepting(limits)
    if stopped is not None:
        reasons.append(stopped)
    if age_s > SNAPSHOT_AGE_S_MAX:
        reasons.append(f"The database has not answered for {age_s:.1f} s.")
    reasons += [f"{missing}." for missing in workers_missing(snapshot.workers, age_s=age_s, limits=limits)]
    if not any(token.active and token.max_mint_count is not None for token in snapshot.tokens.values()):
        reasons.append("No active token has been read from the chain.")
    return reasons or _reasons_of_tokens(admission)


def _reasons_of_tokens(admission: Admission) -> list[str]:
    """Why not one unit of any token is sold; empty when one is, or would be if it were not sold out.

    That is for the buyer to hear: a balancer that takes this process away would say something else instead.
    """
    reasons = []
    for token in admission.snapshot.tokens.values():
        try:
            admission.admit(token, 1)
        except SoldOut:
            return []
        except (PayerError, NotNow) as refusal:
            reasons.append(str(refusal))
        else:
            return []
    return list(dict.fromkeys(reasons))
