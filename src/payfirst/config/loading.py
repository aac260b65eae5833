"""Gather settings from file and environment, say where each came from, and report every fault at once."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import (
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails

from payfirst.config import presets
from payfirst.config.settings import (
    DEFAULT_FILE,
    DEPTHS,
    KEY_FILE_BYTES_MAX,
    KEY_VARIABLES,
    KEYS,
    LISTS,
    NOT_SETTINGS,
    PREFIX,
    REDACTED,
    SECRET_VARIABLES,
    SECTIONS,
    SETTINGS,
    SIGNERS_FOLDER,
    VARIABLES,
    Config,
    Role,
    display,
)
from payfirst.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: which setting, its value with secrets redacted, where it came from, what is expected."""

    setting: str
    shown: str
    source: str
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} = {self.shown} ({self.source}): expected {self.expected}"


class ConfigurationError(OperatorError):
    """The configuration cannot be used. `faults` holds every fault, not the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        heading = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n  ".join([f"the configuration has {heading}:", *map(str, faults)]))


@dataclass(slots=True)
class _Gathered:
    """What the file and the environment say, by setting, before any of it is judged."""

    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def put(self, setting: str, value: object, source: str) -> None:
        self.values[setting], self.sources[setting] = value, source

    def drop(self, setting: str) -> tuple[object, str]:
        return self.values.pop(setting, None), self.sources.pop(setting, "default")

    def fault(self, setting: str, shown: str, source: str, expected: str) -> None:
        self.faults.append(Fault(setting, shown, source, expected))


def load(path: Path | None = None, *, role: Role, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of a process: defaults, then the file, then the environment.

    The file is `path`, else PAYFIRST_CONFIG, else ./payfirst.toml if there is one. An `api` holds no key, and
    [signers] is not read for it; a `worker` needs a key or a
    keystore for each purpose; a `tool` needs neither keys nor payments.pay_to.
    Raises ConfigurationError with every fault there is.
    """
    gathered = _Gathered()
    file_is_known = _read_file(gathered, path, environ)
    _read_environment(gathered, environ)
    _keep_keys_apart(gathered, role, environ)
    presets.fill(gathered.values, gathered.sources)
    for setting, expected in presets.contradictions(gathered.values):
        shown = display(setting, gathered.values.get(setting, ""))
        gathered.fault(setting, shown, gathered.sources.get(setting, "default"), expected)
    if file_is_known:
        # What a file that could not be read would have said is not called missing.
        _demand_required(gathered, role)
    config = _validate(gathered, role)
    if config is not None:
        _demand_two_to_agree(gathered, config)
    if gathered.faults or config is None:
        raise ConfigurationError(gathered.faults)
    config._sources.update({setting: gathered.sources.get(setting, "default") for setting in SETTINGS})
    return config


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for an API process: the same without the signers' keys."""
    return {
        name: value
        for name, value in environ.items()
        if name not in SECRET_VARIABLES and not re.fullmatch(r"PAYFIRST_.*(KEY|PASSPHRASE)", name)
    }


def _read_file(gathered: _Gathered, path: Path | None, environ: Mapping[str, str]) -> bool:
    """False if there should be a file and it could not be read."""
    source = "--config"
    if path is None and environ.get("PAYFIRST_CONFIG"):
        path, source = Path(environ["PAYFIRST_CONFIG"]), "environment: PAYFIRST_CONFIG"
    if path is None:
        if not DEFAULT_FILE.exists():
            return True
        path, source = DEFAULT_FILE, "the working directory"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no TOML, or no UTF-8
        reason = error.strerror if isinstance(error, OSError) else str(error)
        gathered.fault("the configuration file", str(path), source, f"a readable TOML file: {reason}")
        return False
    for name, value in table.items():
        if name not in SECTIONS and not isinstance(value, dict):
            _put_from_file(gathered, name, value, path)
        elif not isinstance(value, dict):
            gathered.fault(name, "not a table", f"{path}:{name}", f"a table [{name}]")
        elif name not in SECTIONS and not value:
            _put_from_file(gathered, name, value, path)
        else:
            for key, inner in value.items():
                _put_from_file(gathered, f"{name}.{key}", inner, path)
    return True


def _put_from_file(gathered: _Gathered, setting: str, value: object, path: Path) -> None:
    source = f"{path}:{setting}"
    if setting in KEYS:
        expected = f"no key: a file is no place for a raw key; set {KEYS[setting]}, or {setting}_file in the file"
        gathered.fault(setting, REDACTED, source, expected)
    elif setting in SETTINGS:
        gathered.put(setting, value, source)
    else:
        # The value is not shown: a misspelled name can hold a secret.
        gathered.fault(setting, "…", source, f"a known setting{nearest(setting, tuple(SETTINGS))}")


def _read_environment(gathered: _Gathered, environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        if name in VARIABLES:
            setting = VARIABLES[name]
            gathered.put(setting, typed(setting, text), f"environment: {name}")
        elif name.upper().startswith(PREFIX) and not NOT_SETTINGS.fullmatch(name):
            expected = f"a known setting{nearest(name.upper(), tuple(VARIABLES))}"
            gathered.fault(name, "…", f"environment: {name}", expected)
    if "DATABASE_URL" in environ:
        url, ours = environ["DATABASE_URL"], environ.get("PAYFIRST_DATABASE__URL")
        if ours is not None and ours != url:
            expected = "the database that PAYFIRST_DATABASE__URL names, or only one of the two variables"
            gathered.fault("database.url", display("database.url", url), "environment: DATABASE_URL", expected)
        gathered.put("database.url", url, "environment: DATABASE_URL")


def typed(setting: str, text: str) -> object:
    """A variable's text as what the setting holds; text that is not, stays text and is refused with the rest."""
    annotation = SETTINGS[setting].annotation
    if (annotation is int or setting in DEPTHS) and re.fullmatch(r"[+-]?[0-9_]{1,30}", text):
        try:
            return int(text)
        except ValueError:
            return text
    if annotation is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if setting in LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _keep_keys_apart(gathered: _Gathered, role: Role, environ: Mapping[str, str]) -> None:
    """A worker's keys are read from the environment or their files; any other process gets nothing of [signers]."""
    for setting, variable in KEYS.items():
        file_setting = f"{setting}_file"
        raw, source = gathered.drop(setting)
        if role == "api" and raw:
            gathered.fault(
                setting, REDACTED, source, f"no key: the API process holds no key: start it without {variable}"
            )
        if role != "worker":
            gathered.drop(file_setting)
            continue
        named = gathered.values.get(file_setting)
        if raw and named:
            shown, from_file = display(file_setting, named), gathered.sources[file_setting]
            gathered.fault(file_setting, shown, from_file, f"nothing while {variable} is set: give one of the two")
        elif raw:
            gathered.put(setting, SecretStr(str(raw)), source)
        elif isinstance(named, str) and named:
            _read_key_file(gathered, setting, Path(named), environ.get("CREDENTIALS_DIRECTORY"))


def _read_key_file(gathered: _Gathered, setting: str, path: Path, credentials: str | None) -> None:
    # systemd hands a service its credentials in a folder that only it may enter; there the bits of the group (0440)
    # are the mask of an access list with this one account in it.
    others = 0o037 if credentials and path.parent == Path(credentials) else 0o077
    try:
        # O_NONBLOCK: a pipe put in the file's place must not hold up the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(KEY_FILE_BYTES_MAX) if stat.S_ISREG(mode) else b""
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        problem = f"a readable file: {error.strerror if isinstance(error, OSError) else error}"
    else:
        if stat.S_ISREG(mode) and not mode & others:
            text = content.decode("utf-8", errors="replace").strip()
            gathered.put(setting, SecretStr(text), f"{display(setting + '_file', str(path))} ({setting}_file)")
            return
        problem = (
            f"a file that only its owner may read: its mode is {stat.S_IMODE(mode):04o}, run chmod 600 on it"
            if stat.S_ISREG(mode)
            else "a regular file"
        )
    shown, source = display(f"{setting}_file", str(path)), gathered.sources[f"{setting}_file"]
    gathered.fault(f"{setting}_file", shown, source, problem)


def _demand_required(gathered: _Gathered, role: Role) -> None:
    if role != "tool" and gathered.values.get("payments.pay_to", "") == "":
        source = gathered.sources.get("payments.pay_to", "default")
        expected = "the seller's address: nothing is accepted without one (PAYFIRST_PAYMENTS__PAY_TO)"
        gathered.fault("payments.pay_to", '""', source, expected)
    if role == "worker":
        faulty = {fault.setting for fault in gathered.faults}
        folder = Path(str(gathered.values.get("data_dir", "payfirst-data"))) / SIGNERS_FOLDER
        for variable in KEY_VARIABLES:
            setting = VARIABLES[variable]
            purpose = setting.removeprefix("signers.").removesuffix("_key")
            if any(folder.glob(f"{purpose}-0x*.json")):
                continue
            if setting not in gathered.values and not faulty & {setting, f"{setting}_file"}:
                expected = (
                    f"a key: a worker signs; run payfirst signers new --purpose {purpose}, or set {variable},"
                    f" or {setting}_file in the file"
                )
                gathered.fault(setting, '""', "default", expected)


def _demand_two_to_agree(gathered: _Gathered, config: Config) -> None:
    """Nobody agrees with itself: two URLs of one host are one endpoint."""
    amount = config.payments.agree_amount
    if amount and len(config.network.rpc_hosts) < 2:
        setting = "payments.agree_amount"
        expected = "0 while network.rpc_urls names one host: two have to agree, so name an endpoint of another provider"
        gathered.fault(setting, str(amount), gathered.sources.get(setting, "default"), expected)


def _validate(gathered: _Gathered, role: Role) -> Config | None:
    nested: dict[str, Any] = {section: {} for section in SECTIONS if section != "signers" or role == "worker"}
    for setting, value in gathered.values.items():
        section, _, key = setting.rpartition(".")
        (nested[section] if section else nested)[key] = value
    try:
        return Config(**nested)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    # Raised anew by `load`, outside this handler: the original holds the values, secrets among them.
    faulty = {fault.setting for fault in gathered.faults}
    for problem in problems:
        setting = ".".join(str(part) for part in problem["loc"][:2])
        if problem["type"] == "missing" or setting in faulty:
            continue  # said already, and better
        shown = display(setting, gathered.values.get(setting, SETTINGS[setting].default))
        gathered.fault(setting, shown, gathered.sources.get(setting, "default"), expected_of(setting, problem))
    return None


def expected_instead(setting: str, value: object) -> str | None:
    """What `setting` should be instead of `value`, None if it may be that; settings that it goes with are not asked."""
    section, _, key = setting.rpartition(".")
    try:
        SECTIONS[section](**{key: value})
    except ValidationError as error:
        problems = [p for p in error.errors(include_url=False) if p["loc"][:1] == (key,)]
        return expected_of(setting, problems[0]) if problems else None
    return None


def expected_of(setting: str, problem: ErrorDetails) -> str:
    """What a setting may be, in the words that follow "expected"."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    extra = SETTINGS[setting].json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) else problem["msg"]


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean …?)`, or nothing when no name is near."""
    # Of two with the same last part the earlier section is meant: server.port before metrics.port.
    last_parts = {candidate.rpartition(".")[2]: candidate for candidate in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        close = [last_parts[part] for part in difflib.get_close_matches(name.rpartition(".")[2], last_parts, n=1)]
    return f" (did you mean {close[0]}?)" if close else ""
