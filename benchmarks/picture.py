"""The results as one SVG: a few bars, drawn without a library."""

from __future__ import annotations

from html import escape

Bars = list[tuple[str, float]]

_WIDTH, _BAR, _LEFT = 720, 22, 300
_COLOURS = ("#2c6fbb", "#c8553d", "#3d8f5f", "#8a6fb0", "#b08a3d")


def svg(charts: list[tuple[str, str, Bars]]) -> str:
    """Charts one below the other: title, unit, and bars with their labels."""
    parts, y = [], 20
    for number, (title, unit, bars) in enumerate(charts):
        if not bars:
            continue
        parts.append(f'<text x="10" y="{y + 10}" font-weight="bold">{escape(title)} ({escape(unit)})</text>')
        y += 22
        most = max(value for _, value in bars) or 1.0
        for label, value in bars:
            length = (_WIDTH - _LEFT - 110) * value / most
            parts.append(
                f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
                f'<rect x="{_LEFT}" y="{y + 3}" width="{length:.1f}" height="{_BAR - 6}"'
                f' fill="{_COLOURS[number % len(_COLOURS)]}"/>'
                f'<text x="{_LEFT + length + 6:.1f}" y="{y + 15}">{value:,.4g}</text>'
            )
            y += _BAR
        y += 18
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
