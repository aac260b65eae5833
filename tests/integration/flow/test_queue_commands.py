"""`payfirst payments|mints|owed` while real workers settle and mint: what the operator learns, and what they do."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from commands import run
from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.errors import PayfirstError
from payfirst.units import Wei, checksum_address, hex_text

from .rig import Rig, transfer

GWEI = 10**9
Typed: TypeAlias = "Callable[..., Awaitable[Answer]]"


@dataclass(frozen=True)
class Answer:
    """What a command leaves behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def environ(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What an operator's shell holds: where database and chain are, and no key."""
    mine = {"DATABASE_URL": rig.database_url, "PAYFIRST_NETWORK__RPC_URLS": rig.chain.url}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return mine


@pytest.fixture
def typed(environ: dict[str, str]) -> Typed:
    """A command with a loop of its own beside the workers'; a process of its own would cost a second each."""

    async def call(*words: object) -> Answer:
        done = await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in words])
        if done.exception is None or isinstance(done.exception, SystemExit):
            return Answer(done.exit_code, done.stdout, done.stderr)
        if isinstance(done.exception, PayfirstError):  # as `main` has it
            return Answer(2, done.stdout, str(done.exception))
        raise done.exception

    return call


async def told(typed: Typed, *words: object) -> Any:
    """What a command says in JSON."""
    done = await typed(*words, "--json")
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


async def nothing_is_mined(rig: Rig) -> None:
    """Transactions wait in the node's pool until `mining`."""
    await rig.chain.set_interval(0)
    await rig.chain.set_automine(False)


async def test_one_payments_story_is_told_by_any_of_its_names(rig: Rig, typed: Typed) -> None:
    """Its id, a unit's, a transaction's hash, or payer and nonce; and what is in none of them is one sentence."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(2)
    async with rig.working():
        accepted = await rig.order(buyer, 2, authorization=authorization)
        await rig.until_counts(payments_completed=1, mints_completed=2)
        payment_id = accepted.json()["paymentQueueId"]
        story = await told(typed, "payments", "show", payment_id)
        document = await rig.payment(uuid.UUID(payment_id))
        unit = document["mints"][0]  # type: ignore[index]  # JSON
        payer = checksum_address(buyer.address)
        names = [
            [unit["queueId"]],
            [document["txHash"]],
            [unit["txHash"]],
            [payer],
            [payer, "--nonce", hex_text(authorization.nonce)],
        ]
        for name in names:
            again = await told(typed, "payments", "show", *name)
            assert again["story"]["payment"]["id"] == payment_id, name
        assert (await told(typed, "mints", "show", unit["queueId"]))["story"]["payment"]["id"] == payment_id
    assert story["verdict"]["standing"] == "done"
    said = [event["what"] for event in story["timeline"]]
    steps = ("accepted at height", "transaction 1: to settle", "completed: Transfer in block", "unit 0, 1: minted in")
    places = [next(i for i, what in enumerate(said) if what.startswith(step)) for step in steps]
    assert places == sorted(places)
    assert [c["items"][0]["outcome"] for c in story["story"]["carriers"]] == ["done", "done"]
    nobody = await typed("payments", "show", uuid.UUID(int=1))
    assert (nobody.returncode, "no payment goes by" in nobody.stderr) == (2, True)
    garbage = await typed("payments", "show", "0x12")
    assert (garbage.returncode, "Traceback" in garbage.stderr) == (2, False)


async def test_why_a_payment_is_late_is_one_command_and_a_few_seconds(
    rig: Rig, environ: dict[str, str], tmp_path: Path
) -> None:
    """As an operator types it: the last two lines say why, and what to do."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        pass
    payment_id = await rig.pay(buyer)
    await rig.pool.execute("DELETE FROM processes WHERE role = 'worker'")
    began = time.monotonic()
    done = await asyncio.to_thread(run, "payments", "show", str(payment_id), cwd=tmp_path, **environ)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    why, following = done.stdout.rstrip().splitlines()[-2:]
    assert why.startswith("stuck: no worker is alive; the chain was last looked at ")
    assert following == "next: Start one: payfirst work (or payfirst up)."
    print(f"payfirst payments show took {seconds:.2f} s")
    assert seconds < 10


async def test_each_list_is_a_table_json_and_csv_in_pages(rig: Rig, typed: Typed) -> None:
    """The same rows in each form; the export holds every page."""
    buyers = await rig.buyers(3)
    async with rig.working():
        for buyer in buyers:
            await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=3, mints_completed=6)
    await rig.pool.execute(
        "INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)"
        " SELECT 'to_buyer', network, id, 0, 'token_cap_reached', asset, 10000, payer FROM payment_queue"
    )
    for kind, count in (("payments", 3), ("mints", 6), ("owed", 3)):
        everything = (await told(typed, kind, "list"))[kind]
        assert len(everything) == count
        first = await told(typed, kind, "list", "--limit", "2")
        rest = await told(typed, kind, "list", "--after", first["next"])
        assert [*first[kind], *rest[kind]] == everything
        assert rest["next"] is None
        table = (await typed(kind, "list", "--limit", "2")).stdout
        assert f"more: --after {first['next']}" in table
        export = (await typed(kind, "list", "--csv", *(["--all"] if kind != "owed" else []))).stdout
        lines = list(csv.DictReader(io.StringIO(export)))
        assert [line["id"] for line in lines] == [str(row["id"]) for row in everything]
    payer = checksum_address(buyers[1].address)
    for filters, count in (
        (("--payer", payer), 1), (("--token", checksum_address(rig.token)), 3), (("--token", payer), 0),
        (("--status", "completed", "--since", "1h"), 3), (("--status", "failed"), 0), (("--code", "sold_out"), 0),
        (("--since", "2090-01-01"), 0),
    ):  # fmt: skip
        assert len((await told(typed, "payments", "list", *filters))["payments"]) == count, filters
    assert len((await told(typed, "mints", "list", "--payer", payer))["mints"]) == 2
    whole = await typed("payments", "list", "--all")
    assert (whole.returncode, "goes with --csv" in whole.stderr) == (2, True)


async def test_a_held_payment_is_not_sent_and_a_released_one_is_at_once(rig: Rig, typed: Typed) -> None:
    """Others go through meanwhile; both acts are in its story, with who did them."""
    first, second = await rig.buyers(2)
    async with rig.working():
        pass
    held = await rig.pay(first)
    assert (await typed("payments", "hold", held, "--reason", "looks odd", "--actor", "ada")).returncode == 0
    async with rig.working():
        await rig.pay(second)
        await rig.until_counts(payments_pending=1, payments_completed=1, mints_completed=1)
        story = await told(typed, "payments", "show", held)
        assert story["verdict"]["why"].startswith("held by an operator: looks odd")
        (row,) = (await told(typed, "payments", "list", "--held"))["payments"]
        assert (row["id"], row["heldReason"]) == (str(held), "looks odd")
        assert (await typed("payments", "release", held)).returncode == 0
        assert "was not held" in (await typed("payments", "release", held)).stdout
        await rig.until_counts(payments_completed=2, mints_completed=2)
    entries = (await told(typed, "payments", "show", held))["story"]["entries"]
    assert [e["action"] for e in entries] == ["payments.hold", "payments.release"]
    assert (entries[0]["actor"], "@" in entries[1]["actor"]) == ("ada", True)
    await rig.check_invariants()


async def test_money_that_comes_for_a_held_payment_is_credited_and_its_units_wait(rig: Rig, typed: Typed) -> None:
    """Evidence counts whatever is held; the units are minted on release."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(2)
    async with rig.working():
        pass
    accepted = await rig.order(buyer, 2, authorization=authorization)
    held = accepted.json()["paymentQueueId"]
    await typed("payments", "hold", held, "--reason", "looks odd")
    await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_pending=2)
        story = await told(typed, "payments", "show", held)
        assert "2 of 2 units are not minted yet: held by an operator" in story["verdict"]["why"]
        retried = await typed("mints", "retry", story["story"]["units"][0]["id"])
        assert (retried.returncode, "it is held" in retried.stdout) == (1, True)
        assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0
        await typed("payments", "release", held)
        await rig.until_counts(mints_completed=2)
        done = await typed("payments", "hold", held, "--reason", "too late")
        assert (done.returncode, "its units that are not sent yet" in done.stdout) == (0, True)  # until it is final
    await rig.check_invariants()


async def test_a_held_unit_is_left_out_of_its_batch(rig: Rig, typed: Typed) -> None:
    """The other unit of the same payment is minted."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        pass
    payment_id = await rig.pay(buyer, 2)
    async with rig.working(mint_unresolved_max=0):
        await rig.until_counts(mints_pending=2)
        (unit, _) = (await told(typed, "mints", "list", "--payment", payment_id))["mints"]
        assert (await typed("payments", "hold", unit["id"], "--reason", "this one")).returncode == 0
    async with rig.working():
        await rig.until_counts(mints_pending=1, mints_completed=1)
        await typed("payments", "release", unit["id"])
        await rig.until_counts(mints_completed=2)
    await rig.check_invariants()


async def test_a_held_payment_expires_as_any_other(rig: Rig, typed: Typed) -> None:
    """Its authorization ends at depth, whoever holds it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await nothing_is_mined(rig)
        head = await rig.chain.rpc.head()
        await rig.pool.execute("UPDATE signers SET paused_reason = 'until the hold is there'")
        accepted = await rig.order(buyer, authorization=buyer.authorize(seconds=300, chain_time=head.time))
        held = accepted.json()["paymentQueueId"]
        await typed("payments", "hold", held, "--reason", "looks odd")
        await rig.pool.execute("UPDATE signers SET paused_reason = NULL")
        await rig.chain.rpc.call("evm_increaseTime", 400, result=object)
        await rig.chain.mine(2)
        await rig.until_counts(payments_failed=1)
    story = await told(typed, "payments", "show", held)
    assert story["verdict"]["why"].startswith("invalid_exact_evm_payload_authorization_valid_before")
    await rig.check_invariants()


async def test_what_was_never_sent_is_failed_gives_supply_back_and_stays_watched(rig: Rig, typed: Typed) -> None:
    """Its buyer reads why; money that comes all the same is credited and minted."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(2)
    async with rig.working():
        pass
    accepted = await rig.order(buyer, 2, authorization=authorization)
    payment_id = accepted.json()["paymentQueueId"]
    await rig.pool.execute("UPDATE payment_queue SET supply_reserved = true")
    await rig.pool.execute("UPDATE tokens SET reserved = 2")
    failed = await typed("payments", "fail", payment_id, "--reason", "out of stock", "--actor", "ada")
    assert failed.returncode == 0, failed.stderr
    document = await rig.payment(uuid.UUID(payment_id))
    assert document["error"] == {
        "code": "failed_by_operator",
        "message": "The seller cancelled this order before it was sent: out of stock",
    }
    assert await rig.pool.fetchval("SELECT reserved FROM tokens") == 0
    again = await typed("payments", "fail", payment_id, "--reason", "out of stock")
    assert (again.returncode, "it has failed already" in again.stdout) == (1, True)
    await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_completed=2)
    await rig.check_invariants()


async def test_what_could_still_be_mined_is_not_failed(rig: Rig, typed: Typed) -> None:
    """Not what is sent; and not what came back from a block that a reorg could undo."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await nothing_is_mined(rig)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        sent = await typed("payments", "fail", payment_id, "--reason", "too slow")
        assert (sent.returncode, "its signed transaction is out" in sent.stdout) == (1, True)
        await rig.pool.execute("UPDATE payment_queue SET status = 'pending', tx_hash = NULL, held_reason = 'by a test'")
        out = await typed("payments", "fail", payment_id, "--reason", "too slow")
        assert (out.returncode, "may still carry it into a block" in out.stdout) == (1, True)
        await rig.pool.execute("UPDATE chain_transactions SET state = 'confirmed', mined_block = 9")
        mined = await typed("payments", "fail", payment_id, "--reason", "too slow")
        assert (mined.returncode, "mined in block 9, which is not final yet" in mined.stdout) == (1, True)
        await rig.pool.execute("UPDATE chain_transactions SET state = 'sent', mined_block = NULL")
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=1)


async def test_what_a_node_forgot_is_sent_again_without_a_worker(rig: Rig, typed: Typed) -> None:
    """The stored bytes, by a command that holds no key; nothing else is made."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await nothing_is_mined(rig)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
    await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
    stuck = await rig.pool.fetchval("SELECT tx_hash FROM payment_queue")
    (reset,) = await told(typed, "payments", "reset-stuck", payment_id)
    assert any("no node has it (any more)" in found for found in reset["found"])
    assert "its authorization is unused" in reset["found"]
    assert reset["did"] == [f"sent the stored bytes of nonce 0 again ({stuck})"]
    await rig.chain.set_interval(1)
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_completed=1)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts WHERE hash = $1", stuck) == 1
    assert await rig.pool.fetchval("SELECT action FROM audit_log") == "payments.reset-stuck"
    again = (await told(typed, "payments", "reset-stuck", payment_id))[0]
    assert (again["did"], "there is nothing to reset" in again["found"][0]) == ([], True)
    await rig.check_invariants()


async def test_a_replacement_is_asked_for_and_made_by_the_worker_that_holds_the_signer(rig: Rig, typed: Typed) -> None:
    """Other bytes for the same account nonce at a higher fee, within seconds, long before the worker's own patience."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(replace_after_s=10_000, abandon_after_s=20_000):
        await nothing_is_mined(rig)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        (reset,) = await told(typed, "payments", "reset-stuck", payment_id)
        assert any("no block takes it" in found for found in reset["found"])
        assert any("the worker sent the same call at" in did for did in reset["did"]), reset
        fees = await rig.pool.fetch("SELECT max_fee_per_gas_wei AS fee FROM chain_attempts ORDER BY created_at")
        assert len(fees) == 2
        assert fees[1]["fee"] * 8 >= fees[0]["fee"] * 9
        assert await rig.pool.fetchval("SELECT bool_and(replace_requested_at IS NULL) FROM chain_transactions")
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE purpose = 'settle'") == 1
    await rig.check_invariants()


async def test_a_wish_for_a_replacement_outlives_the_worker_it_was_made_to(rig: Rig, typed: Typed) -> None:
    """No worker runs: the operator is told so, and the next one fulfils it under the same nonce."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await nothing_is_mined(rig)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
    (reset,) = await told(typed, "payments", "reset-stuck", payment_id)
    assert any("No worker holds its signer" in advice for advice in reset["advice"])
    assert any("the wish stays" in did for did in reset["did"])
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 1
    async with rig.working(replace_after_s=10_000, abandon_after_s=20_000):

        async def replaced() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) = 2 FROM chain_attempts"))

        await rig.until(replaced)
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    await rig.check_invariants()


async def test_the_nonce_before_a_stuck_one_is_what_is_looked_after(rig: Rig, typed: Typed) -> None:
    """`stuck` and `show` name it, `--all` has it replaced, and the second keeps its bytes."""
    first, second = await rig.buyers(2)
    async with rig.working(settle_mode="single", replace_after_s=10_000, abandon_after_s=20_000):
        await nothing_is_mined(rig)
        await rig.pay(first)
        await rig.until_counts(payments_sent=1)
        late = await rig.pay(second)
        await rig.until_counts(payments_sent=2)
        nothing = await typed("payments", "stuck")
        assert "nothing has been in `sent` for over five minutes" in nothing.stdout
        await rig.pool.execute("UPDATE payment_queue SET processed_at = now() - interval '6 minutes'")
        await rig.pool.execute("UPDATE chain_transactions SET created_at = now() - interval '6 minutes'")
        rows = await told(typed, "payments", "stuck")
        why = {row["id"]: row for row in rows}[str(late)]
        assert (why["standing"], "nonce 0 of the same signer, before its own 1" in why["why"]) == ("stuck", True)
        lines = list(csv.DictReader(io.StringIO((await typed("payments", "stuck", "--csv")).stdout)))
        assert len(rows) == 2
        assert {line["id"] for line in lines} == {row["id"] for row in rows}
        resets = {r["paymentId"]: r for r in await told(typed, "payments", "reset-stuck", "--all")}
        assert any("nonce 1 waits for nonce 0" in found for found in resets[str(late)]["found"])
        assert any("the worker sent the same call" in did for did in resets[str(late)]["did"])
        counts = await rig.pool.fetch(
            "SELECT t.account_nonce, count(*) FROM chain_transactions t JOIN chain_attempts a"
            " ON a.transaction_id = t.id GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in counts] == [(0, 2), (1, 1)]
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=2, mints_completed=2)
    await rig.check_invariants()


async def test_what_waits_for_the_base_fee_says_so(rig: Rig, typed: Typed) -> None:
    """Told from what the workers stored of the head; nothing is sent, no nonce is spent."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await nothing_is_mined(rig)
        await rig.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(60 * GWEI), result=object)
        await rig.chain.mine()

        async def seen() -> bool:
            return bool(await rig.pool.fetchval("SELECT base_fee_wei FROM chain_heads") == 60 * GWEI)

        await rig.until(seen)
        payment_id = await rig.pay(buyer)
        story = await told(typed, "payments", "show", payment_id)
        assert "it waits for the base fee: 60 gwei now, network.max_fee_gwei is 50" in story["verdict"]["why"]
        (reset,) = await told(typed, "payments", "reset-stuck", payment_id)
        assert (reset["did"], "there is nothing to reset" in reset["found"][0]) == ([], True)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0


async def test_a_bid_below_the_base_fee_at_the_cap_stays_and_the_wish_too(rig: Rig, typed: Typed) -> None:
    """The cap is the operator's own word: the worker does not go above it, and the report says that it has not."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(max_fee=Wei(2 * GWEI), replace_after_s=10_000, abandon_after_s=20_000):
        await nothing_is_mined(rig)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        await rig.pool.execute("UPDATE chain_attempts SET max_fee_per_gas_wei = $1", 2 * GWEI)
        (reset,) = await told(typed, "payments", "reset-stuck", payment_id, "--wait", "3")
        assert any("no worker has made the replacement yet" in did for did in reset["did"])
        assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 1
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    # Once it is mined the wish is void, also if a reorg should bring the transaction back.
    assert await rig.pool.fetchval("SELECT bool_and(replace_requested_at IS NULL) FROM chain_transactions")


async def test_an_owed_unit_is_minted_once_there_is_supply_again(rig: Rig, typed: Typed) -> None:
    """Not before; its debt is closed by the delivery."""
    buyer, other = await rig.buyers(2)
    authorization = buyer.authorize()
    async with rig.working():
        pass
    await rig.order(buyer, authorization=authorization)
    # Everything is promised to another by the time its money comes without having been sent by us.
    promised = await rig.pay(other)
    await rig.pool.execute(
        "UPDATE payment_queue p SET quantity = t.max_mint_count, supply_reserved = true, held_reason = 'the other'"
        " FROM tokens t WHERE p.id = $1",
        promised,
    )
    await rig.pool.execute("UPDATE tokens SET reserved = max_mint_count::bigint")
    await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_owed=1)
        (debt,) = (await told(typed, "owed", "list"))["owed"]
        unit = (await told(typed, "mints", "list", "--status", "owed"))["mints"][0]["id"]
        refused = await typed("mints", "retry", unit)
        assert (refused.returncode, "none is left of 1000000" in refused.stdout) == (1, True)
        story = await told(typed, "payments", "show", unit)
        assert f"payfirst mints retry {unit}" in story["verdict"]["next"]
        await rig.pool.execute("UPDATE payment_queue SET status = 'failed' WHERE id = $1", promised)
        retried = await typed("mints", "retry", unit)
        assert retried.returncode == 0, retried.stdout
        await rig.until_counts(mints_completed=1)
        again = await typed("mints", "retry", unit)
        assert (again.returncode, "it is minted" in again.stdout) == (1, True)
    assert (await told(typed, "owed", "list"))["owed"] == []
    (row,) = (await told(typed, "owed", "list", "--status", "all"))["owed"]
    assert (row["id"], row["status"], row["resolution"]) == (debt["id"], "resolved", "tried_again")
    await rig.check_invariants()


async def test_a_unit_that_waits_for_its_next_try_is_tried_at_once(rig: Rig, typed: Typed) -> None:
    """The back-off ends by command."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(mint_unresolved_max=0):
        await rig.pay(buyer)
        await rig.until_counts(mints_pending=1)
    await rig.pool.execute(
        "UPDATE mint_queue SET next_attempt_at = now() + interval '1 hour', attempts = 1, error = 'the token naps'"
    )
    async with rig.working():
        await rig.until_a_worker_lives()
        story = await told(typed, "payments", "show", checksum_address(buyer.address))
        assert story["verdict"]["why"].endswith("postponed after 1 tries: the token naps")
        assert story["verdict"]["next"].startswith("It is tried again in ")
        unit = story["story"]["units"][0]["id"]
        assert (await typed("mints", "retry", unit)).returncode == 0
        await rig.until_counts(mints_completed=1)
    await rig.check_invariants()


async def test_a_hold_that_comes_while_a_batch_is_made_keeps_it_from_being_sent(rig: Rig, typed: Typed) -> None:
    """What had claimed it loses the claim; the batch goes without it."""
    buyers = await rig.buyers(3)
    async with rig.working():
        pass
    ids = [await rig.pay(buyer) for buyer in buyers]
    owner = "0x" + "ee" * 20
    await rig.pool.execute(
        "UPDATE payment_queue SET lease_owner = $1, lease_epoch = 1, lease_until = now() + interval '1 hour'", owner
    )
    assert (await typed("payments", "hold", ids[0], "--reason", "stop")).returncode == 0
    rows = await rig.pool.fetch("SELECT id, lease_owner FROM payment_queue ORDER BY id")
    assert {row["id"]: row["lease_owner"] for row in rows} == {ids[0]: None, ids[1]: owner, ids[2]: owner}
