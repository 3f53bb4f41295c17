"""`engage.source` names one of the registered sources, and only its section is asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from syncer.config import load
from syncer.engage.source_settings import SourceContext
from syncer.engage.sources import SOURCES
from syncer.engage.sources.profile_api import ProfileApiSettings
from syncer.engage.sources.profiles_sync import ProfilesSyncSettings
from syncer.errors import ConfigError
from syncer.sync.trait_selection import Selection

from .helpers import refused, with_lines


def test_the_registry_names_each_source_once() -> None:
    assert all(name == kind.NAME for name, kind in SOURCES.items())
    for kind in SOURCES.values():
        assert {*kind.SECRETS, *kind.PATHS} <= {*kind.model_fields}


def test_an_unknown_source_is_told_with_those_that_are_known(file: Path) -> None:
    line = refused(file, {"SYNCER_ENGAGE__SOURCE": "warehouse"})
    assert line.startswith("SYNCER_ENGAGE__SOURCE: write ")
    assert all(repr(name) in line for name in SOURCES)


@pytest.mark.parametrize("source", ["[]", "{}", "5", "true"])
def test_a_source_that_is_no_name_is_told(file: Path, source: str) -> None:
    file.write_text(f'engage.source = {source}\n[amberflo]\napi_key = "hush"\n', encoding="utf-8")
    assert refused(file) == "FILE: engage.source: this is not a text; write it in quotes"


def test_the_settings_go_to_a_process_as_they_are(file: Path) -> None:
    config = load(file, {})
    assert pickle.loads(pickle.dumps(config)) == config
    assert isinstance(config.engage.settings, ProfilesSyncSettings)


def test_a_state_knows_its_source_by_the_same_text_as_ever(file: Path) -> None:
    """An older state would take any other text for another source, and compare everything."""
    url = "postgresql://reader:hush@host/db?options=-c%20a"
    config = load(
        with_lines(file, 'schema = "my_space"', "[engage.public_api]", 'token = "t"\nspace_id="s"'),
        {"SYNCER_ENGAGE__PROFILES_SYNC__URL": url, "SYNCER_ENGAGE__FILTER": "NOT gone"},
    )
    assert config.engage.settings.place == "postgresql://reader:***@host/db"
    assert Selection.of(config.engage).settings == (
        '{"customer_id":"user_id","audiences":["*"],"computed_traits":[],"source":["profiles_sync",'
        '"postgresql://reader:***@host/db?c14ced726bbe55b78a1e1d20527fc8fc"],"schema":"my_space",'
        '"filter":"NOT gone","space_id":"s"}'
    )


def test_only_the_section_of_the_source_that_is_used_is_asked_for(file: Path) -> None:
    """The others may stay, with variables and files that are not there."""
    file.write_text(
        """
[amberflo]
api_key = "hush"
[engage]
source = "profile_api"
[engage.profiles_sync]
url = "${NOT_SET}"
unknown = 1
[engage.files]
[engage.profile_api]
token_file = "TOKEN"
space_id = "space"
ids_file = "ids.txt"
""".replace("TOKEN", str(file.with_name("token"))),
        encoding="utf-8",
    )
    file.with_name("token").write_text("hush-token\n", encoding="utf-8")
    settings = load(file, {}).engage.settings
    assert isinstance(settings, ProfileApiSettings)
    assert settings.token.get_secret_value() == "hush-token"
    assert settings.ids_file == str(file.with_name("ids.txt"))
    assert settings.identity() == {
        "source": ["profile_api", "https://profiles.segment.com", "space"]
    }
    assert refused(file, {"SYNCER_ENGAGE__PROFILE_API__RATE": "0"}).endswith("write more than 0")


def test_a_section_without_its_name_in_engage_source_is_told(file: Path) -> None:
    file.write_text(
        '[amberflo]\napi_key = "hush"\n[engage.profile_api]\ntoken = "hush"\nspace_id = "s"\n',
        encoding="utf-8",
    )
    assert refused(file) == (
        'FILE: engage.source: missing; write source = "profile_api", whose section is here'
    )


def test_a_pattern_of_files_has_no_secret(file: Path) -> None:
    """Logs and `config show` have it, and the state keeps it."""

    def with_path(path: str) -> Path:
        file.write_text(
            'amberflo.api_key = "hush"\n[engage]\nsource = "files"\n'
            f'files.sets = [{{ path = "{path}" }}]',
            encoding="utf-8",
        )
        return file

    for path in ("ftp://me:hush@host/*.csv", "https://host/vip.csv?sig=hush"):
        line = refused(with_path(path))
        assert line.startswith("FILE: engage.files.sets.path: it has a password or a query; ")
    for path in ("s3://b/a?b:c@d.csv", "abfs://container@account.example.com/vip.csv", "/a:b@/?="):
        assert load(with_path(path), {}).engage.settings.place == path


def test_what_the_profile_api_cannot_do_with_is_one_line(file: Path) -> None:
    settings = ProfileApiSettings.model_validate({"token": "t", "space_id": "s"})
    for context, line in (
        (SourceContext(filter="NOT gone", folder=file.parent), "engage.filter is SQL"),
        (SourceContext(), "engage.profile_api.folder: missing; with the state on a server"),
    ):
        with pytest.raises(ConfigError, match=line):
            settings.source(context)
    elsewhere = settings.model_copy(update={"folder": str(file.parent / "none")})
    with pytest.raises(ConfigError, match=r"folder .*none does not exist"):
        elsewhere.source(SourceContext())
