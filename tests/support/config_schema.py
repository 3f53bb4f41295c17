"""The JSON Schema of the config, from the models of the settings and the page that describes them.

    python -m tests.support.config_schema

writes syncer/config/schema.json, which the package ships and `syncer config schema` prints. What it
accepts is what may stand in a file: any setting may come from the environment instead, so none is
required; and a text may have a `${NAME}`, which stands for any value.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from syncer.config import SECRET_FILES, Config
from syncer.config.loading import section_of
from tests.support.reference import ROOT, code, page, tables

FILE = ROOT / "syncer/config/schema.json"

#: What editors understand: draft 7.
DRAFT = "http://json-schema.org/draft-07/schema#"
REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
#: What tables need in a list, which no variable can set; a key may be in a file of `secrets_dir`.
NEEDED = {"engage.files.sets[]": ["path"]}


def schema() -> dict[str, Any]:
    """The schema, as the file has it."""
    raw = Config.model_json_schema()
    whole = _Schema(raw.get("$defs", {})).section(raw, "")
    return {"$schema": DRAFT, "title": "The config of syncer", **whole}


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


class _Schema:
    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions, self.page = definitions, described()

    def section(self, raw: dict[str, Any], above: str) -> dict[str, Any]:
        """A table: its keys and no others; a secret has a twin that names its file."""
        prefix = f"{above}." if above else ""
        keys: dict[str, Any] = {}
        secrets = {".".join(keys) for keys in SECRET_FILES}
        both = []
        for name, value in raw["properties"].items():
            keys[name] = self.value(value, f"{prefix}{name}")
            if f"{prefix}{name}".replace("[]", "") in secrets:
                what = f"A file that holds `{name}`, instead of it."
                keys[f"{name}_file"] = {"description": what, "type": "string"}
                both.append({"required": [name, f"{name}_file"]})
        result = {"type": "object", "additionalProperties": False, "properties": keys}
        if both:
            result["not"] = {"anyOf": both}
        if above in NEEDED:
            result["required"] = NEEDED[above]
        return result

    def value(self, raw: dict[str, Any], key: str) -> dict[str, Any]:
        """A setting, with its description and its default as they are on the page."""
        result: dict[str, Any] = {}
        if key in self.page:
            default, result["description"] = self.page[key]
            if default is not None:
                result["default"] = default
        return result | self.kind(raw, key)

    def kind(self, raw: dict[str, Any], key: str) -> dict[str, Any]:
        """What may be the value of a setting."""
        if "$ref" in raw:
            raw = self.definitions[raw["$ref"].rpartition("/")[2]]
        if "anyOf" in raw:  # it may be left out
            (raw,) = (entry for entry in raw["anyOf"] if entry.get("type") != "null")
            return self.kind(raw, key)
        if "properties" in raw:
            return self.section(raw, key)
        if raw.get("type") == "array":
            items = self.kind(raw["items"], f"{key}[]")
            if key == "passthrough.write_keys":
                items = {"anyOf": [{"type": "string"}, items]}
            return _only(raw, "type", "minItems") | {"items": items}
        plain = _only(raw, "type", "enum", "pattern", "minLength", "additionalProperties")
        plain |= bounds(key)
        if plain.keys() & {"enum", "pattern"} or plain["type"] in ("number", "integer"):
            return {"anyOf": [plain, REFERENCE]}
        return plain


def bounds(key: str) -> dict[str, Any]:
    """The bounds of a number; pydantic's own schema has none where it is read by a function."""
    keys = tuple(key.replace("[]", "").split("."))
    section = section_of(keys)
    info = section.model_fields.get(keys[-1]) if section else None
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
    return {
        word: bound
        for limit in (info.metadata if info else [])
        for name, word in names.items()
        if isinstance(bound := getattr(limit, name, None), int | float)
    }


def _only(raw: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: raw[name] for name in names if name in raw}


def described() -> dict[str, tuple[Any, str]]:
    """The settings on the page by their key: the default (None: it has none), and what they are."""
    result = {}
    for table in tables(page("config.md")):
        if table.columns != ("key", "default", "what"):
            continue
        section = code(table.heading).strip("[]")
        for key, default, what in table.rows:
            name = f"{section}.{code(key)}" if section else code(key)
            value = tomllib.loads(f"x = {code(default)}")["x"] if "`" in default else None
            result[name] = value, _LINK.sub(r"\1", what)
    return result


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
