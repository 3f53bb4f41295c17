"""Settings: one TOML file, `SYNCER_…` environment variables over it, secrets from the environment.

`load(path, environ)` returns a frozen `Config`, or raises `ConfigError` with one line that names
the file (or variable), the key, what is wrong and what would be right. Contract: docs/design.md §4.
"""

from syncer.config.loading import load, load_text, load_with_origins
from syncer.config.origins import Origin, Origins
from syncer.config.secret_files import SECRET_FILES
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
    "Origin",
    "Origins",
    "ScheduleConfig",
    "changes",
    "duration",
    "load",
    "load_text",
    "load_with_origins",
]
