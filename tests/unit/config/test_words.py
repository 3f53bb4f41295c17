"""Whatever stands in a config, its errors are in words of the settings, not of a library."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_origin

import orjson
import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel

from syncer.config import SECRET_FILES, load_text
from syncer.config.settings import Config
from syncer.errors import ConfigError
from tests.support.config_schema import FILE

#: Values of every type of TOML, and odd ones of each.
VALUES = [
    *('"x"', '""', "true", "-1", "1.5", "nan", "inf", "1e400", "99999999999999999999"),
    *("[]", "[1]", '["a", 1]', "[[]]", "[{}]", "{}", "{ a = 1 }", '"\\u0000"'),
    *("2026-11-28", "2026-11-28T00:00:00Z", "12:00:00"),
]
#: What makes a config whole, by the key; the key under test takes its place.
LEAST = {
    "amberflo.api_key": '"k"',
    "engage.profiles_sync.url": '"sqlite:///x.db"',
    "web.token": '"0123456789abcdef"',
    "engage.public_api.token": '"t"',
    "engage.public_api.space_id": '"s"',
}
#: The same of the sources that are not the usual one; `engage.source` names them.
LEAST_OF = {
    "engage_warehouse": {"engage.engage_warehouse.url": '"sqlite:///x.db"'},
    "profile_api": {"engage.profile_api.token": '"t"', "engage.profile_api.space_id": '"s"'},
    "files": {"engage.files.sets": '[{ path = "x.csv" }]'},
    "events": {},
}
#: What editors check a config by.
SCHEMA = Draft7Validator(orjson.loads(FILE.read_bytes()))
FOREIGN = ("Input should", "unable to", "Value error", "should be", "valid ", "pydantic", "type=")


def section(annotation: object) -> type[BaseModel] | None:
    if get_origin(annotation) is tuple:
        return None  # the entries of a list have no keys of their own
    kinds = (annotation, *get_args(annotation))
    return next(
        (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
    )


def keys(model: type[BaseModel] = Config, above: str = "") -> Iterator[str]:
    """Every key of the settings, sections included."""
    for name, info in model.model_fields.items():
        key = f"{above}{info.alias or name}"
        yield key
        if (inner := section(info.annotation)) is not None:
            yield from keys(inner, f"{key}.")


KEYS = [
    *keys(),
    *(".".join(secret) + "_file" for secret in SECRET_FILES if "write_keys" not in secret),
]


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_a_wrong_type_is_told_in_words_of_the_setting(key: str) -> None:
    assert_own_words(lambda value: f"{key} = {value}", key)


@pytest.mark.parametrize("entry", ["key = {}", 'key = "k", may = {}', 'key = "k", name = {}'])
def test_a_wrong_entry_of_the_write_keys_too(entry: str) -> None:
    assert_own_words(
        lambda value: f"passthrough.write_keys = [{{ {entry.replace('{}', value)} }}]",
        "passthrough.write_keys",
    )


@pytest.mark.parametrize("entry", ["path = {}", 'path = "a", kind = {}', 'path = "a", key = {}'])
def test_a_wrong_entry_of_the_sets_of_files_too(entry: str) -> None:
    assert_own_words(
        lambda value: f"engage.files.sets = [{{ {entry.replace('{}', value)} }}]",
        "engage.files.sets",
    )


def least(key: str) -> dict[str, str]:
    """What makes a config whole that has a value under this key."""
    source = key.split(".")[1] if key.startswith("engage.") else ""
    if source not in LEAST_OF:
        return LEAST
    rest = {name: of for name, of in LEAST.items() if "profiles_sync" not in name}
    return rest | LEAST_OF[source] | {"engage.source": f'"{source}"'}


def assert_own_words(line: Callable[[str], str], key: str) -> None:
    refused = 0
    for value in VALUES:
        rest = [f"{name} = {of}" for name, of in least(key).items() if not name.startswith(key)]
        text = "\n".join([*rest, line(value)])
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue  # the key is a section that the rest has already
        try:
            load_text(Path("config.toml"), {}, text)
            assert SCHEMA.is_valid(parsed), text  # what may stand there, an editor takes
        except ConfigError as error:
            refused += 1
            for problem in error.lines:
                assert problem.startswith("config.toml"), problem
                assert not any(word in problem for word in FOREIGN), problem
    assert refused, key
