"""What `payfirst buy` shows: each step on standard error, how each purchase ended on standard output."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from payfirst.client import (
    Accepted,
    Ended,
    Offered,
    Payment,
    Progress,
    Purchase,
    Signed,
    Step,
    StillUnderWay,
    Stopped,
    Waiting,
)
from payfirst.client.answers import plain
from payfirst.errors import PayfirstError
from payfirst.units import AtomicAmount, checksum_address, format_units, hex_text
from payfirst.x402.networks import network_from_text

RESUME = "payfirst buy --resume goes on with it, by the same payment."


class View:
    """Shows steps as they come. A context manager."""

    def __init__(self, *, as_json: bool, many: bool) -> None:
        self.outcomes: list[str] = []
        self._as_json = as_json
        self._many = many
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._began = time.monotonic()
        self._last: Purchase | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("going on" if self._many else "asking for the price")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
        if self._many and not self.outcomes and kind is None and not self._as_json:
            typer.echo("Nothing is unfinished.")

    def show(self, step: Step) -> None:
        """One step."""
        match step:
            case Offered(terms):
                price = format_units(terms.amount, decimals=terms.asset.decimals)
                name = terms.asset.network.name or terms.asset.network.caip2
                payee = checksum_address(terms.pay_to)
                self._note(None, f"offered for {price} {plain(terms.asset.name)} on {name}, to {payee}", "signing")
            case Signed(purchase):
                self._note(purchase, "signed, and kept: it is paid once, whatever happens now", "sending the payment")
            case Accepted(purchase):
                self._note(purchase, f"accepted as {purchase.payment_id}", "waiting until it is settled")
            case Progress(purchase, payment):
                self._note(purchase, _words(payment), _awaited(payment))
            case Waiting(reason, after_s, purchase):
                self._note(purchase, f"{reason}; again in {after_s:.1f} s", "waiting to send the same again")
            case Ended(purchase, outcome, error):
                self._end(purchase, outcome.value, error)
            case Stopped(purchase, error):
                self._end(purchase, "unknown", error)

    def still_under_way(self, error: StillUnderWay) -> None:
        """The patience is over."""
        self._end(self._last, "unknown", error)

    def nothing_signed(self, error: PayfirstError) -> None:
        """The error is the caller's to show; programs read it here too."""
        if self._as_json:
            typer.echo(json.dumps({"outcome": "not_signed", "error": _error(error, None)}))

    def interrupted(self) -> None:
        """Ctrl-C."""
        self._note(self._last, f"stopped. {RESUME}" if self._last else "stopped; nothing was signed", "")

    def _note(self, purchase: Purchase | None, words: str, awaited: str) -> None:
        self._last = purchase or self._last
        line = f"{time.monotonic() - self._began:6.1f} s  {self._label(purchase)}{words}"
        self._console.print(line, markup=False, soft_wrap=True)
        if self._status is not None and not self._many:
            self._status.update(Text(awaited))

    def _label(self, purchase: Purchase | None) -> str:
        if not self._many or purchase is None:
            return ""
        order = purchase.order
        return f"{purchase.reference or f'{order.quantity} of {checksum_address(order.token)[:10]}…'}: "

    def _end(self, purchase: Purchase | None, outcome: str, error: PayfirstError | None) -> None:
        self.outcomes.append(outcome)
        if self._as_json:
            typer.echo(json.dumps(_document(purchase, outcome, error)))
            return
        if self._status is not None:
            self._status.stop()
        paid = "" if purchase is None else _summary(purchase)
        if error is None:
            typer.echo(f"{self._label(purchase)}Minted: {paid}")
        else:
            more = f" {RESUME}" if outcome == "unknown" else ""
            typer.echo(f"{self._label(purchase)}Not minted: {paid} {error}{more}")
        if self._status is not None and self._many:
            self._status.start()


def _words(payment: Payment) -> str:
    match payment.status:
        case "pending":
            return "in the seller's queue"
        case "sent":
            return f"on its way to the chain: {payment.tx_hash}"
        case "completed":
            owed = f", {payment.owed} owed" if payment.owed else ""
            return f"paid in {payment.tx_hash}; {payment.minted} of {payment.quantity} minted{owed}"
        case _:
            return "failed"


def _awaited(payment: Payment) -> str:
    return "waiting for the units" if payment.status == "completed" else "waiting until it is settled"


def _summary(purchase: Purchase) -> str:
    order = purchase.order
    price = format_units(AtomicAmount(purchase.amount), decimals=purchase.decimals)
    name = network_from_text(purchase.network).name or purchase.network
    to = checksum_address(order.recipient or purchase.payer)
    paid = f"paid in {purchase.tx_hash}" if purchase.tx_hash else "not paid"
    return (
        f"{purchase.minted} of {order.quantity} × {checksum_address(order.token)} to {to},"
        f" {price} {purchase.asset_name} on {name}, {paid}."
    )


def _document(purchase: Purchase | None, outcome: str, error: PayfirstError | None) -> dict[str, object]:
    if purchase is None:
        return {"outcome": outcome, "error": _error(error, None)}
    order = purchase.order
    return {
        "outcome": outcome,
        "error": _error(error, purchase.error_code),
        "paymentQueueId": purchase.payment_id,
        "reference": purchase.reference,
        "url": order.url,
        "token": checksum_address(order.token),
        "recipient": checksum_address(order.recipient or purchase.payer),
        "quantity": order.quantity,
        "minted": purchase.minted,
        "amount": str(purchase.amount),
        "asset": checksum_address(purchase.asset),
        "network": purchase.network,
        "payer": checksum_address(purchase.payer),
        "payTo": checksum_address(purchase.pay_to),
        "nonce": hex_text(purchase.nonce),
        "txHash": purchase.tx_hash,
    }


def _error(error: PayfirstError | None, code: str | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"code": code or str(getattr(error, "code", type(error).__name__)), "message": str(error)}
