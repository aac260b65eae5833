"""The configuration: one TOML file with environment overrides, read once, failing whole with every fault.

`settings` holds the models, the one home of every setting; `loading` gathers and checks them.
"""

from payfirst.config.example import example_text
from payfirst.config.loading import ConfigurationError, Fault, load, without_keys
from payfirst.config.settings import (
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
    "KEYS",
    "KEY_VARIABLES",
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
    "load",
    "without_keys",
]
