"""`Prefer: wait` and `If-None-Match`, as they are written and as they are mistaken."""

from __future__ import annotations

import pytest

from payfirst.api.conditions import PREFER_CHARACTERS_MAX, is_known, wait_s


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("WAIT = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=5", 5),
        ("wait=5;foo=bar, respond-async", 5),
        ('note="a, wait=9", wait=5', 5),
        ("wait=5, wait=9", 5),  # the first counts
        ("wait=31", 30),
        ("wait=" + "9" * 900, 30),
        ("wait=0", 0),
    ],
)
def test_the_seconds_that_a_client_would_wait(prefer: str, seconds: int) -> None:
    """RFC 7240's forms, and never more than the server's own limit."""
    assert wait_s(prefer, at_most=30) == seconds


@pytest.mark.parametrize(
    "prefer",
    [
        "",
        "respond-async",
        "wait",
        "wait=",
        "wait=-1",
        "wait=1.5",
        "wait=five",
        "wait=٣",
        "waiting=5",
        'wait="5',
        '"' * 99,
    ],
)
def test_what_is_malformed_is_no_preference(prefer: str) -> None:
    """It is ignored, not refused (RFC 7240, section 2)."""
    assert wait_s(prefer, at_most=30) == 0


def test_an_endless_header_is_no_preference() -> None:
    """It is not even searched."""
    assert wait_s("a," * PREFER_CHARACTERS_MAX + "wait=5", at_most=30) == 0


@pytest.mark.parametrize(
    ("if_none_match", "known"),
    [
        (None, False),
        ('"abc"', True),
        ('W/"abc"', True),  # compared weakly (RFC 9110, section 13.1.2)
        ('"x", "abc"', True),
        ("*", True),
        ('"abcd"', False),
        ("abc", False),
        ("", False),
    ],
)
def test_what_the_client_has(if_none_match: str | None, known: bool) -> None:
    """One tag, a list of them, or any."""
    assert is_known("abc", if_none_match) is known
