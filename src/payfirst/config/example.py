"""payfirst.example.toml, and the file that `payfirst init` writes: both made from the models."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal

from payfirst.config.presets import PRESETS, REASONS
from payfirst.config.settings import KEY_VARIABLES, KEYS, REFUND_KEY_VARIABLES, SETTINGS

COLUMNS_MAX = 118


def example_text() -> str:
    """payfirst.example.toml: every setting with its meaning and its default, all commented out."""
    heading = [
        "# Every setting of payfirst with its default. Copy this to payfirst.toml and take the # off what you change.",
        "# A variable overrides a setting: PAYFIRST_SERVER__PORT=4022 is server.port. Unknown names are refused.",
    ]
    return _text(heading, chosen={}, network=None)


def file_text(chosen: Mapping[str, object], *, network: str, to_do: Sequence[str] = ()) -> str:
    """A payfirst.toml: what was chosen is set, all else is commented out with what it is on `network`, and why.

    `to_do` names the settings that are still to be filled in.
    """
    heading = [
        "# Written by payfirst init. Every setting is here; those with a # have the value that is shown.",
        "# A variable overrides a setting: PAYFIRST_SERVER__PORT=4022 is server.port. Unknown names are refused.",
    ]
    if to_do:
        heading += ["#", f"# STILL TO FILL IN below: {', '.join(to_do)}"]
    return _text(heading, chosen=chosen, network=network)


def _text(heading: Sequence[str], *, chosen: Mapping[str, object], network: str | None) -> str:
    preset = PRESETS.get(network or "", {})
    lines = list(heading)
    section_before = None
    for setting, info in SETTINGS.items():
        section, _, key = setting.rpartition(".")
        if section != section_before and section:
            lines += ["", f"[{section}]"]
            if section == "signers":
                lines += [
                    "# Only workers hold keys, and no key stands in this file. Make encrypted ones with payfirst",
                    "# signers new, or name a file for each purpose, or set, for workers only,",
                    f"# {' and '.join(KEY_VARIABLES)} (several keys are separated by commas).",
                    f"# Refunds need {' and '.join(REFUND_KEY_VARIABLES)} too.",
                ]
        section_before = section
        if setting in KEYS:
            continue
        lines += ["", f"# {info.description}"]
        if network is not None and setting in REASONS.get(network, {}):
            lines += textwrap.wrap(REASONS[network][setting], COLUMNS_MAX, initial_indent="# ", subsequent_indent="# ")
        if setting in chosen:
            lines.append(f"{key} = {_toml(chosen[setting])}")
        else:
            lines.append(f"#{key} = {_toml(preset.get(setting, info.default))}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            # TOML's basic strings escape as JSON does.
            return json.dumps(str(value), ensure_ascii=False)
