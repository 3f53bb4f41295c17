"""Where each setting comes from: a line of the file, a variable, a file of a secret, or nowhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from syncer.config.secret_files import Keys, Place, names

#: `${NAME}` in a text: the environment variable NAME.
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Origin:
    """Where a value comes from; `place` is "config.toml:12", a variable, or a secret's file."""

    kind: Literal["default", "file", "environment", "secret_file"]
    place: str | None = None
    #: the environment variables that its text in the file names
    refers: tuple[str, ...] = ()
    #: the files of secrets that stand in its entries, such as those of write keys
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origins:
    """Where the values of a config come from. `of` answers for one setting."""

    path: Path
    text: str
    #: the variable that set a key, and the file that a secret was read from
    variables: Mapping[Keys, str]
    secrets: Mapping[Place, str]

    def of(self, keys: Keys) -> Origin:
        """Return where the setting with these keys comes from."""
        if keys in self.secrets:
            return Origin("secret_file", self.secrets[keys])
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.variables:
                return Origin("environment", self.variables[keys[:length]])
        if keys not in self._stated:
            return Origin("default")
        line, refers = self._stated[keys]
        return Origin("file", f"{self.path}:{line}", refers, self._files_below(keys))

    def _files_below(self, keys: Keys) -> tuple[str, ...]:
        return tuple(
            file for place, file in self.secrets.items() if names(place)[: len(keys)] == keys
        )

    @cached_property
    def _stated(self) -> dict[Keys, tuple[int, tuple[str, ...]]]:
        """The keys of the file, each with its line and the variables that its value names."""
        stated: dict[Keys, tuple[int, tuple[str, ...]]] = {}
        section: Keys = ()
        for line, statement, parsed in _statements(self.text):
            keys = [*_paths(parsed)]
            if statement.lstrip().startswith("["):
                section = keys[0][0]
                stated.setdefault(section, (line, ()))
                continue
            for below, value in keys:
                stated.setdefault((*section, *below), (line, tuple(_references(value))))
        return stated


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the statements of a text of TOML: the number of the first line, the text, its values.

    A statement is the fewest lines that can be read together: a value may take several.
    """
    lines: list[str] = []
    for number, line in enumerate(StringIO(text), 1):  # a line of TOML ends with no other than \n
        lines.append(line)
        try:
            parsed = tomllib.loads("".join(lines))
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        if parsed:
            yield number - len(lines) + 1, "".join(lines), parsed
        lines = []


def _paths(values: dict[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the deepest keys of a statement with their values, then the tables that they are in."""
    for key, value in values.items():
        if isinstance(value, list) and value == [{}]:
            value = {}  # the header of an entry: [[engage.files.sets]]
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))
        yield (*above, key), value


def _references(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield from REFERENCE.findall(value)
        case list():
            for entry in value:
                yield from _references(entry)
        case dict():
            for entry in value.values():
                yield from _references(entry)
