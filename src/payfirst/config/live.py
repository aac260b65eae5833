"""The short list of settings that a running system takes up from the database, and how they are laid over the rest.

What stands in the table `settings` goes before file and environment, is held to the very same rules, and is taken up by
API and workers within seconds. A value that does not fit a process's other settings is refused there, by name, and the
process goes on with what it had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from payfirst.config.loading import expected_of, nearest, typed
from payfirst.config.settings import SECTIONS, SETTINGS, Config, Section, display
from payfirst.errors import OperatorError

SOURCE = "database"

LIVE = (
    "pause.accepting",
    "pause.settling",
    "pause.minting",
    "settle.batch_max",
    "settle.unresolved_max",
    "settle.linger_ms",
    "mint.batch_max",
    "mint.unresolved_max",
    "network.poll_interval_ms",
    "network.max_fee_gwei",
    "network.priority_fee_gwei",
    "payments.queue_depth_max",
    "payments.drain_rate_floor_per_s",
)


class NotLive(OperatorError):
    """The setting does not exist, or only a restart takes it up."""


@dataclass(frozen=True, slots=True)
class Overlaid:
    """A configuration with the database's settings in it: those `taken`, and why others were `refused`."""

    config: Config
    taken: Mapping[str, object]
    refused: Mapping[str, str]


def overlay(config: Config, rows: Mapping[str, object]) -> Overlaid:
    """Lay what the table holds, JSON values by setting, over a configuration as it was loaded."""
    taken: dict[str, object] = {}
    refused = {setting: "a setting that a running system takes up" for setting in rows if setting not in LIVE}
    sections: dict[str, Section] = {}
    for name in SECTIONS:
        changes = {s: rows[s] for s in LIVE if s in rows and s.startswith(f"{name}.")}
        before = getattr(config, name)
        while changes:
            checked = _check(before, changes)
            if isinstance(checked, Section):
                sections[name] = checked
                break
            refused |= checked
            changes = {s: value for s, value in changes.items() if s not in checked}
        taken |= changes
    if not sections:
        return Overlaid(config, taken, refused)
    result = config.model_copy(update=dict(sections))
    result._sources = {**config.sources, **dict.fromkeys(taken, SOURCE)}
    return Overlaid(result, taken, refused)


def said_json(overlaid: Overlaid) -> str:
    """As a process says in its row of `processes` what it has taken up."""
    return json.dumps({"taken": dict(overlaid.taken), "refused": dict(overlaid.refused)})


def parse(config: Config, rows: Mapping[str, object], setting: str, text: str) -> object:
    """What a person typed for a live setting, as the table holds it.

    Checked together with the settings that `rows` holds already. Raises NotLive, or OperatorError with what it may be.
    """
    demand_live(setting)
    value = typed(setting, text)
    refused = overlay(config, {**rows, setting: value}).refused
    if setting in refused:
        raise OperatorError(f"{setting} = {display(setting, text)}: expected {refused[setting]}")
    for other in refused.keys() - overlay(config, rows).refused.keys():
        raise OperatorError(
            f"{setting} = {display(setting, text)} does not go with {other} = {display(other, rows[other])},"
            f" which the database says: expected there {refused[other]}"
        )
    return value


def demand_live(setting: str) -> None:
    """Return if a running system takes `setting` up. Raises NotLive."""
    if setting in LIVE:
        return
    if setting in SETTINGS:
        raise NotLive(f"{setting} is taken up by a restart only: write it in the file. Live are: {', '.join(LIVE)}")
    raise NotLive(f"there is no setting {setting}{nearest(setting, LIVE)}. Live are: {', '.join(LIVE)}")


def _check(section: Section, changes: Mapping[str, object]) -> Section | dict[str, str]:
    """The section with the changes, or those of them that are refused (at least one) with what is expected."""
    values = {key: getattr(section, key) for key in type(section).model_fields}
    try:
        return type(section).model_validate(values | {s.partition(".")[2]: value for s, value in changes.items()})
    except ValidationError as error:
        problems = error.errors(include_url=False)
    name = next(iter(changes)).partition(".")[0]
    found = {f"{name}.{problem['loc'][0]}": problem for problem in problems}
    refused = {s: expected_of(s, problem) for s, problem in found.items() if s in changes}
    if refused:
        return refused
    # It is another setting of the file that does not fit the changes: which of them is at fault cannot be told.
    setting, problem = next(iter(found.items()))
    return dict.fromkeys(changes, f"what leaves {setting} {expected_of(setting, problem)}")
