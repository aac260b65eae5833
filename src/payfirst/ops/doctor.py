"""What `payfirst doctor` says of the facts it was given: findings, each with what to do. Pure.

Here is the form of a finding and of the report; `doctor_database` and `doctor_chain` judge. The reading is elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Level(enum.IntEnum):
    """How bad it is; the worst of all findings is the exit code."""

    OK = 0
    WARNING = 1
    FAULT = 2


SIGNS = {Level.OK: "✅", Level.WARNING: "⚠️", Level.FAULT: "❌"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `advice` says what to do; only an OK finding may have none."""

    check: str
    level: Level
    sentence: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.level is not Level.OK and not self.advice:
            raise ValueError(f"{self.check}: a {self.level.name.lower()} says what to do")


def ok(check: str, sentence: str) -> Finding:
    """All is well here."""
    return Finding(check, Level.OK, sentence)


def warning(check: str, sentence: str, advice: str) -> Finding:
    """Payments go on, and somebody should look."""
    return Finding(check, Level.WARNING, sentence, advice)


def fault(check: str, sentence: str, advice: str) -> Finding:
    """Payments or mints do not go on, or money is at risk."""
    return Finding(check, Level.FAULT, sentence, advice)


def worst(findings: Sequence[Finding]) -> Level:
    """The level of the worst finding: 0 all is well, 1 somebody should look, 2 something is wrong."""
    return max((finding.level for finding in findings), default=Level.OK)


def to_json(findings: Sequence[Finding], *, settings: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    """The report as JSON holds it; of settings the name, the value (secrets redacted) and the source."""
    return {
        "status": worst(findings).name.lower(),
        "findings": [
            {"check": f.check, "level": f.level.name.lower(), "sentence": f.sentence, "advice": f.advice or None}
            for f in findings
        ],
        "settings": [{"setting": name, "value": value, "source": source} for name, value, source in settings],
    }


def lines(findings: Sequence[Finding]) -> list[str]:
    """The report for people, the findings in the order of the checks."""
    width = max((len(f.check) for f in findings), default=0)
    said: list[str] = []
    for f in findings:
        said.append(f"{SIGNS[f.level]} {f.check:<{width}}  {f.sentence}")
        if f.advice:
            said.append(f"   {'':<{width}}  → {f.advice}")
    return said
