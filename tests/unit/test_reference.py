"""The reference pages say what the program has, and nothing else: commands and their options,
settings and their defaults, metrics and their labels, paths and refusals of HTTP. (JSON documents
are in tests/e2e/test_reference.py, which makes them.)"""

from __future__ import annotations

import re
import shlex
import tomllib
from types import UnionType
from typing import Any, get_args, get_origin

import click
import orjson
import pytest
from pydantic import BaseModel

from syncer.cli import COMMANDS, cli
from syncer.config import SECRET_FILES, Config
from syncer.passthrough import openapi
from syncer.passthrough.call import ROUTES
from syncer.passthrough.receiver import METRICS
from tests.support.reference import (
    MAN_PAGE,
    OPENAPI,
    ROOT,
    Metric,
    Table,
    code,
    codes,
    helps,
    helps_on,
    man_page,
    metrics,
    page,
    page_paths,
    refusal_codes,
    tables,
    with_helps,
)

#: How the page writes that a setting has no default: it must be set, or may be missing.
REQUIRED, NONE = "required", "none"
#: Settings without a default, for a config that is complete.
GIVEN: dict[tuple[str, ...], object] = {
    ("amberflo", "api_key"): "key",
    ("engage", "profiles_sync", "url"): "sqlite:///engage.db",
    ("engage", "engage_warehouse", "url"): "sqlite:///engage.db",
    ("engage", "profile_api", "token"): "token",
    ("engage", "profile_api", "space_id"): "space",
    ("engage", "files", "sets"): [{"path": "/vip.csv"}],
    ("engage", "public_api", "token"): "token",
    ("engage", "public_api", "space_id"): "space",
    ("web", "token"): "0123456789abcdef",
}

# -- commands


def test_the_list_of_commands_says_how_each_begins() -> None:
    """Beside the modules, so that `syncer --help` imports none of them."""
    context = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert line == command.get_short_help_str(limit=1000)


def test_every_command_is_on_the_page_with_its_help() -> None:
    written, true = helps_on(page("cli.md")), helps()
    assert sorted(written) == sorted(true)
    wrong = {name for name in true if written[name] != true[name]}
    assert not wrong, "python -m tests.support.reference writes their help texts anew"


def test_the_man_page_has_the_same_helps() -> None:
    text = MAN_PAGE.read_text(encoding="utf-8")
    assert text == man_page(), "python -m tests.support.reference writes it anew"


def test_the_helps_are_written_where_they_belong() -> None:
    text = "# Page\n\n## `syncer a`\n\n```text\nold\n```\n\nA note.\n"
    new = with_helps(text, {"syncer a": "new \\1", "syncer b c": "more"})
    assert helps_on(new) == {"syncer a": "new \\1", "syncer b c": "more"}
    assert "```\n\nA note.\n\n### `syncer b c`\n" in new


def _shown_commands() -> list[tuple[str, list[str]]]:
    """The commands of this program that pages show, as their words, with the page's name."""
    blocks = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    call = re.compile(r"(?:^|[;&|] *)(?:\.venv/bin/)?syncer ([^;&|#\n]+)", re.MULTILINE)
    files = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    return [
        (file.name, shlex.split(words))
        for file in files
        for block in blocks.findall(file.read_text(encoding="utf-8"))
        for words in call.findall(block.strip())
    ]


def test_the_commands_that_pages_show_exist() -> None:
    true, wrong = helps(), []
    shown = _shown_commands()
    for file, words in shown:
        command = "syncer"
        while words and f"{command} {words[0]}" in true:
            command += f" {words.pop(0)}"
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        known = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", true[command])
        if command == "syncer" or not {*options} <= {*known}:
            wrong.append((file, command, words))
    assert len(shown) > 60
    assert not wrong


# -- settings


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one."""
    if isinstance(annotation, UnionType):
        annotation = get_args(annotation)[0]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def _of_list(annotation: Any) -> type[BaseModel] | None:
    """The table that a field is a list of, if it is one."""
    if get_origin(annotation) is not tuple:
        return None
    inner = get_args(annotation)[0]
    return _model(get_args(inner)[0] if get_args(inner) else inner)


def _keys(section: type[BaseModel], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    result: set[tuple[str, ...]] = set()
    for name, field in section.model_fields.items():
        key = (*path, field.alias or name)
        inner, table = _model(field.annotation), _of_list(field.annotation)
        result |= _keys(inner, key) if inner else {key}
        if table:
            result |= _keys(table, (*path, f"{name}[]"))
    return result


def _settings() -> dict[tuple[str, ...], tuple[str, str]]:
    """The settings on the page, by their key: the default as it is written, and what they are."""
    result = {}
    for table in tables(page("config.md")):
        if table.columns != ("key", "default", "what"):
            continue
        section = tuple(filter(None, code(table.heading).strip("[]").split(".")))
        for key, default, what in table.rows:
            result[(*section, *code(key).split("."))] = default, what
    return result


def test_every_setting_is_on_the_page() -> None:
    assert sorted(_settings()) == sorted(_keys(Config))


def _config(values: dict[tuple[str, ...], object]) -> Config:
    raw: dict[str, Any] = {}
    for keys, value in values.items():
        section = raw
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = value
    return Config.model_validate(raw)


def test_the_defaults_are_those_on_the_page() -> None:
    settings = {
        key: default for key, (default, _) in _settings().items() if "[]" not in "".join(key)
    }
    assert {key for key, default in settings.items() if default == REQUIRED} == set(GIVEN)
    defaults = {
        key: tomllib.loads(f"value = {code(default)}")["value"]
        for key, default in settings.items()
        if default not in (REQUIRED, NONE)
    }
    assert _config({**GIVEN, **defaults}) == _config(GIVEN)


def test_every_secret_is_on_the_page_with_its_file() -> None:
    settings = _settings()
    for keys in SECRET_FILES:
        path = tuple("write_keys[]" if key == "write_keys" else key for key in keys)
        assert f"{keys[-1]}_file" in codes(settings[path][1]), keys


# -- metrics


def _metrics() -> Table:
    return tables(page("metrics.md"))[0]


def test_every_metric_is_on_the_page() -> None:
    written = {
        Metric(code(name), kind, tuple(codes(labels))) for name, kind, labels, _ in _metrics().rows
    }
    assert written == metrics()


def test_the_metrics_that_pages_name_exist() -> None:
    known = {metric.name for metric in metrics()}
    files = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]  # a changelog names old ones
    named = {
        (file.name, name)
        for file in files
        for name in re.findall(r"`(syncer_[a-z_]+)", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert not {(file, name) for file, name in named if name not in known}


# -- HTTP


def _http(heading: str, column: str) -> set[str]:
    (table,) = (block for block in tables(page("http.md")) if block.heading == heading)
    return {text for cell in table.column(column) for text in codes(cell)}


def test_every_refusal_is_on_the_page() -> None:
    assert _http("Refusals", "code") == refusal_codes()


def test_every_path_of_the_operators_page_is_on_the_page() -> None:
    made_by_the_frame = {"/login", "/logout", "/static/NAME"}
    assert _http("The operator's page", "path") == page_paths() | made_by_the_frame


def test_every_path_for_calls_is_on_the_page() -> None:
    written = _http("Paths for calls", "path") | _http("Paths for calls", "takes")
    paths = {path.removeprefix("/v1/") for path in written if path.startswith("/v1/")}
    assert paths == {*ROUTES, METRICS, "projects/KEY/settings"}


def test_the_openapi_document_has_the_paths_and_refusals_of_the_page() -> None:
    written = orjson.loads(OPENAPI.read_bytes())
    assert OPENAPI.read_bytes() == openapi.document(), "python -m tests.support.reference"
    paths = {path.replace("{key}", "KEY") for path in written["paths"]}
    page_of = _http("Paths for calls", "path") | _http("Paths for calls", "takes")
    assert paths == {path for path in page_of if path.startswith(("/v1/", "/openapi"))} - {"/v1/"}
    (table,) = (block for block in tables(page("http.md")) if block.heading == "Refusals")
    by_status: dict[str, set[str]] = {}
    for status, name, _ in table.rows:
        by_status.setdefault(status, set()).add(code(name))
    told = written["paths"]["/v1/track"]["post"]["responses"]
    assert told.keys() - {"200"} == by_status.keys() - {"–"}
    for status in told.keys() - {"200"}:
        named = set(
            re.findall(
                "[a-z]+_[a-z_]+|malformed|internal|busy|stopping", told[status]["description"]
            )
        )
        assert named == by_status[status] - {"unknown_write_key"}, status


# -- the reader of tables


@pytest.mark.parametrize("end", ["", "\n", "\n\nMore.\n"])
def test_tables_are_read(end: str) -> None:
    text = "# One\n\n| a | b |\n|---|---|\n| `x` | y \\| z |\n\n## `[two]`: it\n| a |\n|---|" + end
    first, second = tables(text)
    assert first == Table("One", ("a", "b"), (("`x`", "y \\| z"),))
    assert (second.heading, second.columns, second.rows) == ("`[two]`: it", ("a",), ())
    assert first.column("b") == ["y \\| z"]
    assert code(first.rows[0][0]) == "x"
