"""What this machine can do without payfirst, in the same run: so that figures of two machines can be compared."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable

from benchmarks.figures import Figure
from payfirst.local.demo.accounts import person
from payfirst.local.demo.wallet import Terms, good_header
from payfirst.units import Address, UnixTime
from payfirst.x402.eip712 import Asset, recover_signer, transfer_digest
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.verify import verify

SECONDS = 0.3
CHUNK = 20
PAGE = bytes(8_192)
CALLS = 1_000


def section(*, repeats: int) -> dict[str, Figure]:
    """Recoveries, fsyncs and calls of Python a second on one core, and microseconds for decoding and verifying."""
    asset = Asset(
        network=network_from_text("eip155:84532"), address=Address(b"\x03" * 20), name="USDC", version="2", decimals=6
    )
    now = int(time.time())
    terms = Terms(asset, Address(b"\x09" * 20), "http://localhost/api/mint/0x", now)
    payer = person("reference payer")
    raw = good_header(terms, payer, role="reference", number=0)[1].encode()
    payload = PaymentPayload.from_header(raw, version=1)
    offered = PaymentRequirements(
        asset=asset, pay_to=terms.pay_to, amount=payload.authorization.value, max_timeout_s=900,
        resource=terms.resource, description="",
    )  # fmt: skip
    digest = transfer_digest(asset.domain_separator, payload.authorization)

    def accept_one() -> None:
        verify(PaymentPayload.from_header(raw, version=1), offered, now=UnixTime(now))

    recoveries = [_a_second(lambda: recover_signer(digest, payload.signature)) for _ in range(repeats)]
    verifications = [1e6 / _a_second(accept_one) for _ in range(repeats)]
    return {
        "recoveries_per_s": Figure.of(recoveries),
        "verify_us": Figure.of(verifications),
        "python_calls_per_s": Figure.of([CALLS * _a_second(_calls) for _ in range(repeats)]),
        "fsyncs_per_s": Figure.of([_fsyncs() for _ in range(repeats)]),
    }


def _a_second(act: Callable[[], object]) -> float:
    """How often a second it can be done; the best of many short looks, as on a quiet core."""
    best, until = float("inf"), time.monotonic() + SECONDS
    while time.monotonic() < until:
        started = time.perf_counter()
        for _ in range(CHUNK):
            act()
        best = min(best, time.perf_counter() - started)
    return CHUNK / best


class _Called:
    def one(self, number: int) -> int:
        return _two({"number": number})


def _two(said: dict[str, int]) -> int:
    return said["number"] + 1


def _calls() -> None:
    """CALLS of a method and a function: what a build of Python is worth, as most of what payfirst does is calls."""
    called, number = _Called(), 0
    for _ in range(CALLS // 2):
        number = called.one(number)


def _fsyncs() -> float:
    with tempfile.TemporaryFile() as file:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            os.pwrite(file.fileno(), PAGE, 0)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - started)
