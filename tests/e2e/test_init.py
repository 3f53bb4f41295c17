"""`syncer init` writes a config that `syncer check` passes."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import API_KEY, Installation
from tests.support.space import Warehouse
from tests.support.terminal import Terminal

URL = "PROFILES_SYNC_URL"


@pytest.fixture
def new(
    installation: Installation, engage: EngageSandbox, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """An installation without a config: Engage has 200 profiles, Amberflo is at its URLs."""
    engage.fill(200, 4)
    installation.config.unlink()
    for key in ("customers", "ingest"):
        monkeypatch.setenv(
            f"SYNCER_AMBERFLO__{key.upper()}_URL", f"{installation.amberflo_url}/{key}"
        )
    for section in ("PASSTHROUGH", "OPS"):
        monkeypatch.setenv(f"SYNCER_{section}__LISTEN", "127.0.0.1:0")
    return installation


@pytest.fixture
def key_file(new: Installation) -> Path:
    file = new.folder / "the key"
    file.write_text(f"{API_KEY}\n", encoding="utf-8")
    return file


def written(installation: Installation) -> dict[str, Any]:
    return tomllib.loads(installation.config.read_text(encoding="utf-8"))


def test_with_options_it_asks_nothing(new: Installation, key_file: Path) -> None:
    made = new.run(
        *("init", "--warehouse", new.source_url, "--api-key-file", str(key_file)),
        *("--computed-trait", "total_revenue_*"),
    )
    assert "computed trait" in made.stdout
    assert "syncer diff --config" in made.stdout
    assert stat.S_IMODE(new.config.stat().st_mode) == 0o600
    assert written(new) == {
        "amberflo": {"api_key_file": str(key_file)},
        "engage": {
            "audiences": ["*"],
            "computed_traits": ["total_revenue_*"],
            "profiles_sync": {"url": new.source_url, "schema": ""},
        },
        "state": {"url": "sqlite:///syncer.db"},
    }
    results = new.json("check")
    assert all(result["ok"] for result in results)
    (traits,) = (result["traits"] for result in results if result["check"] == "traits")
    assert {trait["kind"] for trait in traits} == {"audience", "computed_trait"}


def test_what_the_environment_has_stays_there(
    new: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMBERFLO_API_KEY", API_KEY)
    monkeypatch.setenv(URL, new.source_url)
    new.run("init")
    config = written(new)
    assert config["amberflo"] == {"api_key": "${AMBERFLO_API_KEY}"}
    assert config["engage"]["profiles_sync"]["url"] == f"${{{URL}}}"
    assert all(result["ok"] for result in new.json("check"))


def test_without_a_terminal_it_names_all_that_is_missing(new: Installation) -> None:
    line = new.run("init", exit_code=2).stderr
    assert line == (
        "Error: There is no terminal to ask on: add --warehouse URL (or the variable "
        "PROFILES_SYNC_URL) and --api-key-file FILE (or the variable AMBERFLO_API_KEY)\n"
    )
    assert not new.config.exists()


def test_a_config_that_exists_stays(new: Installation, key_file: Path) -> None:
    words = ("init", "--warehouse", new.source_url, "--api-key-file", str(key_file))
    new.config.write_text("mine", encoding="utf-8")
    assert "--force replaces it" in new.run(*words, exit_code=2).stderr
    assert new.config.read_text(encoding="utf-8") == "mine"
    new.run(*words, "--force")
    assert written(new)["engage"]["audiences"] == ["*"]
    assert sorted(path.name for path in new.folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--warehouse", "engage.db"], "engage.profiles_sync.url: this is not a database URL"),
        (["--warehouse", "sqlite:///none.db"], "none.db does not exist"),
        (["--schema", "other"], "--schema other: this database has no schemas; leave --schema out"),
        (["--warehouse-file", "x"], "by --warehouse or by --warehouse-file, not both"),
        (["--computed-trait", "${HOME}"], "names an environment variable in a config"),
        (["--audience", "!vip"], 'entries with "!" only leave keys out'),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    new: Installation, key_file: Path, words: list[str], said: str
) -> None:
    given = ["--warehouse", new.source_url, "--api-key-file", str(key_file)]
    errors = new.run("init", *given, *words, exit_code=2).stderr.splitlines()
    assert said in errors[-1]
    assert not new.config.exists()


def test_a_file_that_holds_no_secret_is_named(new: Installation, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, line in (
        (b"\n ", "is empty; it must hold Amberflo's API key"),
        (b"\xff", "UTF-8"),
    ):
        file.write_bytes(content)
        words = ("init", "--warehouse", new.source_url, "--api-key-file", str(file))
        assert f"error: {file}" in (error := new.run(*words, exit_code=2).stderr)
        assert line in error
    file.unlink()
    error = new.run("init", "--warehouse-file", str(file), exit_code=2).stderr
    assert error == f"error: {file}: cannot be read: No such file or directory\n"


def test_a_file_of_a_secret_that_exists_is_told_before_it_is_typed(new: Installation) -> None:
    (new.folder / "amberflo-api-key").write_text("mine", encoding="utf-8")
    words = ("init", "--config", str(new.config), "--warehouse", new.source_url)
    with Terminal(*words) as terminal:
        assert terminal.end() == 2
    assert "amberflo-api-key exists: --force replaces it" in terminal.shown
    assert "Computed traits" not in terminal.shown
    assert not new.config.exists()


def test_a_key_that_amberflo_refuses_is_not_written(new: Installation, key_file: Path) -> None:
    key_file.write_text("another", encoding="utf-8")
    words = ("init", "--warehouse", new.source_url, "--api-key-file", str(key_file))
    assert "refuses the API key" in new.run(*words, exit_code=1).stderr
    assert not new.config.exists()


def test_on_a_terminal_it_asks_and_shows_no_key(new: Installation) -> None:
    with Terminal("init", "--config", str(new.config)) as terminal:
        terminal.answer("Warehouse URL", "sqlite:///nothing.db")
        terminal.answer("Warehouse URL", new.source_url)
        terminal.answer("Computed traits among them", "total_revenue_*, nothing")
        terminal.answer("Amberflo API key", "a-wrong-one")
        # What is typed before the question is thrown away: it would be shown.
        terminal.answer("Amberflo API key", API_KEY)
        assert terminal.end() == 0, terminal.shown
    assert "refuses the API key" in terminal.shown
    assert API_KEY not in terminal.shown
    assert "a-wrong-one" not in terminal.shown
    file = new.folder / "amberflo-api-key"
    assert written(new)["amberflo"] == {"api_key_file": str(file)}
    assert written(new)["engage"]["computed_traits"] == ["total_revenue_*", "nothing"]
    assert file.read_text(encoding="utf-8") == API_KEY
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert all(result["ok"] for result in new.json("check"))


def test_secrets_stand_in_the_config_only_if_asked_for(new: Installation) -> None:
    words = ("init", "--config", str(new.config), "--secrets-in-config")
    with Terminal(*words, "--warehouse", new.source_url) as terminal:
        terminal.answer("Computed traits among them", "")
        terminal.answer("Amberflo API key", API_KEY)
        assert terminal.end() == 0, terminal.shown
    assert written(new)["amberflo"] == {"api_key": API_KEY}
    assert sorted(path.name for path in new.folder.glob("*key*")) == []


@pytest.mark.parametrize("start", ["postgres", "postgresql"])
def test_the_schemas_of_a_warehouse(
    new: Installation, key_file: Path, postgres_url: str, start: str
) -> None:
    """One that holds the tables is taken; of several one must be named."""
    url = postgres_url.replace("postgresql+psycopg", start)
    words = ("init", "--warehouse", url, "--api-key-file", str(key_file))
    assert "no schema of" in new.run(*words, exit_code=1).stderr
    space = Warehouse(postgres_url, "one_space")
    space.create()
    space.member("p1", "u1")
    space.flush()
    new.run(*words)
    assert written(new)["engage"]["profiles_sync"]["schema"] == "one_space"
    assert all(result["ok"] for result in new.json("check"))
    other = Warehouse(postgres_url, "other_space")
    other.create()
    error = new.run(*words, "--force", exit_code=2).stderr
    assert "add --schema, one of one_space, other_space" in error
    new.run(*words, "--force", "--schema", "other_space")
    assert written(new)["engage"]["profiles_sync"]["schema"] == "other_space"
    for warehouse in (space, other):
        warehouse.engine.dispose()


def test_a_password_that_was_typed_goes_into_a_file(
    new: Installation, key_file: Path, postgres_url: str
) -> None:
    space = Warehouse(postgres_url, "one_space")
    space.create()
    space.engine.dispose()
    url = postgres_url.replace("postgresql+psycopg", "postgres")
    words = ("init", "--config", str(new.config), "--api-key-file", str(key_file))
    with Terminal(*words) as terminal:
        terminal.answer("Warehouse URL", url.replace("postgres:@", "postgres@"))
        terminal.answer("Password of postgres", "hunter2")
        assert terminal.end() == 0, terminal.shown
    assert "hunter2" not in terminal.shown
    file = Path(written(new)["engage"]["profiles_sync"]["url_file"])
    assert "postgres:hunter2@" in file.read_text(encoding="utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.path.samefile(file.parent, new.folder)
