"""The JSON Schema of the config, and where each value comes from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator

from syncer.cli import cli
from syncer.config import Origin, load_with_origins
from syncer.setting_types import as_duration, duration
from tests.support import config_schema
from tests.unit.config.helpers import EXAMPLE


def test_the_schema_is_that_of_the_settings_and_is_shipped() -> None:
    shipped = config_schema.FILE.read_text(encoding="utf-8")
    assert shipped == config_schema.text(), "python -m tests.support.config_schema writes it anew"
    assert CliRunner().invoke(cli, ["config", "schema"]).stdout == shipped
    Draft7Validator.check_schema(config_schema.schema())


def test_editors_take_the_example_and_no_typo() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    directive = text.splitlines()[0].removeprefix("#:schema ")
    assert (EXAMPLE.parent / directive).samefile(config_schema.FILE)
    schema = Draft7Validator(config_schema.schema())
    whole = re.sub(r"^# (\[?[a-z_.]+(\]| = ))", r"\1", text, flags=re.MULTILINE)
    whole = re.sub(r"^[a-z_]+_file = .*\n", "", whole, flags=re.MULTILINE)
    for example in (text, whole):
        assert not list(schema.iter_errors(tomllib.loads(example)))
    wrong = [
        "amberflow = {}",
        "amberflo.rte = 5",
        'amberflo.rate = "fast"',
        "amberflo.rate = -1",
        'amberflo = { api_key = "a", api_key_file = "b" }',
        'alerts = { urls = ["json://a"], urls_file = "b" }',
        'engage.source = "profile_sync"',
        'schedule.every = "2 hours"',
        'ops.listen = "8402"',
        "engage.files.sets = [{ kind = 'list' }]",
        'passthrough.write_keys = [{ key = "a", may = ["everything"] }]',
    ]
    for line in wrong:
        assert not schema.is_valid(tomllib.loads(line)), line
    assert schema.is_valid(tomllib.loads('amberflo.rate = "${RATE}"'))


TEXT = """\
secrets_dir = "."
amberflo.rate = 5  # a line \x85 [goes] \u2028 on

[engage]
audiences = [
    "${FIRST}",  # [not.a.header]
    "b",
]
filter = '''
[log]
level = 5'''
[[engage.files.sets]]
path = "x.csv"
[engage.files.storage]
key = "hush"
[engage]
"""


def test_each_value_says_where_it_comes_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXT.removesuffix("[engage]\n").replace("[engage]\n", '[engage]\nsource = "files"\n')
    file.write_text(text, encoding="utf-8")
    file.with_name("amberflo.api_key").write_text("hush", encoding="utf-8")
    environ = {"FIRST": "a", "SYNCER_LOG__LEVEL": "error"}
    _, origins = load_with_origins(file, environ)
    assert origins.of(("amberflo", "rate")) == Origin("file", f"{file}:2")
    assert origins.of(("engage", "audiences")) == Origin("file", f"{file}:6", ("FIRST",))
    assert origins.of(("engage", "filter")) == Origin("file", f"{file}:10")
    assert origins.of(("engage", "files", "sets")) == Origin("file", f"{file}:13")
    assert origins.of(("log", "level")) == Origin("environment", "SYNCER_LOG__LEVEL")
    assert origins.of(("log", "format")) == Origin("default")
    key = Origin("secret_file", str(file.with_name("amberflo.api_key")))
    assert origins.of(("amberflo", "api_key")) == key
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    for option in ([], ["--json"]):
        shown = CliRunner().invoke(cli, ["config", "show", "--config", str(file), *option])
        assert shown.exit_code == 0, shown.output
        assert "hush" not in shown.output
        assert "(hidden)" in shown.output


def test_of_a_url_the_password_and_the_query_are_hidden(file: Path) -> None:
    urls = {
        "sqlite:////x.db": "sqlite:////x.db",
        "postgresql://u:hush@h/d": "postgresql://u:***@h/d",
        "postgresql://u@h/d?password=hush": "postgresql://u@h/d?(hidden)",
    }
    for url, written in urls.items():
        text = f'[amberflo]\napi_key = "hush"\n[engage.profiles_sync]\nurl = "{url}"\n'
        file.write_text(text, encoding="utf-8")
        shown = CliRunner().invoke(cli, ["config", "show", "--config", str(file), "--json"])
        (setting,) = (
            document
            for document in orjson.loads(shown.output)
            if document["setting"] == "engage.profiles_sync.url"
        )
        assert (setting["value"], setting["hidden"]) == (written, url != written)


@pytest.mark.parametrize("text", ["2h30m", "1d", "90s", "0s", "1.5s", "400d"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert duration(as_duration(duration(text))) == duration(text)
