"""`config`: the settings, where each comes from, and the JSON Schema of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from sqlalchemy.engine import URL

from syncer.cli import console, output
from syncer.cli.options import config_option, config_path, json_option
from syncer.config import Origins, load_with_origins
from syncer.json_text import to_json
from syncer.setting_types import as_duration, is_duration, shown

COLUMNS = ("setting", "value", "from")
#: What stands in place of a secret.
HIDDEN = "(hidden)"


@click.group()
def config() -> None:
    """Show the settings, where each comes from, and their JSON Schema."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the config, by which editors complete and check it."""
    text = files("syncer.config").joinpath("schema.json").read_text(encoding="utf-8")
    output.print_json(json.loads(text))


@config.command()
@config_option
@json_option
def show(config: Path | None, as_json: bool) -> None:
    """List every setting, its value, and where it comes from; secrets are hidden.

    It comes from a line of the file, a variable, a secret's file, or it is the default.
    """
    loaded, origins = load_with_origins(config_path(config), os.environ)
    documents = list(_settings(loaded, origins))
    if as_json:
        output.print_json(documents)
        return
    rows = [[document["setting"], _cell(document), _from(document)] for document in documents]
    console.print_table(COLUMNS, rows)


def _settings(
    section: BaseModel, origins: Origins, above: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    for name, info in type(section).model_fields.items():
        keys, value = (*above, info.alias or name), getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, origins, keys)
            continue
        if value is None and _is_section(info):
            continue  # an optional section that is not used
        origin = origins.of(keys)
        plain, hidden = _plain(value, info)
        yield {
            "setting": ".".join(keys),
            "value": plain,
            "hidden": hidden,
            "from": origin.kind,
            "place": origin.place,
            "refers": list(origin.refers),
            "files": list(origin.files),
        }


def _is_section(info: FieldInfo) -> bool:
    kinds = getattr(info.annotation, "__args__", ())
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _plain(value: Any, info: FieldInfo) -> tuple[Any, bool]:
    """Return a value as JSON has it, and whether it has something that is hidden."""
    match value:
        case SecretStr():
            return HIDDEN, True
        case URL():
            text = f"{shown(value)}?{HIDDEN}" if value.query else shown(value)
            return text, text != value.render_as_string(hide_password=False)
        case dict():  # values may be keys of a storage
            return dict.fromkeys(value, HIDDEN), bool(value)
        case tuple() | list():
            entries = [_plain(entry, info) for entry in value]
            return [plain for plain, _ in entries], any(hidden for _, hidden in entries)
        case BaseModel():
            fields = {name: _plain(part, info) for name, part in value}
            hidden = any(hides for _, hides in fields.values())
            return {name: plain for name, (plain, _) in fields.items()}, hidden
        case float() if is_duration(info):
            return as_duration(value), False
    return value, False


def _cell(document: dict[str, Any]) -> str:
    value = document["value"]
    return "" if value is None else value if isinstance(value, str) else to_json(value)


def _from(document: dict[str, Any]) -> str:
    words = {"default": "default", "environment": "variable ", "secret_file": "file "}
    refers = "".join(f", ${{{name}}}" for name in document["refers"])
    files = "".join(f", file {file}" for file in document["files"])
    return f"{words.get(document['from'], '')}{document['place'] or ''}{refers}{files}"
