"""Act (b): payments that must be refused, good ones sent again, and promises from empty accounts."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Sequence

import aiohttp
import msgspec
from msgspec.structs import replace

from payfirst.local.demo.accounts import EMPTY_ACCOUNTS, PRICE, Person, people, person
from payfirst.local.demo.answers import PaymentAnswer, RefusalAnswer, follow
from payfirst.local.demo.outcome import Outcome, Paid
from payfirst.local.demo.stage import Stage
from payfirst.local.demo.wallet import VALID_S, Header, Terms, authorize, good_header, header
from payfirst.units import AtomicAmount, UnixTime

EACH_KIND = 10
REPLAYS = 10
FAIL_S_MAX = 60.0
INSUFFICIENT = "insufficient_funds"


class Kind(enum.StrEnum):
    """What is wrong with a payment."""

    WRONG_AMOUNT = "wrong amount"
    WRONG_RECIPIENT = "wrong recipient"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    GARBAGE = "garbage"
    BAD_SIGNATURE = "bad signature"


# The status and the protocol's code that each must be answered with.
EXPECTED: dict[Kind, tuple[int, str]] = {
    Kind.WRONG_AMOUNT: (402, "invalid_exact_evm_payload_authorization_value_mismatch"),
    Kind.WRONG_RECIPIENT: (402, "invalid_exact_evm_payload_recipient_mismatch"),
    Kind.EXPIRED: (402, "invalid_exact_evm_payload_authorization_valid_before"),
    Kind.NOT_YET_VALID: (402, "invalid_exact_evm_payload_authorization_valid_after"),
    Kind.GARBAGE: (400, "invalid_payload"),
    Kind.BAD_SIGNATURE: (402, "invalid_exact_evm_payload_signature"),
}


def bad_header(kind: Kind, terms: Terms, payer: Person, number: int) -> Header:
    """A payment for one unit with one thing wrong; every second one is of the second generation."""
    version = 1 + number % 2
    good = authorize(terms, payer, role=kind, number=number)
    key = payer.key
    match kind:
        case Kind.WRONG_AMOUNT:
            # Too little and too much in turn: both are refused.
            wrong = replace(good, value=AtomicAmount(PRICE - 1 if number % 4 < 2 else PRICE + 1))
        case Kind.WRONG_RECIPIENT:
            wrong = replace(good, pay_to=payer.address)
        case Kind.EXPIRED:
            wrong = replace(good, valid_before=UnixTime(terms.now - 1))
        case Kind.NOT_YET_VALID:
            wrong = replace(good, valid_after=UnixTime(terms.now + VALID_S // 2))
        case Kind.BAD_SIGNATURE:
            wrong, key = good, person("forger").key
        case Kind.GARBAGE:
            name, value = header(terms, good, key, version=version)
            return name, value[: len(value) // 2] + "!"
    return header(terms, wrong, key, version=version)


async def try_all(stage: Stage, good: Sequence[Paid]) -> Outcome:
    """Send the bad ones, some of `good` again, and promises of accounts that hold nothing; wait for these to fail."""
    outcome = Outcome()
    url = stage.base_url + stage.mint_path
    terms = Terms(stage.asset, stage.pay_to, url, int(time.time()))
    for kind in Kind:
        for number in range(EACH_KIND):
            bad = bad_header(kind, terms, person("bad buyer"), number)
            await _refused(stage.http, url, bad, kind, outcome)
    for paid in good[:REPLAYS]:
        await _same_again(stage.http, url, paid, outcome)
    async with asyncio.TaskGroup() as group:
        for number, empty in enumerate(empty_accounts()):
            promise = good_header(terms, empty, role="empty", number=number)
            group.create_task(_promise(stage, url, promise, outcome))
    return outcome


def empty_accounts() -> list[Person]:
    """Accounts that hold nothing."""
    return people("empty account", EMPTY_ACCOUNTS)


async def _refused(http: aiohttp.ClientSession, url: str, bad: Header, kind: Kind, outcome: Outcome) -> None:
    status, body = await _post(http, url, bad, quantity=1)
    answer = msgspec.json.decode(body, type=RefusalAnswer)
    found = (status, answer.error or answer.code)
    if 400 <= status < 500:
        outcome.rejected += 1
    if status == 202:
        outcome.accepted += 1
    if found != EXPECTED[kind]:
        outcome.faults.append(f"{kind}: answered {found}, not {EXPECTED[kind]}")


async def _same_again(http: aiohttp.ClientSession, url: str, paid: Paid, outcome: Outcome) -> None:
    """The same header and request once more is the same payment: its first answer, or how it ended."""
    status, body = await _post(http, url, paid.header, quantity=paid.quantity)
    if status not in (200, 202):
        outcome.faults.append(f"a replay was answered {status}: {body[:200]!r}")
        return
    again = msgspec.json.decode(body, type=PaymentAnswer)
    if again.payment_queue_id != paid.payment_id:
        outcome.faults.append(f"a replay of {paid.payment_id} became {again.payment_queue_id}")


async def _promise(stage: Stage, url: str, promise: Header, outcome: Outcome) -> None:
    """Accepted, because the balance is the chain's to know; failed by the worker, without a mint."""
    status, body = await _post(stage.http, url, promise, quantity=1)
    if status != 202:
        outcome.faults.append(f"an empty account was answered {status}: {body[:200]!r}")
        return
    outcome.accepted += 1
    payment_id = msgspec.json.decode(body, type=PaymentAnswer).payment_queue_id
    ended = await follow(
        stage.http, f"{stage.base_url}/api/payment/{payment_id}", first_look_s=1.0, deadline_s=FAIL_S_MAX
    )
    if ended is None or ended.status != "failed" or ended.error is None or ended.error.code != INSUFFICIENT:
        outcome.faults.append(f"the payment of an empty account did not fail as {INSUFFICIENT}: {ended}")


async def _post(http: aiohttp.ClientSession, url: str, payment: Header, *, quantity: int) -> tuple[int, bytes]:
    name, value = payment
    async with http.post(url, headers={name: value}, json={"quantity": quantity}) as response:
        return response.status, await response.read()
