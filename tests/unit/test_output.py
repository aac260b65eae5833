"""What commands print: for people, for programs, and never what a contract's words make of it."""

from __future__ import annotations

import datetime as dt
import getpass
import uuid
from decimal import Decimal

import pytest

from payfirst.cli import output
from payfirst.errors import OperatorError
from payfirst.lifecycle import PaymentStatus


def test_values_are_what_json_knows() -> None:
    """Names in camelCase, times in UTC, amounts and ids as text."""
    at = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    row = {"created_at": at, "amount": Decimal(10**30), "id": uuid.UUID(int=1), "status": PaymentStatus.SENT, "n": None}
    assert output.plain_value([row]) == [
        {
            "createdAt": "2026-01-31T12:00:00.000Z",
            "amount": "1" + "0" * 30,
            "id": str(uuid.UUID(int=1)),
            "status": "sent",
            "n": None,
        }
    ]


@pytest.mark.parametrize("word", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Reverts carry words that a contract chose; a spreadsheet would run some of them."""
    output.CsvWriter(("error",)).write([{"error": word}, {"error": "plain, and quoted"}])
    assert capsys.readouterr().out == f'error\r\n\'{word}\r\n"plain, and quoted"\r\n'


def test_no_value_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by control characters nor by markup."""
    output.print_table(("what",), [("\x1b[2J[bold]gone\n",)])
    output.say("\x1b]0;title [red]x[/red]")
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\\x1b[2J[bold]gone\\n" in said
    assert "[red]x[/red]" in said


def test_since_is_a_span_or_a_time() -> None:
    """UTC where no zone is said; anything else is refused in one sentence."""
    now = dt.datetime.now(dt.UTC)
    ago = output.moment("2h")
    assert ago is not None
    assert abs((now - ago).total_seconds() - 7_200) < 60
    assert output.moment("2026-01-31T12:00") == dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    assert output.moment(None) is None
    with pytest.raises(OperatorError, match="--since takes"):
        output.moment("yesterday")


def test_the_actor_is_the_operating_systems_user_or_whoever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for an account without a name, as containers have."""
    assert output.actor(" ada ") == "ada"
    with pytest.raises(OperatorError):
        output.actor(" ")
    assert "@" in output.actor(None)

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert output.actor(None).startswith("uid ")
