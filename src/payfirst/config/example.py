"""payfirst.example.toml, made from the models."""

from __future__ import annotations

from decimal import Decimal

from payfirst.config.settings import KEY_VARIABLES, KEYS, SETTINGS


def example_text() -> str:
    """payfirst.example.toml: every setting with its meaning and its default, all commented out."""
    lines = [
        "# Every setting of payfirst with its default. Copy this to payfirst.toml and take the # off what you change.",
        "# A variable overrides a setting: PAYFIRST_SERVER__PORT=4022 is server.port. Unknown names are refused.",
    ]
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
                ]
        section_before = section
        if setting not in KEYS:
            lines += ["", f"# {info.description}", f"#{key} = {_toml(info.default)}"]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case int() | Decimal():
            return str(value)
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f'"{value}"'
