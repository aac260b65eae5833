"""What the doctor makes of facts: each finding beside the facts that are just good enough."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace

import pytest

from payfirst.chain.blocks import Head
from payfirst.chain.diagnosis import AccountFacts, EndpointFacts
from payfirst.chain.evidence import PaidTransfer
from payfirst.ops import doctor_chain, doctor_database
from payfirst.ops.doctor import Finding, Level, fault, lines, ok, to_json, warning, worst
from payfirst.ops.doctor_chain import LocalKey
from payfirst.store.diagnosis import Debts, HeadFacts, Held, Server
from payfirst.store.processes import Listed
from payfirst.store.signers import ListedSigner
from payfirst.store.treasuries import TreasuryState
from payfirst.units import (
    AccountNonce,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    Gas,
    TxHash,
    UnixTime,
    Wei,
)

SERVER = Server(
    version=150_004,
    is_standby=False,
    settings={"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
    connections_max=100,
    connections=10,
    idle_in_transaction_s=None,
    size_bytes=10**7,
    clock=1_000.0,
)
PAY_TO = Address(b"\x11" * 20)
SIGNER = ListedSigner(
    address=Address(b"\x22" * 20),
    purpose="settle",
    next_nonce=AccountNonce(7),
    paused_reason=None,
    balance=Wei(10**18),
    held=True,
    unresolved=2,
)
MINTER = replace(SIGNER, address=Address(b"\x33" * 20), purpose="mint", unresolved=0, next_nonce=AccountNonce(0))
NOW = 2_000.0


def level(findings: list[Finding]) -> Level:
    """The worst of them."""
    return worst(findings)


def server(**changes: object) -> Level:
    """What is made of a server with changes."""
    changed = replace(SERVER, **changes)  # type: ignore[arg-type]  # named fields
    return level(doctor_database.judge_server(changed, url="postgresql://db", latency_s=0.001))


def durable(**changes: str) -> Level:
    """What is made of a server with other settings."""
    return server(settings={**SERVER.settings, **changes})


def test_the_worst_finding_is_the_exit_code() -> None:
    """0 all is well, 1 somebody should look, 2 something is wrong; what is not well says what to do."""
    assert worst([]) == worst([ok("a", "b")]) == 0
    assert worst([ok("a", "b"), warning("a", "b", "c")]) == 1
    assert worst([warning("a", "b", "c"), fault("a", "b", "c"), ok("a", "b")]) == 2
    with pytest.raises(ValueError, match="says what to do"):
        fault("a", "b", "")
    assert to_json([fault("a", "b", "c")], settings=[("s", "v", "w")]) == {
        "status": "fault",
        "findings": [{"check": "a", "level": "fault", "sentence": "b", "advice": "c"}],
        "settings": [{"setting": "s", "value": "v", "source": "w"}],
    }
    assert lines([ok("one", "fine"), fault("three", "broken", "mend it")]) == [
        "✅ one    fine",
        "❌ three  broken",
        "          → mend it",
    ]


def test_a_server_that_may_lose_commits_is_a_fault() -> None:
    """A 202 promises a row that outlives the machine's fall."""
    assert server() is Level.OK
    assert durable(fsync="off") is Level.FAULT
    assert durable(synchronous_commit="off") is Level.FAULT
    assert durable(synchronous_commit="local") is durable(synchronous_commit="remote_apply") is Level.OK
    assert durable(full_page_writes="off") is Level.WARNING
    assert server(version=140_011) is server(is_standby=True) is Level.FAULT
    assert (server(connections=80), server(connections=81)) == (Level.OK, Level.WARNING)
    assert (server(idle_in_transaction_s=299.0), server(idle_in_transaction_s=301.0)) == (Level.OK, Level.WARNING)


@pytest.mark.parametrize(
    ("current", "said"),
    [("0002", None), ("0001", "1 revisions behind"), (None, "no tables"), ("0009", "a newer release's")],
)
def test_the_tables_are_this_releases(current: str | None, said: str | None) -> None:
    """Older and none are faults; on newer ones this release runs, and says so."""
    (finding,) = doctor_database.judge_migrations(current, ("0002", "0001"))
    levels = {None: Level.OK, "a newer release's": Level.WARNING}
    assert finding.level is levels.get(said, Level.FAULT)
    assert said is None or said in finding.sentence


def process(role: str = "worker", silent_s: float = 1.0, **settings: dict[str, object]) -> Listed:
    """A process's row."""
    return Listed(uuid.uuid4(), role, "host", 7, 100.0, silent_s, {}, settings)  # type: ignore[arg-type]  # a role


def test_who_does_not_live_is_missed() -> None:
    """Without a worker nothing is settled; without an API nothing is sold; who fell lately is named."""
    both = [process(), process("api")]
    assert level(doctor_database.judge_processes(both, {})) is Level.OK
    assert level(doctor_database.judge_processes(both[:1], {})) is Level.WARNING
    assert level(doctor_database.judge_processes(both[1:], {})) is Level.FAULT
    assert level(doctor_database.judge_processes([*both, process(silent_s=60)], {})) is Level.WARNING
    assert level(doctor_database.judge_processes([*both, process(silent_s=3_600)], {})) is Level.OK


def test_pauses_and_refused_settings_are_named() -> None:
    """With the command that ends them; a pause that is set to false is none."""
    both = [process(), process("api")]
    (drained,) = [f for f in doctor_database.judge_processes(both, {"pause.accepting": True}) if f.check == "paused"]
    assert drained.advice == "payfirst drain --off"
    assert level(doctor_database.judge_processes(both, {"pause.accepting": False})) is Level.OK
    refusing = [process(refused={"settle.batch_max": "a whole number from 1 to 250"}), both[1]]
    (refused,) = [f for f in doctor_database.judge_processes(refusing, {}) if f.check == "settings"]
    assert "settle.batch_max" in refused.sentence
    assert "payfirst settings unset settle.batch_max" in refused.advice


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (HeadFacts(100, 100, 36, 29.0), Level.OK),
        (HeadFacts(100, 100, 36, 31.0), Level.FAULT),
        (HeadFacts(100, 80, 36, 1.0), Level.OK),
        (HeadFacts(100, 79, 36, 1.0), Level.WARNING),
        (None, Level.FAULT),
    ],
)
def test_the_chain_is_seen_and_read(head: HeadFacts | None, expected: Level) -> None:
    """Up to the age above which the API accepts nothing, and twenty blocks."""
    assert level(doctor_database.judge_head(head, age_s_max=30, confirmations=1)) is expected


@pytest.mark.parametrize(("confirmable", "expected"), [(100, Level.OK), (121, Level.WARNING), (None, Level.OK)])
def test_behind_is_what_is_deep_enough(confirmable: int | None, expected: Level) -> None:
    """A finalized block is far below the head, and nothing is late for it."""
    head = HeadFacts(1_000, 100, 36, 1.0, confirmable=confirmable)
    assert level(doctor_database.judge_head(head, age_s_max=30, confirmations="finalized")) is expected


def test_what_waits_for_an_operator_is_a_warning() -> None:
    """Held rows, held tokens, debts."""
    assert (
        level(doctor_database.judge_held(Held(0, 0, ())))
        is level(doctor_database.judge_owed(Debts(0, 0, 0)))
        is Level.OK
    )
    for held in (Held(1, 0, ()), Held(0, 1, ()), Held(0, 0, (("0xab", "EnforcedPause()"),))):
        assert level(doctor_database.judge_held(held)) is Level.WARNING
    assert level(doctor_database.judge_owed(Debts(1, 0, 60))) is level(doctor_database.judge_owed(Debts(0, 1, 60)))
    assert level(doctor_database.judge_owed(Debts(1, 0, 60))) is Level.WARNING


def test_the_treasury_is_held_against_what_is_owed() -> None:
    """Enough for all that is owed, and somebody who sends it; with refunds off there is nothing to say."""
    treasury = TreasuryState(Address(b"\x01" * 20), AtomicAmount(10), None, dt.datetime.now(dt.UTC))
    sender = replace(SIGNER, purpose="refund", paused_reason=None)

    def judged(
        treasuries: list[TreasuryState], signers: list[ListedSigner], *, mode: str = "automatic", owed: int = 10
    ) -> Level:
        return level(doctor_database.judge_refunds(treasuries, signers, mode=mode, owed=AtomicAmount(owed), decimals=6))

    assert judged([treasury], [sender]) is Level.OK
    assert judged([treasury], [sender], owed=11) is Level.WARNING
    assert judged([], [sender]) is Level.WARNING
    assert judged([treasury], [replace(sender, paused_reason="by hand")]) is Level.FAULT
    assert judged([], [], mode="off") is Level.OK


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(0.0, Level.OK), (2.0, Level.OK), (-2.1, Level.WARNING), (15.0, Level.WARNING), (-15.1, Level.FAULT)],
)
def test_clocks_agree(ours: float, expected: Level) -> None:
    """In both directions."""
    assert level(doctor_database.judge_clock("clock", ours=ours, theirs=0.0, whose="the database's")) is expected


def endpoint(number: int, *, chain_id: int = 8453, time: float = NOW, latency_s: float = 0.01) -> EndpointFacts:
    """An endpoint whose head is at `number`."""
    head = Head(BlockNumber(number), BlockHash(b"a" * 32), BlockHash(b"b" * 32), UnixTime(int(time)), Wei(1))
    return EndpointFacts("endpoint 1 (rpc)", chain_id, head, latency_s)


DEAD = EndpointFacts("endpoint 2 (rpc)", error="HTTP 500")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([endpoint(100)], Level.OK),
        ([endpoint(100), endpoint(95)], Level.OK),
        ([endpoint(100), endpoint(94)], Level.WARNING),
        ([endpoint(100), DEAD], Level.WARNING),
        ([endpoint(100, latency_s=1.5)], Level.WARNING),
        ([endpoint(100), endpoint(100, chain_id=1)], Level.FAULT),
        ([DEAD], Level.FAULT),
        ([endpoint(100, chain_id=1)], Level.FAULT),
        ([endpoint(100, time=NOW - 59)], Level.OK),
        ([endpoint(100, time=NOW - 62)], Level.WARNING),
        ([endpoint(100, time=NOW + 20)], Level.FAULT),
    ],
)
def test_endpoints_answer_agree_and_keep_up(endpoints: list[EndpointFacts], expected: Level) -> None:
    """One that fails is a warning while another is there."""
    found = doctor_chain.judge_endpoints(endpoints, chain_id=8453, lag_blocks_max=5, now=NOW)
    assert level(found) is expected
    assert len(found) >= len(endpoints)


@pytest.mark.parametrize(
    ("hosts", "agree_amount", "test_money", "says"),
    [
        (1, None, False, "one RPC endpoint alone"),
        (2, None, False, "payments.agree_amount is 0"),
        (2, AtomicAmount(25_000_000), False, None),
        (1, None, True, None),
        (2, None, True, None),
    ],
)
def test_where_value_is_at_stake_two_endpoints_have_to_agree(
    hosts: int, agree_amount: AtomicAmount | None, test_money: bool, says: str | None
) -> None:
    """One host, or two of which either is believed, is a warning that says what to do; not for test money."""
    found = doctor_chain.judge_agreement(hosts=hosts, agree_amount=agree_amount, test_money=test_money)
    assert [(f.level, f.check) for f in found] == ([] if says is None else [(Level.WARNING, "rpc")])
    assert all(says is not None and says in f.sentence and f.advice for f in found)


def signers(
    *registered: ListedSigner, nonce: int = 5, balance: int = 10**18, live: bool = True, gas_price: int = 10**9
) -> Level:
    """What is made of a settle signer that stands so on the chain, beside a mint signer that is well."""
    account = AccountFacts(AccountNonce(nonce), Wei(balance))
    minter = AccountFacts(AccountNonce(0), Wei(10**18))
    found = doctor_chain.judge_signers(
        registered,
        {SIGNER.address: account, MINTER.address: minter},
        gas_of={"settle": Gas(10**6), "mint": Gas(10**6)},
        gas_price=Wei(gas_price),
        workers_live=live,
    )
    return level(found)


def test_signers_nonces_agree_with_the_chain() -> None:
    """What is on its way explains the difference; more on chain than here, or a gap, does not."""
    assert signers(SIGNER, MINTER) is signers(SIGNER, MINTER, nonce=7) is Level.OK
    assert signers(SIGNER, MINTER, nonce=8) is Level.FAULT
    assert signers(SIGNER, MINTER, nonce=4) is Level.FAULT


def test_signers_can_pay() -> None:
    """Twenty full transactions at the present fee are enough, none is a fault."""
    cost = 10**15
    assert signers(SIGNER, MINTER, balance=20 * cost) is Level.OK
    assert signers(SIGNER, MINTER, balance=19 * cost) is Level.WARNING
    assert signers(SIGNER, MINTER, balance=cost - 1) is signers(SIGNER, MINTER, balance=0) is Level.FAULT


def test_signers_are_there_and_work() -> None:
    """Each purpose has one that is not paused, held by a worker where one lives."""
    assert signers() is Level.WARNING
    assert signers(SIGNER) is Level.FAULT
    assert signers(replace(SIGNER, paused_reason="by hand"), MINTER) is Level.FAULT
    other = replace(SIGNER, address=Address(b"\x44" * 20))
    assert signers(SIGNER, MINTER, replace(other, paused_reason="by hand")) is Level.WARNING
    assert signers(replace(SIGNER, held=False), MINTER) is Level.WARNING
    assert signers(replace(SIGNER, held=False), MINTER, live=False) is Level.OK
    assert signers(SIGNER, MINTER, replace(other, paused_reason="balance too low: 0 wei")) is Level.FAULT


def test_keys_are_their_owners_and_have_one_purpose() -> None:
    """A file that others may read is a fault, and so is one key for two purposes; no key is right for an API."""
    key = LocalKey("settle", SIGNER.address, "signers/settle.json", 0o600)
    assert level(doctor_chain.judge_keys([key], can_work=[])) is Level.OK
    assert level(doctor_chain.judge_keys([], can_work=[])) is Level.OK
    assert level(doctor_chain.judge_keys([replace(key, mode=0o640)], can_work=[])) is Level.FAULT
    assert level(doctor_chain.judge_keys([key, replace(key, purpose="mint", mode=None)], can_work=[])) is Level.FAULT
    assert level(doctor_chain.judge_keys([key], can_work=["signers.mint_key: expected a key"])) is Level.WARNING


def test_a_payment_that_somebody_else_accepted_is_a_fault() -> None:
    """One use that no payment here has; those of ours are none."""
    used = PaidTransfer(
        payer=Address(b"\x01" * 20),
        nonce=AuthorizationNonce(b"\x02" * 32),
        pay_to=PAY_TO,
        value=AtomicAmount(1),
        tx_hash=TxHash(b"\x03" * 32),
        log_index=0,
    )
    ours = replace(used, nonce=AuthorizationNonce(b"\x04" * 32))
    assert level(doctor_chain.judge_pay_to([], set(), pay_to=PAY_TO, blocks=10)) is Level.OK
    assert level(doctor_chain.judge_pay_to([ours], set(), pay_to=PAY_TO, blocks=10)) is Level.OK
    (finding,) = doctor_chain.judge_pay_to([ours, used], {(used.payer, used.nonce)}, pay_to=PAY_TO, blocks=10)
    assert finding.level is Level.FAULT
    assert "1 of 2" in finding.sentence
    assert used.tx_hash.hex() in finding.sentence
