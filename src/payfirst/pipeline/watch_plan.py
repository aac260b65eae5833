"""What to do about a transaction whose outcome is not known. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store.transactions import InFlight


@dataclass(frozen=True, slots=True)
class Rebroadcast:
    """Send the same stored bytes again: never another account nonce."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The node has it; only a block at depth decides."""


def plan_in_flight(sent: InFlight, *, known_to_node: bool) -> Rebroadcast | Wait:
    """A node may acknowledge a transaction and drop it without a word: found by hash, sent again."""
    if known_to_node and sent.silent_s is not None:
        return Wait()
    return Rebroadcast()
