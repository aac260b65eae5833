"""What the benchmarks say of what they measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from benchmarks import charts, picture, skeleton
from benchmarks.__main__ import keys
from benchmarks.figures import Figure
from benchmarks.memory import judged
from benchmarks.picture import Bars, Lines

FOLLOWED = {
    "accept_rps_1proc_c64", "accept_rps_2proc_c1000", "accept_p50_ms_c64", "accept_p99_ms_c64", "accept_p50_ms_c1",
    "e2e_rps", "e2e_minted_s_p50", "e2e_failed", "gas_settle", "gas_mint", "verify_us",
}  # fmt: skip


def figure(value: float) -> Figure:
    return Figure.of([value])


def taken(rate: float) -> dict[str, Figure]:
    return {"per_s": figure(rate), "p50_ms": figure(8), "p99_ms": figure(20)}


FOUND = {
    "reference": {"verify_us": figure(60)},
    "accept": {
        "1_processes_1_connections": taken(500),
        "1_processes_64_connections": taken(6_000),
        "2_processes_1000_connections": taken(9_000),
    },
    "end_to_end": {
        "offered_per_s": 3_000.0,
        "minted_per_s": 2_800.0,
        "sustained_per_s": 2_990.0,
        "accepted_to_minted_s": {"p50": 2.1},
        "accepted_to_minted_steps_s": [step / 10 for step in range(21)],
        "failed": 1,
        "refused": 2,
        "cpu_us": {"api": 150.0},
    },
    "gas": {"settle": {"50": 46_000, "200": 45_500}, "mint_to_holders": {"50": 33_000, "250": 32_300}},
}


def test_one_line_has_every_figure_that_is_followed() -> None:
    """From release to release the same names; gas is that of the fullest transactions, 200 and not 50."""
    named = keys(FOUND)
    assert named.keys() >= FOLLOWED
    assert (named["accept_rps_1proc_c64"], named["e2e_failed"], named["gas_settle"]) == (6_000, 3, 45_500)


def test_a_section_that_did_not_run_has_no_figure() -> None:
    """Nothing is said of what was not measured."""
    assert keys({"reference": FOUND["reference"]}).keys() == {"verify_us"}


def test_a_ceiling_is_told_beside_its_goal() -> None:
    """Above 1 the goal can be reached on that design: more requests a second, fewer milliseconds."""
    beside = skeleton.beside_goals(keys(FOUND))
    assert beside["accept_rps_1proc_c64"]["times"] == 1.2
    assert beside["accept_rps_2proc_c1000"]["times"] == 0.9
    assert beside["accept_p50_ms_c64"]["times"] == 1.25


def test_cores_bound_a_rate_by_what_one_costs() -> None:
    """Two cores have two million microseconds a second."""
    bound = skeleton.cores_bound({"64": {"cpu_us_sum": figure(200)}}, {"cpu_us_sum": 1_000.0}, cores=2)
    assert bound == {"64": 10_000, "end_to_end": 2_000}


def test_memory_that_only_grows_at_first_is_flat() -> None:
    """What is loaded in the first fifth is no leak."""
    assert judged([50.0, 80.0, *[100.0 + noise % 3 for noise in range(20)]])["is_flat"]


def test_memory_that_goes_on_growing_is_not_flat() -> None:
    """Half a MiB a sample, to the end."""
    assert not judged([100 + number / 2 for number in range(100)])["is_flat"]


def test_a_process_that_ended_is_not_flat() -> None:
    """Its memory reads as 0, which nobody should take for a good result."""
    assert not judged([100.0] * 20 + [0.0])["is_flat"]


def test_the_picture_shows_rate_against_latency_the_distribution_and_history() -> None:
    """It is a whole XML document, with each chart that has values."""
    grown = [{"payments": 150_000, "steps": {step: {"cpu_ratio": 1.1} for step in charts.STEPS}}]
    drawn = picture.svg(charts.of(FOUND, grown))
    ET.fromstring(drawn)  # noqa: S314 - our own text
    for title in ("rate against latency", "Accepted to minted", "Cost against history", "3000 a second"):
        assert title in drawn


def test_a_chart_without_values_is_left_out() -> None:
    """A run of one section is a picture of one section."""
    drawn = picture.svg([Bars("Nothing", "s", []), Lines("No line", "x", "y", {"a": []}), Bars("One", "s", [("a", 1)])])
    assert "One" in drawn
    assert "Nothing" not in drawn
    assert "No line" not in drawn


def test_labels_cannot_break_the_picture() -> None:
    """They are text, whatever stands in them."""
    ET.fromstring(picture.svg([Bars("a < b & c", "µs", [('"<x>"', 2.0)])]))  # noqa: S314 - our own text
