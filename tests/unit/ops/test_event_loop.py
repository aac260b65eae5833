"""Which event loop the processes that run for long have."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
import uvloop

from payfirst.ops import event_loop


def test_it_is_uvloops() -> None:
    """Where there is a wheel of it."""
    loop = event_loop.new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()


def test_it_is_asyncios_where_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower, and all else the same."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    loop = event_loop.new_event_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()
