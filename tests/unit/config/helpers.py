"""The least config and ways to change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from syncer.config import load
from syncer.engage.sources import SOURCES
from syncer.errors import EXIT_USAGE, ConfigError

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"


#: What the example takes from the environment: the two secrets that the README names.
EXAMPLE_ENVIRON = {
    "AMBERFLO_API_KEY": "hush-amberflo",
    "PROFILES_SYNC_URL": "postgresql+psycopg://reader:hush-database@host/db",
}


#: Sections that may be left out; the example has them as comments.
OPTIONAL = {
    *("engage.public_api", "web"),
    *(f"engage.{name}" for name in SOURCES if name != "profiles_sync"),
}


LEAST = """
[amberflo]
api_key = "hush"
[engage.profiles_sync]
url = "sqlite:///profiles.db"
"""


def with_lines(file: Path, *lines: str) -> Path:
    file.write_text(LEAST + "\n".join(lines), encoding="utf-8")
    return file


def refused(path: Path, environ: dict[str, str] | None = None) -> str:
    """The one line of an error, without the path of the file."""
    with pytest.raises(ConfigError) as error:
        load(path, environ or {})
    line = str(error.value)
    assert "\n" not in line
    assert "hush" not in line
    assert error.value.exit_code == EXIT_USAGE == 2
    return line.replace(str(path), "FILE")


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its name in the file."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + (field.alias or name)
        if isinstance(value, BaseModel):
            yield from leaves(value, key + ".")
        elif key not in OPTIONAL:
            yield key, value
