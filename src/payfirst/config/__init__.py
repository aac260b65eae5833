"""The configuration: one TOML file with environment overrides, read once, failing whole with every fault.

`settings` holds the models, the one home of every setting; `loading` gathers and checks them.
"""

from payfirst.config.example import example_text, file_text
from payfirst.config.loading import ConfigurationError, Fault, expected_instead, load, without_keys
from payfirst.config.presets import PRESETS
from payfirst.config.settings import (
    DEFAULT_FILE,
    KEY_VARIABLES,
    KEYS,
    SECRET_VARIABLES,
    SECTIONS,
    SETTINGS,
    VARIABLES,
    Config,
    Role,
    Signers,
)

__all__ = [
    "DEFAULT_FILE",
    "KEYS",
    "KEY_VARIABLES",
    "PRESETS",
    "SECRET_VARIABLES",
    "SECTIONS",
    "SETTINGS",
    "VARIABLES",
    "Config",
    "ConfigurationError",
    "Fault",
    "Role",
    "Signers",
    "example_text",
    "expected_instead",
    "file_text",
    "load",
    "without_keys",
]
