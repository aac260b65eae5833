"""The groups of commands (`payfirst tokens …`), each imported when one of its commands is asked for.

Together they import what talks to chains, signs and encodes calls, which takes longer than what most commands do; and
an API process, which is started by this command too, would keep all of it in memory.
"""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from typing import Any, Final

import typer
from typer.core import TyperGroup

# By the group's name: the module beside this one that holds its commands as `app`, and what the group is.
GROUPS: Final[dict[str, tuple[str, str]]] = {
    "db": ("db", "The database's tables."),
    "tokens": ("tokens", "What is for sale."),
    "signers": ("signers", "The keys that settle, mint and refund."),
    "payments": ("payments", "Payments: list, learn why one is late, hold, release, reset."),
    "mints": ("mints", "The units that payments have paid for: list, show, try again."),
    "owed": ("owed", "Debts: to buyers for what could not be delivered, to the seller."),
    "settings": ("live_settings", "Settings that a running system takes up within seconds."),
    "refunds": ("refunds", "What buyers are given back of what could not be minted."),
    "wallets": ("wallets", "Payers that are set apart for a while: their accounts' code burned gas."),
}


class _Later(TyperGroup):
    """One of them, without commands until they are asked for."""

    _imported: MutableMapping[str, Any] | None = None

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """Its commands by name, which imports them."""
        if self._imported is None:
            module = importlib.import_module(f"payfirst.cli.{GROUPS[self.name or ''][0]}")
            self._imported = typer.main.get_group(module.app).commands
        return self._imported

    @commands.setter
    def commands(self, none: MutableMapping[str, Any]) -> None:
        """Typer hands over those that were registered here: none, as each stands in its module."""


def add_to(app: typer.Typer) -> None:
    """Add every group to the command."""
    for name, (_, is_what) in GROUPS.items():
        app.add_typer(typer.Typer(name=name, help=is_what, cls=_Later, no_args_is_help=True))
