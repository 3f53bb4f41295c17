"""`secrets_dir`: a folder of files, one a secret, as containers get them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncer.config import load, load_with_origins
from tests.support.users import only_as_root, somebody_else
from tests.unit.config.helpers import LEAST, refused

BARE = 'secrets_dir = "secrets"\n'


@pytest.fixture
def folder(file: Path) -> Path:
    """The folder of secrets of a config that has nothing else, with what is required."""
    file.write_text(BARE, encoding="utf-8")
    folder = file.with_name("secrets")
    folder.mkdir()
    (folder / "amberflo.api_key").write_text(" hush-key\n", encoding="utf-8")
    (folder / "engage.profiles_sync.url").write_text("postgresql://u:hush@h/d", encoding="utf-8")
    return folder


def test_the_first_that_is_there_counts(file: Path, folder: Path) -> None:
    (folder / "state.url").write_text("sqlite:///of-the-folder.db", encoding="utf-8")
    (folder / "web.token").write_text("hush-hush-hush-hush", encoding="utf-8")
    config = load(file, {})
    assert config.amberflo.api_key.get_secret_value() == "hush-key"
    assert config.engage.profiles_sync.url.password == "hush"
    assert str(config.state.url.database).endswith("of-the-folder.db")
    assert config.web is None  # a secret does not switch a section on
    by_variable = load(file, {"SYNCER_AMBERFLO__API_KEY": "hush-variable"})
    assert by_variable.amberflo.api_key.get_secret_value() == "hush-variable"
    (other := folder / "other").write_text("hush-other", encoding="utf-8")
    file.write_text(f'{BARE}[amberflo]\napi_key_file = "{other}"\n[web]\n', encoding="utf-8")
    config = load(file, {})
    assert config.amberflo.api_key.get_secret_value() == "hush-other"
    assert config.web is not None
    file.write_text(BARE + LEAST, encoding="utf-8")
    assert load(file, {}).amberflo.api_key.get_secret_value() == "hush"
    file.write_text('secrets_dir = "${CREDENTIALS_DIRECTORY}"', encoding="utf-8")
    of_systemd = load(file, {"CREDENTIALS_DIRECTORY": str(folder)})
    assert of_systemd.amberflo.api_key.get_secret_value() == "hush-key"


def test_what_is_wrong_with_it_is_told_in_a_line(file: Path, folder: Path) -> None:
    key = folder / "amberflo.api_key"
    key.write_text("\n", encoding="utf-8")
    assert refused(file) == f"FILE: secrets_dir: {key} is empty; it must hold the key"
    key.unlink()
    assert refused(file) == (
        "FILE: amberflo.api_key: missing; set api_key, or api_key_file with the path of a file, "
        "or put it into amberflo.api_key of secrets_dir"
    )
    key.mkdir()
    assert refused(file).startswith(f"FILE: secrets_dir: {key} cannot be read (Is a directory)")
    key.rmdir()
    key.write_text("hush", encoding="utf-8")
    file.write_text(f"{BARE}[passthrough]\nwrite_keys = [{{ name = 'web' }}]", encoding="utf-8")
    assert refused(file).endswith("write_keys.NAME of secrets_dir")
    (folder / "passthrough.write_keys.web").write_text("hush-web", encoding="utf-8")
    config, origins = load_with_origins(file, {})
    assert [caller.key for caller in config.passthrough.callers] == ["hush-web"]
    origin = origins.of(("passthrough", "write_keys"))
    assert origin.files == (str(folder / "passthrough.write_keys.web"),)
    assert origin.place == f"{file}:3"
    file.write_text(BARE + LEAST, encoding="utf-8")
    line = refused(file, {"SYNCER_SECRETS_DIR": "nowhere"})
    assert line.startswith("SYNCER_SECRETS_DIR: ")
    assert line.endswith("/nowhere is no folder that holds secrets")
    for wrong in ("nowhere", "config.toml", "a" * 300, r"a\u0000b"):
        file.write_text(f'secrets_dir = "{wrong}"', encoding="utf-8")
        line = refused(file)  # and nothing of what is missing because of it
        assert line.startswith("FILE: secrets_dir: ")
        assert line.endswith(" is no folder that holds secrets")


@only_as_root
def test_a_folder_that_may_not_be_looked_into_does_not_pass_for_an_empty_one() -> None:
    with TemporaryDirectory() as outer:  # everybody may enter it, as not that of pytest
        Path(outer).chmod(0o755)
        file, folder = Path(outer, "config.toml"), Path(outer, "secrets")
        file.write_text(f"secrets_dir = 'secrets'{LEAST}", encoding="utf-8")
        folder.mkdir(mode=0o700)
        (folder / "inner").mkdir()
        with somebody_else():
            line = f"{folder} cannot be looked into (Permission denied); it must hold secrets"
            assert refused(file) == f"FILE: secrets_dir: {line}"
            inner = refused(file, {"SYNCER_SECRETS_DIR": f"{folder}/inner"})
        assert inner.startswith("SYNCER_SECRETS_DIR: ")


def test_a_variable_counts_before_the_twin_in_the_file(file: Path, folder: Path) -> None:
    other = str(folder / "engage.profiles_sync.url")
    by_file = load(file, {"SYNCER_AMBERFLO__API_KEY_FILE": other})
    file.write_text(f'{BARE}amberflo.api_key = "hush-file"', encoding="utf-8")
    assert load(file, {"SYNCER_AMBERFLO__API_KEY_FILE": other}) == by_file
    file.write_text(f'{BARE}amberflo.api_key_file = "nowhere"', encoding="utf-8")
    config = load(file, {"SYNCER_AMBERFLO__API_KEY": "hush-variable"})
    assert config.amberflo.api_key.get_secret_value() == "hush-variable"
    both = {"SYNCER_AMBERFLO__API_KEY": "hush", "SYNCER_AMBERFLO__API_KEY_FILE": other}
    line = "SYNCER_AMBERFLO__API_KEY: set api_key or api_key_file, not both"
    assert refused(file, both) == line
