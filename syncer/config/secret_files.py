"""Secrets that stand in files: that a `…_file` key names, or in the folder `secrets_dir`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from syncer.engage.sources import SOURCES
from syncer.input_text import unwrapped

#: The way to a key: its sections, then its name; and to a value, with the numbers of list entries.
Keys = tuple[str, ...]
Place = tuple[str | int, ...]

#: Secrets that may stand in a file, whose path the key with `_file` at its end names.
SECRET_FILES: tuple[Keys, ...] = (
    ("amberflo", "api_key"),
    *(("engage", name, secret) for name, kind in SOURCES.items() for secret in kind.SECRETS),
    ("engage", "public_api", "token"),
    ("state", "url"),
    ("passthrough", "write_keys", "key"),
    ("passthrough", "webhook_secret"),
    ("web", "token"),
    ("alerts", "webhook"),
    ("alerts", "urls"),
)
#: Sections that are always there, so that a secret in the folder may be all that is set of them.
ALWAYS: tuple[Keys, ...] = (("amberflo",), ("state",), ("passthrough",), ("alerts",))


def file_key(keys: Keys) -> Keys:
    """Return the key that names the file of a secret."""
    return (*keys[:-1], f"{keys[-1]}_file")


def twin(keys: Keys) -> Keys | None:
    """Return the other key of a secret and its file; None for a setting that is neither."""
    if keys in SECRET_FILES:
        return file_key(keys)
    secret = (*keys[:-1], keys[-1].removesuffix("_file"))
    return secret if keys != secret and secret in SECRET_FILES else None


def names(place: Place) -> Keys:
    """Return the names of pydantic's place of an error, without the numbers of list entries."""
    return tuple(part for part in place if isinstance(part, str))


def entry_of(raw: object, place: Place) -> str:
    """Return which entries of lists a place is in, ", entry 2"; "" in a list of one."""
    words = ""
    for part in place:
        if isinstance(raw, list) and len(raw) > 1 and isinstance(part, int):
            words += f", entry {part + 1}"
        try:
            raw = raw[part]  # type: ignore[index]
        except (LookupError, TypeError):
            break
    return words


def tables(raw: object, keys: Keys, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the tables at a place of the settings, each with its place: one, or those of a list."""
    if isinstance(raw, list):
        for at, table in enumerate(raw):
            yield from tables(table, keys, (*place, at))
    elif isinstance(raw, dict) and not keys:
        yield place, raw
    elif isinstance(raw, dict) and keys[0] in raw:
        yield from tables(raw[keys[0]], keys[1:], (*place, keys[0]))


def name_in_folder(section: Mapping[str, Any], place: Place, secret: str) -> str | None:
    """Return the name of a secret's file in `secrets_dir`: that of the setting.

    That of a write key has the entry's `name` in place of `key`: "passthrough.write_keys.browser";
    None for an entry without a name.
    """
    last = secret
    if place != names(place):
        name = section.get("name")
        if not isinstance(name, str) or "/" in name:
            return None
        last = name
    return ".".join((*names(place), last))


def problem_of_folder(folder: Path) -> str:
    """Return what is wrong with a folder of secrets, "" if nothing is.

    One that this user may not look into would pass for one that is empty.
    """
    try:
        os.stat(f"{folder}/.")  # the dot asks for the right to look into it
    except PermissionError as error:
        return f"{folder} cannot be looked into ({error.strerror}); it must hold secrets"
    except (OSError, ValueError):  # a ValueError: the name has a NUL
        return f"{folder} is no folder that holds secrets"
    return ""


def read(file: Path, secret: str) -> tuple[str, str]:
    """Return the text of a secret's file, and what is wrong with the file ("" if nothing is)."""
    hint = f"it must hold the {secret.removeprefix('api_')}"
    try:
        text = unwrapped(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return "", f"{file} cannot be read (it is not text); {hint}"
    except (OSError, ValueError) as error:  # a ValueError: the name has a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return "", f"{file} cannot be read ({reason}); {hint}"
    return text, "" if text else f"{file} is empty; {hint}"
