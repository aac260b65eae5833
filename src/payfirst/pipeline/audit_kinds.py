"""The kinds of difference between database and chain: who acts on each, what it means, and what it takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from payfirst.units import BlockNumber


class Level(Enum):
    """Who acts on a difference; the number orders them."""

    NOTE = 0
    LATER = 1
    REPAIR = 2
    OPERATOR = 3


class Kind(StrEnum):
    """What differs. `KINDS` says what each means."""

    PAYMENT_NOT_CREDITED = "payment_not_credited"
    PAYMENT_STRANDED = "payment_stranded"
    PAYMENT_TERMS_DIFFER = "payment_terms_differ"
    PAYMENT_EVIDENCE_DIFFERS = "payment_evidence_differs"
    PAYMENT_EVIDENCE_GONE = "payment_evidence_gone"
    PAYMENT_UNITS_MISSING = "payment_units_missing"
    MONEY_WITHOUT_PAYMENT = "money_without_payment"
    MONEY_NOT_FINAL = "money_not_final"
    MONEY_DELIVERED = "money_delivered"
    MINT_NOT_MARKED = "mint_not_marked"
    MINT_NOT_FINAL = "mint_not_final"
    MINT_STRANDED = "mint_stranded"
    MINT_GONE = "mint_gone"
    MINT_WITHOUT_PAYMENT = "mint_without_payment"
    MINT_BY_OTHERS = "mint_by_others"
    TRANSACTION_UNKNOWN = "transaction_unknown"
    TRANSACTION_UNREAD = "transaction_unread"
    TRANSACTION_NOT_FOUND = "transaction_not_found"
    TRANSACTION_WAITING = "transaction_waiting"
    SIGNER_FENCED = "signer_fenced"
    SUPPLY_RESERVED_DIFFERS = "supply_reserved_differs"
    SUPPLY_MINTED_DIFFERS = "supply_minted_differs"


@dataclass(frozen=True, slots=True)
class Meaning:
    """Who acts, what it means, and what `--repair` (or time, or the operator) does about it."""

    level: Level
    meaning: str
    remedy: str


KINDS: Mapping[Kind, Meaning] = {
    Kind.PAYMENT_NOT_CREDITED: Meaning(
        Level.REPAIR,
        "the transfer is in the chain, and its payment is not completed",
        "completes it under that transfer, with its mints",
    ),
    Kind.PAYMENT_STRANDED: Meaning(
        Level.REPAIR,
        "a payment is sent, and no unresolved transaction carries it",
        "returns it to the queue: an authorization can be used once only",
    ),
    Kind.PAYMENT_TERMS_DIFFER: Meaning(
        Level.OPERATOR,
        "its authorization was used for another amount or payTo than the payment's",
        "nothing: the payer signed two; decide whether to give the money back",
    ),
    Kind.PAYMENT_EVIDENCE_DIFFERS: Meaning(
        Level.OPERATOR,
        "a completed payment names another transfer than the chain holds",
        "nothing: a row was changed by hand, or the chain left a final block",
    ),
    Kind.PAYMENT_EVIDENCE_GONE: Meaning(
        Level.OPERATOR,
        "a completed payment names a transfer that the chain does not hold",
        "nothing: a row was changed by hand, or the chain left a final block",
    ),
    Kind.PAYMENT_UNITS_MISSING: Meaning(
        Level.OPERATOR,
        "a completed payment has not all its mint rows",
        "nothing: the tables came from a damaged copy; restore a whole one",
    ),
    Kind.MONEY_WITHOUT_PAYMENT: Meaning(
        Level.REPAIR,
        "money came to payTo by an authorization that no payment holds",
        "names it in owed, to its payer",
    ),
    Kind.MONEY_NOT_FINAL: Meaning(
        Level.LATER,
        "the same, in a block that a reorg could still take",
        "the next audit names it in owed once the block is final",
    ),
    Kind.MONEY_DELIVERED: Meaning(
        Level.NOTE,
        "money came for a payment that the database has lost, and all it paid for has been minted",
        "nothing is owed",
    ),
    Kind.MINT_NOT_MARKED: Meaning(
        Level.REPAIR,
        "the token has minted a unit, and its row is not completed",
        "completes the unit under that transaction",
    ),
    Kind.MINT_NOT_FINAL: Meaning(
        Level.LATER,
        "the same, in a block that a reorg could still take",
        "the next audit completes it once the block is final",
    ),
    Kind.MINT_STRANDED: Meaning(
        Level.REPAIR,
        "a unit is sent, and no unresolved transaction carries it",
        "returns it to the queue: the token mints an id once only",
    ),
    Kind.MINT_GONE: Meaning(
        Level.OPERATOR,
        "a unit is completed, and its token does not hold its mint id",
        "nothing: a row was changed by hand, or the chain left a final block",
    ),
    Kind.MINT_WITHOUT_PAYMENT: Meaning(
        Level.OPERATOR,
        "a signer of ours minted an id of no payment that is known here",
        "nothing: audit the blocks before it too, and look whether the key is used elsewhere",
    ),
    Kind.MINT_BY_OTHERS: Meaning(
        Level.NOTE,
        "somebody else with the token's MINTER_ROLE minted an id of no payment",
        "nothing: it counts against the token's cap",
    ),
    Kind.TRANSACTION_UNKNOWN: Meaning(
        Level.REPAIR,
        "the chain holds a transaction of a signer that the database does not know",
        "adopts it, once it is final where a transaction of ours had that nonce: the nonce is never given again, and"
        " what it carried is judged by its logs",
    ),
    Kind.TRANSACTION_UNREAD: Meaning(
        Level.REPAIR,
        "a transaction is in a block that has been read, and its outcome is not in the database",
        "reads its receipt and applies it",
    ),
    Kind.TRANSACTION_NOT_FOUND: Meaning(
        Level.OPERATOR,
        "the chain has used an account nonce, and its transaction is not in the blocks that were looked through",
        "audit from an earlier block; where none can be found, replace the signer",
    ),
    Kind.TRANSACTION_WAITING: Meaning(
        Level.LATER,
        "a transaction of a signer waits in the node's pool, and the database does not know it",
        "it is adopted once it is mined",
    ),
    Kind.SIGNER_FENCED: Meaning(
        Level.LATER,
        "a signer signs nothing until all that was lost is adopted, read and judged",
        "a running worker ends the fence by itself",
    ),
    Kind.SUPPLY_RESERVED_DIFFERS: Meaning(
        Level.REPAIR,
        "a token's reserved units are not those that payments and mints hold",
        "counts them again",
    ),
    Kind.SUPPLY_MINTED_DIFFERS: Meaning(
        Level.OPERATOR,
        "more units are marked as minted than the token's contract counts",
        "nothing: check that network.rpc_urls serve the right chain",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: what, about what (an id, a hash, an address), and in this case."""

    kind: Kind
    subject: str
    sentence: str
    height: BlockNumber | None = None

    @property
    def level(self) -> Level:
        """Who acts."""
        return KINDS[self.kind].level


def exit_code(findings: Sequence[Finding], *, repaired: bool) -> int:
    """0: they agree (or do now); 1: differences that a repair or time ends; 2: an operator has to look."""
    levels = {f.level for f in findings}
    if Level.OPERATOR in levels:
        return 2
    open_levels = {Level.LATER} if repaired else {Level.LATER, Level.REPAIR}
    return 1 if levels & open_levels else 0


def table() -> str:
    """Every kind as a Markdown table, those first that need an operator."""
    who = {
        Level.OPERATOR: "2: an operator",
        Level.REPAIR: "1: `--repair`",
        Level.LATER: "1: time",
        Level.NOTE: "0: nobody",
    }
    rows = [
        f"| `{kind.value}` | {who[m.level]} | {m.meaning} | {m.remedy} |"
        for kind, m in sorted(KINDS.items(), key=lambda item: -item[1].level.value)
    ]
    return "\n".join(["| kind | exit code, who acts | it means | what happens |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())  # for docs/audit.md
