"""A new config file: the settings that `syncer init` chose, and how the file comes to be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from syncer.config.origins import REFERENCE
from syncer.errors import ConfigError
from syncer.json_text import to_json


@dataclass(frozen=True)
class Setting:
    """A setting that holds a secret, or its twin: `api_key`, or `api_key_file`; and its text."""

    key: str
    text: str
    #: whether the text refers to the environment: "${AMBERFLO_API_KEY}"
    refers: bool = False

    @property
    def line(self) -> str:
        """The line of the file."""
        return f"{self.key} = {_quoted(self.text, refers=self.refers)}"


@dataclass(frozen=True)
class Draft:
    """The settings of a new config. All others have their defaults."""

    api_key: Setting
    url: Setting
    schema: str = ""
    audiences: tuple[str, ...] = ("*",)
    computed_traits: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text of the file; raise `ConfigError` if a value cannot stand in it."""
        return f"""\
# Made by `syncer init`. config.example.toml shows every other setting, with its default.

[amberflo]
{self.api_key.line}

[engage]
audiences = {_listed(self.audiences)}  # keys or globs; "!internal_*" leaves keys out
computed_traits = {_listed(self.computed_traits)}

[engage.profiles_sync]
{self.url.line}
schema = {_quoted(self.schema)}

[state]
url = "sqlite:///syncer.db"  # in the folder of this file
"""


def _listed(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str, *, refers: bool = False) -> str:
    """Return a text as TOML has it: as JSON, but for the character of which TOML differs."""
    if not refers and REFERENCE.search(text):
        raise ConfigError(
            "a text with ${…} names an environment variable in a config: keep this one in a "
            "variable or in a file of its own"
        )
    return to_json(text).replace("\x7f", "\\u007F")


def check_new(path: Path, *, replace: bool) -> None:
    """Raise `ConfigError` if the file cannot be made: it exists, or its folder does not."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder does not exist; make it, or name another file")
    if not replace and os.path.lexists(path):
        raise ConfigError(f"{path} exists: --force replaces it, --config names another file")


def write_new(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that its owner alone may read: all of it or nothing.

    A file that exists is replaced only if `replace`. Raise `ConfigError` if it cannot be written.
    """
    check_new(path, replace=replace)
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(name, path)
            else:
                os.link(name, path)  # refuses a file that was made meanwhile
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
