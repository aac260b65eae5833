"""Whether everything adds up. Pure: `ledger` reads, this judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payfirst.local.demo.accounts import BUYER_FUNDS
from payfirst.local.demo.ledger import InDatabase, OnChain, QueryResult
from payfirst.local.demo.outcome import Outcome

FAULTS_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold, and what was found."""

    promise: str
    holds: bool
    found: str


def judge(
    *,
    official: Outcome,
    bad: Outcome,
    burst: Outcome,
    refused_by_api: int,
    empty_accounts: int,
    database: InDatabase,
    chain: OnChain,
    queries: Sequence[QueryResult],
) -> list[Check]:
    """Everything that has to hold after a run."""
    return [
        *_answers(official, bad, burst, refused_by_api),
        *_payments(official, bad, burst, empty_accounts, database),
        *_against_the_chain(database, chain),
        *(_query(result, database) for result in queries),
    ]


def _answers(official: Outcome, bad: Outcome, burst: Outcome, refused_by_api: int) -> list[Check]:
    rejected = official.rejected + bad.rejected + burst.rejected
    return [
        _no_faults("the official client's purchases were accepted, and each was followed to its mints", official),
        _no_faults("bad payments were refused with the protocol's code, replays gave the same payment", bad),
        _no_faults("every payment of the burst was accepted", burst),
        Check("clients and API count the same refusals", rejected == refused_by_api, f"{rejected} = {refused_by_api}"),
    ]


def _no_faults(promise: str, outcome: Outcome) -> Check:
    shown = [*outcome.faults[:FAULTS_SHOWN_MAX]]
    if len(outcome.faults) > FAULTS_SHOWN_MAX:
        shown.append(f"and {len(outcome.faults) - FAULTS_SHOWN_MAX} more")
    return Check(promise, not outcome.faults, "; ".join(shown) or f"{outcome.accepted} accepted")


def _payments(
    official: Outcome, bad: Outcome, burst: Outcome, empty_accounts: int, database: InDatabase
) -> list[Check]:
    accepted = official.accepted + bad.accepted + burst.accepted
    rows = sum(database.payments.values())
    minted = database.mints.get("completed", 0)
    open_payments = {s: n for s, n in database.payments.items() if s not in ("completed", "failed")}
    open_mints = {s: n for s, n in database.mints.items() if s != "completed"}
    empty_ok = database.empty_payments == {"failed": empty_accounts} and database.empty_mints == 0
    return [
        Check("one row for each 202: bad payments left none, replays made none", rows == accepted, f"{rows} rows"),
        Check("no row of a payer whose payments were all bad", database.bad_rows == 0, f"{database.bad_rows} rows"),
        Check("every payment ended completed or failed", not open_payments, _counts(database.payments)),
        Check(
            "payments of empty accounts failed, without a mint; no other payment failed",
            empty_ok and database.payments.get("failed", 0) == empty_accounts,
            f"{_counts(database.empty_payments)}, {database.empty_mints} mints",
        ),
        Check("every paid unit is minted", not open_mints, _counts(database.mints)),
        Check("minted ≤ paid", minted <= database.paid_units, f"{minted} minted, {database.paid_units} paid"),
        Check("no mint of an unconfirmed payment", database.unconfirmed_mints == 0, str(database.unconfirmed_mints)),
        Check("nothing is owed", database.owed == 0, f"{database.owed} rows"),
    ]


def _against_the_chain(database: InDatabase, chain: OnChain) -> list[Check]:
    minted = database.mints.get("completed", 0)
    distinct = set(chain.mint_ids)
    wrong = [
        a for a, held in chain.holdings.items() if held != database.units_by_recipient.get(a, 0) * chain.mint_amount
    ]
    nonces_ok = {a: n for a, n in chain.account_nonces.items() if n} == database.transactions
    return [
        Check(
            "the chain minted once for each mint id, and exactly those of the database",
            len(distinct) == len(chain.mint_ids) and distinct == database.mint_ids,
            f"{len(chain.mint_ids)} mints, {len(distinct)} ids, {len(distinct ^ database.mint_ids)} differ",
        ),
        Check("the token's mintCount is the completed mints", chain.mint_count == minted, str(chain.mint_count)),
        Check(
            "the token's supply is the completed mints × mintAmount",
            chain.total_supply == minted * chain.mint_amount,
            str(chain.total_supply),
        ),
        Check(
            "payTo's balance is the sum of completed payments",
            chain.pay_to_balance == database.paid_amount,
            f"{chain.pay_to_balance} = {database.paid_amount} atomic units",
        ),
        Check(
            "each buyer holds exactly the units paid for",
            not wrong and set(database.units_by_recipient) <= set(chain.holdings),
            f"{len(chain.holdings)} wallets, {len(wrong)} wrong",
        ),
        Check("the bad buyer's money did not move", chain.bad_buyer_funds == BUYER_FUNDS, str(chain.bad_buyer_funds)),
        Check(
            "the signers' account nonces are the transactions stored, all resolved",
            nonces_ok and database.unresolved == 0,
            f"{sum(chain.account_nonces.values())} = {sum(database.transactions.values())},"
            f" {database.unresolved} unresolved",
        ),
    ]


def _query(result: QueryResult, database: InDatabase) -> Check:
    """Each operators' query gives what its first line says is expected."""
    return Check(
        f"{result.name}.sql gives what is expected", _is_expected(result, database), f"{len(result.rows)} rows"
    )


def _is_expected(result: QueryResult, database: InDatabase) -> bool:
    match result.name:
        case "queue-status":
            return _as_counts(result) == {s: n for s, n in database.payments.items() if n}
        case "mints-by-payment-status":
            return all((n > 0) == (status == "completed") for status, n in _as_counts(result).items())
        case "mints-by-payment-status-exact":
            expected = {s: database.paid_units if s == "completed" else 0 for s in database.payments}
            return _as_counts(result) == expected
        case "unpaid-mints":
            return result.rows == (("0",),)
        case _:
            return not result.rows


def _as_counts(result: QueryResult) -> dict[str, int]:
    return {row[0]: int(row[1]) for row in result.rows}


def _counts(by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in sorted(by_status.items())) or "none"
