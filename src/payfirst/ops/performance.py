"""Whether the system is fast enough: the thresholds of `payfirst stats`, as the guide has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store.performance import Minute, Performance, Speed
from payfirst.store.queue_stats import STUCK_S
from payfirst.units import utc_text

AVERAGE_S_MAX = 15.0
RATE_PER_S_MIN = 10.0
# There is a queue when what could be sent has waited for so long: a few that have just come are none.
QUEUE_S = 15.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One threshold: whether it holds, and a sentence with the figures and, where it does not, what to do."""

    name: str
    holds: bool
    sentence: str


def judge(found: Performance) -> tuple[Verdict, ...]:
    """The three thresholds, in the guide's order."""
    return (_average(found), _rate(found), _stuck(found))


def _average(found: Performance) -> Verdict:
    average = found.payments.average
    if average is None:
        return Verdict("avg_seconds", True, "no payment was completed in this time")
    said = f"avg_seconds is {average:.1f} (below {AVERAGE_S_MAX:g} is right)"
    if average < AVERAGE_S_MAX:
        return Verdict("avg_seconds", True, said)
    return Verdict(
        "avg_seconds", False, f"{said}: payfirst doctor looks for what slows it, payfirst top shows where they wait"
    )


def _rate(found: Performance) -> Verdict:
    rate = f"{found.per_second:.1f} payments a second were completed in the last minute"
    oldest = found.waiting_oldest_s
    if oldest is None or oldest < QUEUE_S:
        return Verdict("rate", True, f"{rate}; there is no queue")
    said = f"{rate}, and {found.waiting} wait, the oldest for {oldest:.0f} s"
    if found.per_second > RATE_PER_S_MIN:
        return Verdict("rate", True, f"{said} (above {RATE_PER_S_MIN:g} is right)")
    return Verdict(
        "rate", False,
        f"{said} (above {RATE_PER_S_MIN:g} is right): payfirst doctor says what holds them up",
    )  # fmt: skip


def _stuck(found: Performance) -> Verdict:
    minutes = STUCK_S // 60
    stuck = found.stuck_payments + found.stuck_mints
    if not stuck:
        return Verdict("stuck", True, f"nothing has been sent for over {minutes} minutes")
    return Verdict(
        "stuck", False,
        f"{found.stuck_payments} payments and {found.stuck_mints} units have been sent for over {minutes} minutes:"
        " payfirst doctor says whether chain, fees or a signer hold them up",
    )  # fmt: skip


def to_json(found: Performance) -> dict[str, object]:
    """The whole as JSON holds it; names in camelCase like the API's, seconds as numbers."""
    verdicts = judge(found)
    return {
        "ok": all(v.holds for v in verdicts),
        "windowSeconds": found.window_s,
        "payments": _speed(found.payments),
        "minted": _speed(found.units),
        "byMinute": [
            {
                "minute": utc_text(m.start),
                "acceptedPerSecond": _per_second(m.accepted, m),
                "completedPerSecond": _per_second(m.completed, m),
                "mintedPerSecond": _per_second(m.minted, m),
            }
            for m in found.minutes
        ],
        "depth": [
            {"queue": d.queue, "status": d.status, "count": d.count, "oldestSeconds": round(d.oldest_s, 3)}
            for d in found.depth
        ],
        "waiting": found.waiting,
        "ratePerSecond": round(found.per_second, 3),
        "stuckInSent": {"payments": found.stuck_payments, "mints": found.stuck_mints},
        "failures": [{"code": c.code, "count": c.count, "error": c.sentence} for c in found.failures],
        "thresholds": [{"name": v.name, "holds": v.holds, "sentence": v.sentence} for v in verdicts],
    }


def _per_second(count: int, minute: Minute) -> float:
    return round(count / minute.seconds, 3)


def _speed(speed: Speed) -> dict[str, object]:
    def of(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds, 3)

    return {
        "count": speed.count,
        "avg_seconds": of(speed.average),
        "minimum": of(speed.minimum),
        "maximum": of(speed.maximum),
        "p50": of(speed.p50),
        "p99": of(speed.p99),
    }
