"""`payfirst audit`: what differs between database and chain is found, said, and put right from evidence alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner, Result

from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import encode_mint
from payfirst.cli.audit import Asked, compare
from payfirst.cli.main import app
from payfirst.errors import OperatorError
from payfirst.local.chain import DEV_OWNER_KEY, dev_address, dev_key
from payfirst.pipeline.audit_kinds import exit_code
from payfirst.units import MintId, Wei, checksum_address, hex_text, keccak

from .rig import MINT_AMOUNT, PAY_TO, PRICE, Rig, transfer
from .test_evidence import FRIEND
from .test_operator_queries import query


class Payfirst:
    """The command for a rig: as a function of this process, which is quick, and as a seller types it."""

    def __init__(self, rig: Rig, file: Path) -> None:
        self._rig = rig
        self._file = file

    async def kinds(self, *, code: int, first: int | None = None, repair: bool = False) -> list[str]:
        """The kinds of what differed, sorted; the exit code must be `code`."""
        found = await compare(
            replace(self._rig.terms, final_depth=2),
            (self._rig.chain.url,),
            self._rig.database_url,
            Asked(first, None),
            seconds=3_600,
            repair=repair,
        )
        assert exit_code(found.findings, repaired=repair) == code, found
        return sorted(f.kind.value for f in found.findings)

    async def run(self, *words: str) -> Result:
        """`payfirst audit …`, in this process: its start is tested elsewhere."""
        return await asyncio.to_thread(
            CliRunner().invoke,
            app,
            ["audit", *words],
            env={
                "DATABASE_URL": self._rig.database_url,
                "PAYFIRST_NETWORK__RPC_URLS": self._rig.chain.url,
                "PAYFIRST_NETWORK__FINAL_DEPTH": "2",
                "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
                "PAYFIRST_CONFIG": str(self._file),
            },
        )


@pytest.fixture
def payfirst(rig: Rig, tmp_path: Path) -> Payfirst:
    """The command with an empty file of settings."""
    file = tmp_path / "payfirst.toml"
    file.touch()
    return Payfirst(rig, file)


async def read_up_to_the_head(rig: Rig) -> None:
    """Claim by hand that the chain has been read: what lies below is nobody's to look at but an audit's."""
    head = await rig.chain.rpc.head()
    await rig.pool.execute(
        "UPDATE chain_heads SET cursor_height = $1, cursor_hash = $2, cursor_time = $3",
        head.number, hex_text(head.hash), head.time,
    )  # fmt: skip
    await rig.pool.execute("DELETE FROM chain_blocks")


async def test_after_ordinary_work_database_and_chain_agree(rig: Rig, payfirst: Payfirst) -> None:
    """Exit code 0, and nothing is repaired that needs none."""
    buyers = await rig.buyers(6)
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until_counts(mints_completed=12)
    assert await payfirst.kinds(first=0, repair=True, code=0) == []
    assert await rig.pool.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_a_payment_that_was_paid_is_credited_once(rig: Rig, payfirst: Payfirst) -> None:
    """In a block that was passed over: --repair completes it, and a second time there is nothing left to do."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(settling_paused=True):
        authorization = buyer.authorize(2)
        assert (await rig.order(buyer, 2, authorization=authorization, recipient=FRIEND)).status_code == 202
    await rig.pool.execute("UPDATE payment_queue SET status = 'failed'")
    await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    await read_up_to_the_head(rig)
    assert await payfirst.kinds(code=1) == ["payment_not_credited"]
    assert await rig.counts() == {"payments_failed": 1}  # to look changes nothing
    assert await payfirst.kinds(repair=True, code=0) == ["payment_not_credited"]
    assert await rig.counts() == {"payments_completed": 1, "mints_pending": 2}
    assert await payfirst.kinds(repair=True, code=0) == []
    logged = await rig.pool.fetch("SELECT actor, action FROM audit_log")
    assert [tuple(row) for row in logged] == [("payfirst audit --repair", "payment_credited")]
    async with rig.working():
        await rig.until_counts(mints_completed=2)
    assert await rig.balance(rig.token, buyer.address) == 2 * MINT_AMOUNT  # a stranger's transaction: to the payer
    await rig.check_invariants()


async def test_money_without_a_payment_is_owed_once_its_block_is_final(rig: Rig, payfirst: Payfirst) -> None:
    """An authorization that nobody ordered with; a plain transfer is the seller's own business."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.chain.set_automine(False)
    await rig.chain.submit(rig.chain.usdc, transfer(buyer, buyer.authorize(3)), gas=200_000)
    await rig.chain.submit(
        rig.chain.usdc, encode_call("mintMany(address[],uint256)", [PAY_TO], 5), DEV_OWNER_KEY, gas=200_000
    )
    await rig.chain.mine(1)
    await read_up_to_the_head(rig)
    assert await payfirst.kinds(repair=True, code=1) == ["money_not_final"]
    await rig.chain.mine(3)
    assert await payfirst.kinds(repair=True, code=0) == ["money_without_payment"]
    assert await payfirst.kinds(repair=True, code=0) == []
    owed = await rig.pool.fetch("SELECT direction, reason, amount::int8, beneficiary, payment_id, status FROM owed")
    expected = ("to_buyer", "money_without_payment", 3 * PRICE, hex_text(buyer.address), None, "open")
    assert [tuple(row) for row in owed] == [expected]


async def test_an_authorization_used_before_its_payment_came_is_owed_when_that_failed(
    rig: Rig, payfirst: Payfirst
) -> None:
    """Rule 4 refuses the payment; the money is there all the same, and has a name."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize()
    async with rig.working():
        used = await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))

        async def seen() -> bool:
            return bool(await rig.pool.fetchval("SELECT head_height >= $1 FROM chain_heads", used.block_number))

        await rig.until(seen)
        assert (await rig.order(buyer, 1, authorization=authorization)).status_code == 202
        await rig.until_counts(payments_failed=1)
    await rig.chain.mine(3)
    assert await payfirst.kinds(repair=True, code=0) == ["money_without_payment"]
    assert await rig.counts() == {"payments_failed": 1}
    assert await rig.pool.fetchval("SELECT amount FROM owed") == PRICE


async def test_an_authorization_used_for_another_amount_needs_an_operator(rig: Rig, payfirst: Payfirst) -> None:
    """Two signatures under one nonce: exit code 2, and no repair touches it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(settling_paused=True):
        authorization = buyer.authorize(2)
        assert (await rig.order(buyer, 2, authorization=authorization)).status_code == 202
    cheaper = structs.replace(authorization, value=PRICE)
    await rig.chain.send(rig.chain.usdc, transfer(buyer, cheaper))
    await read_up_to_the_head(rig)
    assert await payfirst.kinds(repair=True, code=2) == ["payment_terms_differ"]
    assert await rig.counts() == {"payments_pending": 1}


async def test_a_unit_that_was_minted_is_marked_with_its_own_transaction(rig: Rig, payfirst: Payfirst) -> None:
    """The seller minted it by hand, in a block that was passed over; supply is counted once."""
    (buyer,) = await rig.buyers(1)
    await rig.chain.fund_gas([dev_address("seller")], Wei(10**20))
    grant = encode_call("grantRole(bytes32,address)", keccak(b"MINTER_ROLE"), dev_address("seller"))
    await rig.chain.send(rig.token, grant, dev_key("seller"))
    async with rig.working(mint_unresolved_max=0):
        await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=1)
    ids = await rig.pool.fetch("SELECT mint_id FROM mint_queue ORDER BY unit")
    first = MintId(bytes.fromhex(ids[0]["mint_id"][2:]))
    minted = await rig.chain.send(rig.token, encode_mint(buyer.address, first), dev_key("seller"))
    await rig.chain.send(rig.token, encode_mint(FRIEND, MintId(keccak(b"the seller's own"))), dev_key("seller"))
    await rig.chain.mine(3)
    await read_up_to_the_head(rig)
    assert await payfirst.kinds(repair=True, code=0) == ["mint_by_others", "mint_not_marked"]
    marked = await rig.pool.fetchrow("SELECT status, mint_tx_hash FROM mint_queue ORDER BY unit LIMIT 1")
    assert marked is not None
    assert tuple(marked) == ("completed", hex_text(minted.tx_hash))
    assert tuple(await rig.pool.fetchrow("SELECT minted::int8, reserved FROM tokens")) == (2, 1)  # type: ignore[arg-type]  # a row
    async with rig.working():
        await rig.until_counts(mints_completed=2)
    assert await rig.balance(rig.token, buyer.address) == 2 * MINT_AMOUNT


async def test_rows_that_nothing_carries_go_back_to_the_queue(rig: Rig, payfirst: Payfirst) -> None:
    """Sent by hand, say: an authorization is used once only, so sending it again is safe."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(settling_paused=True):
        await rig.pay(buyer)
    await rig.pool.execute("UPDATE payment_queue SET status = 'sent', tx_hash = '0x' || repeat('ab', 32)")
    await rig.pool.execute("UPDATE tokens SET reserved = 5")
    assert await payfirst.kinds(code=1) == ["payment_stranded", "supply_reserved_differs"]
    assert await payfirst.kinds(repair=True, code=0) == ["payment_stranded", "supply_reserved_differs"]
    assert await payfirst.kinds(code=0) == []
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_completed=1)
    await rig.check_invariants()


async def test_evidence_that_was_changed_by_hand_needs_an_operator(rig: Rig, payfirst: Payfirst) -> None:
    """A completed payment whose transfer is not there, and a unit whose id its token does not hold."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
    await rig.chain.mine(3)
    await rig.pool.execute("UPDATE payment_queue SET settled_log_index = 77")
    await rig.pool.execute("UPDATE mint_queue SET mint_id = '0x' || repeat('77', 32)")
    found = await payfirst.kinds(repair=True, code=2)
    assert found == ["mint_gone", "payment_evidence_gone"]
    assert await rig.counts() == {"payments_completed": 1, "mints_completed": 1}


async def test_a_transaction_that_the_scan_passed_is_read_late(rig: Rig, payfirst: Payfirst) -> None:
    """Its row says sent, its block was read: the audit applies it, item by item."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.chain.set_automine(False)
        await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
    await rig.chain.mine(1)
    await read_up_to_the_head(rig)
    assert "transaction_unread" in await payfirst.kinds(code=1)
    assert "transaction_unread" in await payfirst.kinds(repair=True, code=0)
    assert await rig.counts() == {"payments_completed": 1, "mints_pending": 1}
    await rig.chain.set_interval(1)
    async with rig.working():
        await rig.until_counts(mints_completed=1)
    await rig.check_invariants()


@pytest.mark.parametrize("supply", ["there", "gone"])
async def test_the_rollback_by_hand_is_made_whole_whoever_runs_meanwhile(
    rig: Rig, payfirst: Payfirst, supply: str
) -> None:
    """Workers stopped, the seed's SQL run, the batch mined meanwhile, workers started: credited, minted or owed."""
    buyers = await rig.buyers(3)
    async with rig.working():
        await rig.chain.set_automine(False)
        for buyer in buyers:
            await rig.pay(buyer)
        await rig.until_counts(payments_sent=3)
    await rig.pool.execute(query("rollback-stuck-states"))
    assert await rig.counts() == {"payments_failed": 3}
    assert await rig.pool.fetchval("SELECT sum(reserved)::int8 FROM tokens") == 0
    if supply == "gone":
        await rig.pool.execute("UPDATE tokens SET max_mint_count = minted")
    await rig.chain.mine(1)
    await rig.chain.set_interval(1)
    async with rig.working():
        if supply == "there":
            await rig.until_counts(payments_completed=3, mints_completed=3)
        else:
            await rig.until_counts(payments_completed=3, mints_owed=3)
    await rig.check_invariants()
    assert await payfirst.kinds(first=0, code=0) == []


async def test_the_rollback_by_hand_under_running_workers_leaves_nothing_for_the_audit(
    rig: Rig, payfirst: Payfirst
) -> None:
    """The transfer still happens, so it is credited on evidence: failed becomes completed."""
    buyers = await rig.buyers(3)
    async with rig.working(audit_every_s=1):
        await rig.chain.set_automine(False)
        ids = [await rig.pay(buyer) for buyer in buyers]
        await rig.until_counts(payments_sent=3)
        await rig.pool.execute(query("rollback-stuck-states"))
        assert {(await rig.payment(i))["status"] for i in ids} == {"failed"}
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=3, mints_completed=3)
    await rig.check_invariants()
    assert await payfirst.kinds(first=0, code=0) == []


async def test_the_audit_on_schedule_repairs_what_a_running_system_meets(rig: Rig) -> None:
    """Nobody has to type anything; each repair is in the audit log."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(audit_every_s=1, final_depth=2):
        await rig.chain.send(rig.chain.usdc, transfer(buyer, buyer.authorize()))
        await rig.pool.execute("UPDATE tokens SET reserved = reserved + 4")

        async def repaired() -> bool:
            done = await rig.pool.fetch("SELECT DISTINCT action FROM audit_log WHERE actor = 'worker'")
            return {row["action"] for row in done} == {"money_owed", "reserved_corrected"}

        await rig.until(repaired)
    assert await rig.pool.fetchval("SELECT count(*) FROM owed") == 1
    assert await rig.pool.fetchval("SELECT audited_height > 0 FROM chain_heads")


async def test_a_debt_without_a_payment_closes_when_its_payment_is_credited_after_all(rig: Rig) -> None:
    """Nobody is given back what they were delivered for."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize()
    async with rig.working(settling_paused=True):
        response = await rig.order(buyer, 1, authorization=authorization)
    await rig.pool.execute(
        "INSERT INTO owed (direction, network, reason, asset, amount, beneficiary, authorization_nonce, tx_hash)"
        " SELECT 'to_buyer', network, 'money_without_payment', asset, amount, payer, authorization_nonce,"
        " '0x' || repeat('ab', 32) FROM payment_queue"
    )
    async with rig.working():
        await rig.until_counts(mints_completed=1)
    row = await rig.pool.fetchrow("SELECT status, note FROM owed")
    assert row is not None
    assert tuple(row) == ("resolved", f"credited to payment {uuid.UUID(response.json()['paymentQueueId'])}")


async def test_the_command_says_what_differs_what_it_means_and_what_a_repair_does(rig: Rig, payfirst: Payfirst) -> None:
    """In words and as JSON, each with its exit code."""
    async with rig.working():
        agree = await payfirst.run()
        assert (agree.exit_code, "Database and chain agree." in agree.stdout) == (0, True), agree.exception
    await rig.pool.execute("UPDATE tokens SET reserved = 5")
    said = await payfirst.run("--since", "30m")
    assert said.exit_code == 1, said.exception
    for words in ("1 × supply_reserved_differs", "reserved units are not those", "--repair: counts them again"):
        assert words in said.stdout
    done = await payfirst.run("--json", "--repair")
    assert done.exit_code == 0, done.exception
    document = json.loads(done.stdout)
    (finding,) = document["findings"]
    assert finding["kind"] == "supply_reserved_differs"
    assert finding["subject"] == checksum_address(rig.token)
    assert (document["exitCode"], document["repaired"]) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "soon"), "such as 1h"),
        (("--since", "1h", "--from-block", "3"), "not both"),
        ((), "no worker has read this chain yet"),
    ],
)
async def test_what_cannot_be_audited_is_said_in_a_sentence(
    payfirst: Payfirst, words: tuple[str, ...], said: str
) -> None:
    """An operator's errors end every command with exit code 2."""
    ended = await payfirst.run(*words)
    assert isinstance(ended.exception, OperatorError)
    assert said in str(ended.exception)
