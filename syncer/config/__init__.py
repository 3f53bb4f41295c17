"""Settings: one TOML file, `SYNCER_…` environment variables over it, secrets from the environment.

`load(path, environ)` returns a frozen `Config`, or raises `ConfigError` with one line that names
the file (or variable), the key, what is wrong and what would be right. Contract: docs/design.md §4.
"""

from syncer.config.loading import SECRET_FILES, load, load_text
from syncer.config.settings import (
    AlertsConfig,
    Config,
    EngageConfig,
    ScheduleConfig,
    changes,
)
from syncer.setting_types import duration

__all__ = [
    "SECRET_FILES",
    "AlertsConfig",
    "Config",
    "EngageConfig",
    "ScheduleConfig",
    "changes",
    "duration",
    "load",
    "load_text",
]
