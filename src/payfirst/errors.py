"""Errors say who acts: the payer, nobody (it is retried), or the operator. Pure."""

from __future__ import annotations

from typing import ClassVar


class PayfirstError(Exception):
    """Everything payfirst raises on purpose. `str(error)` is a sentence that says what to do."""


class PayerError(PayfirstError):
    """The payer has to change something. Nothing was taken.

    `code` is the x402 error code, or payfirst's own where the protocol has none.
    """

    code: ClassVar[str]


class RetriedError(PayfirstError):
    """Nobody has to act: the outcome is unknown or not there yet, and the same step is tried again."""


class OperatorError(PayfirstError):
    """The operator has to act. The sentence names the setting, file or command."""


class StoreUnavailable(RetriedError):
    """PostgreSQL did not answer, or not in time. Whether the last write happened is unknown."""


class LeaseLost(RetriedError):
    """Another worker holds what this one believed to hold; what was planned is thrown away."""
