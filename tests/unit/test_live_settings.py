"""What the table of settings may say, laid over a configuration."""

from __future__ import annotations

from decimal import Decimal

import pytest

from payfirst.config import SETTINGS, load
from payfirst.config.live import LIVE, NotLive, overlay, parse
from payfirst.errors import OperatorError

CONFIG = load(role="tool", environ={})


def test_every_live_setting_is_a_setting() -> None:
    """A name that was mistyped here would never be taken up."""
    assert set(LIVE) <= set(SETTINGS)


def test_what_is_taken_goes_before_what_was_loaded() -> None:
    """Only the settings that are named, and the loaded configuration stays as it was."""
    found = overlay(CONFIG, {"settle.batch_max": 5, "network.max_fee_gwei": "0.5", "pause.minting": True})
    assert (found.config.settle.batch_max, found.config.network.max_fee_gwei) == (5, Decimal("0.5"))
    assert found.config.pause.minting
    assert found.config.settle.linger_ms == CONFIG.settle.linger_ms
    assert found.config.sources["settle.batch_max"] == "database"
    assert (CONFIG.settle.batch_max, CONFIG.sources["settle.batch_max"]) == (200, "default")
    assert found.refused == {}


def test_nothing_in_the_table_changes_nothing() -> None:
    """The very same configuration."""
    assert overlay(CONFIG, {}).config is CONFIG


@pytest.mark.parametrize("value", [0, 251, "5", 5.0, True, None, [], {}])
def test_a_value_the_file_may_not_have_is_refused_alone(value: object) -> None:
    """Whatever JSON stands there; its neighbours in the section are taken."""
    found = overlay(CONFIG, {"settle.batch_max": value, "settle.linger_ms": 1})
    assert dict(found.taken) == {"settle.linger_ms": 1}
    assert dict(found.refused) == {"settle.batch_max": "a whole number from 1 to 250"}
    assert (found.config.settle.batch_max, found.config.settle.linger_ms) == (200, 1)


@pytest.mark.parametrize("setting", ["server.port", "signers.settle_key", "database.url", "nothing", "a.b.c", ""])
def test_what_is_not_live_is_refused(setting: str) -> None:
    """The table can name no key, no database and no port."""
    found = overlay(CONFIG, {setting: 1})
    assert (set(found.refused), found.config) == ({setting}, CONFIG)
    with pytest.raises(NotLive):
        parse(CONFIG, {}, setting, "1")


def test_a_change_that_does_not_fit_the_rest_is_refused() -> None:
    """A tip above the maximum: whichever of the two is set, and wherever the other stands."""
    assert overlay(CONFIG, {"network.priority_fee_gwei": "60"}).refused == {
        "network.priority_fee_gwei": "at most network.max_fee_gwei (50.0)"
    }
    assert (
        "network.priority_fee_gwei"
        in overlay(CONFIG, {"network.max_fee_gwei": "0.0001"}).refused["network.max_fee_gwei"]
    )
    with pytest.raises(OperatorError, match=r"does not go with network.priority_fee_gwei = 40"):
        parse(CONFIG, {"network.priority_fee_gwei": "40"}, "network.max_fee_gwei", "30")


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [("settle.batch_max", "5", 5), ("pause.minting", "TRUE", True), ("network.max_fee_gwei", "2.5", "2.5")],
)
def test_text_is_read_as_a_variable_is(setting: str, text: str, value: object) -> None:
    """And what is stored is taken up again."""
    stored = parse(CONFIG, {}, setting, text)
    assert stored == value
    assert type(stored) is type(value)
    assert set(overlay(CONFIG, {setting: stored}).taken) == {setting}
