"""The results as one SVG: bars and lines, drawn without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _BAR, _LEFT, _PLOT = 760, 22, 300, 200
_PLOT_LEFT, _PLOT_RIGHT = 70, 210
_COLOURS = ("#2c6fbb", "#c8553d", "#3d8f5f", "#8a6fb0", "#b08a3d", "#4aa3a3", "#a34a7e", "#6b6b6b")


@dataclass(frozen=True, slots=True)
class Bars:
    """Labelled values of one unit."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Points (x, y) of some series, joined in their order; both axes begin at 0."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


def svg(charts: Sequence[Bars | Lines]) -> str:
    """The charts one below the other; one without values is left out."""
    parts: list[str] = []
    y = 20
    for number, chart in enumerate(charts):
        if isinstance(chart, Bars) and chart.bars:
            y = _bars(parts, chart, y, _COLOURS[number % len(_COLOURS)])
        elif isinstance(chart, Lines) and any(chart.series.values()):
            y = _lines(parts, chart, y)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", fill: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">'
        f"{escape(text)}</text>"
    )


def _bars(parts: list[str], chart: Bars, y: int, colour: str) -> int:
    parts.append(_text(10, y + 10, f"{chart.title} ({chart.unit})", weight="bold"))
    y += 22
    most = max(value for _, value in chart.bars) or 1.0
    for label, value in chart.bars:
        length = (_WIDTH - _LEFT - 110) * value / most
        parts.append(_text(_LEFT - 8, y + 15, label, anchor="end"))
        parts.append(f'<rect x="{_LEFT}" y="{y + 3}" width="{length:.1f}" height="{_BAR - 6}" fill="{colour}"/>')
        parts.append(_text(_LEFT + length + 6, y + 15, f"{value:,.4g}"))
        y += _BAR
    return y + 18


def _round(most: float) -> float:
    """The end of an axis that holds `most`, which a quarter of is easily read."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * step for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10, 12) if power * step >= most)


def _lines(parts: list[str], chart: Lines, y: int) -> int:
    parts.append(_text(10, y + 10, chart.title, weight="bold"))
    top, bottom, right = y + 30, y + 30 + _PLOT, _WIDTH - _PLOT_RIGHT
    points = [point for of_one in chart.series.values() for point in of_one]
    x_most, y_most = _round(max(x for x, _ in points)), _round(max(value for _, value in points))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at_x, at_y = _PLOT_LEFT + (right - _PLOT_LEFT) * share, bottom - _PLOT * share
        parts.append(
            f'<path d="M{_PLOT_LEFT} {at_y:.1f}H{right}M{at_x:.1f} {top}V{bottom}" stroke="#ddd" fill="none"/>'
        )
        parts.append(_text(at_x, bottom + 16, f"{x_most * share:,.4g}", anchor="middle"))
        parts.append(_text(_PLOT_LEFT - 6, at_y + 4, f"{y_most * share:,.4g}", anchor="end"))
    parts.append(_text((_PLOT_LEFT + right) / 2, bottom + 34, chart.x, anchor="middle"))
    parts.append(_text(_PLOT_LEFT, top - 6, chart.y))
    for number, (name, of_one) in enumerate(chart.series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [
            (_PLOT_LEFT + (right - _PLOT_LEFT) * x / x_most, bottom - _PLOT * value / y_most) for x, value in of_one
        ]
        path = "L".join(f"{x:.1f} {value:.1f}" for x, value in placed)
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{value:.1f}" r="3" fill="{colour}"/>' for x, value in placed]
        parts.append(_text(right + 12, top + 14 + 18 * number, name, fill=colour))
    return bottom + 56
