"""Every UPDATE of a status does what the one table of transitions allows, and says what it expects."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import payfirst.store
from payfirst import lifecycle
from payfirst.lifecycle import (
    FINALITY,
    MINT,
    PAYMENT,
    REFUND,
    TRANSACTION,
    IllegalTransition,
    PaymentEvent,
    PaymentStatus,
    next_payment,
)

TABLES = {
    ("payment_queue", "status"): {(a.value, b.value) for (a, _), b in PAYMENT.items()},
    ("payment_queue", "finality"): {(a.value, b.value) for (a, _), b in FINALITY.items()},
    ("mint_queue", "status"): {(a.value, b.value) for (a, _), b in MINT.items()},
    ("chain_transactions", "state"): {(a.value, b.value) for (a, _), b in TRANSACTION.items()},
    ("refunds", "status"): {(a.value, b.value) for (a, _), b in REFUND.items()},
}
OF_STATUSES = sorted({table for table, _ in TABLES})


def statements() -> Iterator[tuple[str, str]]:
    """Every SQL constant of the store, by name."""
    for module in pkgutil.iter_modules(payfirst.store.__path__):
        if module.ispkg or module.name == "migrations":
            continue
        loaded = importlib.import_module(f"payfirst.store.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and isinstance(value, str) and re.search(r"\b(UPDATE|INSERT|SELECT|DELETE)\b", value):
                yield f"{module.name}.{name}", value


def moves() -> list[tuple[str, str, str, frozenset[str], str]]:
    """(statement, table, column, old values it expects, new value) of every status that a statement writes."""
    found = []
    for name, sql in statements():
        for update in re.finditer(
            r"UPDATE (payment_queue|mint_queue|chain_transactions|refunds)\b(.*)", sql, re.DOTALL
        ):
            table, rest = update.group(1), update.group(2)
            assignments, _, conditions = rest.partition("WHERE")
            for column in ("status", "finality", "state"):
                new = re.search(rf"\b{column} = '(\w+)'", assignments)
                if new is None or (table, column) not in TABLES:
                    continue
                if (name, column) == ("crediting.MARK_COMPLETED", "finality"):
                    continue  # no transition: a payment's finality begins here
                expected = set(re.findall(rf"\b{column} = '(\w+)'", conditions))
                lists = re.findall(rf"\b(?:{column}|expected) IN \(([^)]*)\)", conditions)
                lists += re.findall(rf"\bARRAY\[([^]]*)\] AS {column}_before\b", rest)  # kept from the planner
                for several in lists:
                    expected |= set(re.findall(r"'(\w+)'", several))
                found.append((name, table, column, frozenset(expected), new.group(1)))
    return found


def test_the_store_moves_statuses_at_all() -> None:
    """The search below finds the statements that it is meant to judge."""
    assert {"settling.MARK_SENT", "crediting.MARK_COMPLETED", "mints.MARK_MINTED"} <= {m[0] for m in moves()}


@pytest.mark.parametrize("move", moves(), ids=lambda m: f"{m[0]} {m[2]}")
def test_every_update_states_old_statuses_that_may_become_the_new_one(
    move: tuple[str, str, str, frozenset[str], str],
) -> None:
    """Each pair of old and new value stands in the table."""
    name, table, column, before, after = move
    assert before, f"{name} does not say which {column} it expects"
    assert {(old, after) for old in before} <= TABLES[table, column], name


def test_every_status_in_the_tables_is_reached_by_a_statement_or_an_operator() -> None:
    """No transition is only on paper, but for those that the next releases bring."""
    written = {(table, column, old, new) for _, table, column, before, new in moves() for old in before}
    declared = {(table, column, old, new) for (table, column), pairs in TABLES.items() for old, new in pairs}
    by_hand_or_later = {
        ("payment_queue", "status", "sent", "failed"),  # the seed's rollback SQL
    }
    assert declared - written == by_hand_or_later


def test_statements_have_their_name_and_reason_above_them() -> None:
    """SQL is named and explained where it stands."""
    for module in pkgutil.iter_modules(payfirst.store.__path__):
        if module.ispkg:
            continue
        loaded = importlib.import_module(f"payfirst.store.{module.name}")
        source = Path(str(loaded.__file__)).read_text(encoding="utf-8")
        for name in re.findall(r"^([A-Z][A-Z_]+) = (?:f?\"\"\"|\(?\n?\s*\")", source, re.MULTILINE):
            if name.lower() in ("payments", "mints", "status"):
                continue  # channel names
            assert f"# {name.lower()}: " in source, f"{module.name}.{name}"


@given(st.sampled_from(PaymentStatus), st.sampled_from(PaymentEvent))
def test_an_absent_pair_raises(status: PaymentStatus, event: PaymentEvent) -> None:
    """What the table does not hold cannot happen."""
    if (status, event) in PAYMENT:
        assert next_payment(status, event) is PAYMENT[status, event]
    else:
        with pytest.raises(IllegalTransition, match=f"a {status} payment"):
            next_payment(status, event)


def test_the_diagram_shows_every_transition() -> None:
    """ARCHITECTURE.md is drawn from the tables."""
    drawn = lifecycle.mermaid()
    for (before, event), after in {**PAYMENT}.items():
        assert f"    {before} --> {after}: {event}" in drawn
