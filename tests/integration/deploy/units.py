"""The shipped systemd units, read; where no systemd runs, what it would start is started from them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "deploy" / "systemd"


@dataclass(frozen=True)
class Unit:
    """One service: what each of its lines says, in their order."""

    name: str
    lines: tuple[tuple[str, str], ...]

    def all(self, key: str) -> list[str]:
        """The values of a key that may stand several times."""
        return [value for found, value in self.lines if found == key]

    def one(self, key: str) -> str:
        """The value of a key that stands once."""
        (value,) = self.all(key)
        return value

    def credentials(self) -> dict[str, Path]:
        """Where each credential comes from, by its name in the service."""
        pairs = (value.split(":", 1) for value in self.all("LoadCredential"))
        return {name: Path(source) for name, source in pairs}

    def environment(self, given: Mapping[str, str], *, credentials: Path) -> dict[str, str]:
        """What the service sees: nothing of the shell, then Environment=, then the files, as systemd reads them."""
        found = dict(given)
        for value in self.all("Environment"):
            for word in shlex.split(value.replace("%d", str(credentials))):
                name, _, text = word.partition("=")
                found[name] = text
        for source in self.all("EnvironmentFile"):
            for line in Path(source).read_text(encoding="utf-8").splitlines():
                name, _, text = line.partition("=")
                found[name] = text
        return found | {"CREDENTIALS_DIRECTORY": str(credentials)}


def read(path: Path, *, in_own_places: Callable[[str], str] = str) -> Unit:
    """A unit as it stands in a file, its paths where `in_own_places` puts them."""
    lines = []
    for line in in_own_places(path.read_text(encoding="utf-8")).splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            lines.append((key, value))
    return Unit(path.name, tuple(lines))
