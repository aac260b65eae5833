"""`payfirst demo`: the whole flow on this machine."""

from __future__ import annotations

import typer

from payfirst.local.demo import play

PORT = 4021


def demo(*, once: bool, as_json: bool, port: int | None) -> None:
    """Play the demo; the exit code is 0 if everything added up, 1 if not. Port None: 4021, or another if taken."""
    raise typer.Exit(play.run(play.Options(once=once, json=as_json, port=PORT if port is None else port)))
