"""`init`: asks for what a config needs, and writes one that `check` passes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from syncer.app import App
from syncer.cli import console, output
from syncer.cli.check import checked, print_results, taken
from syncer.cli.options import NobodyToAsk, can_ask, config_option, config_path, settings
from syncer.cli.progress_bar import progress
from syncer.config import load_text
from syncer.config.draft import Draft, Setting, check_new, write_new
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.source import Survey
from syncer.errors import EXIT_FAILED, ConfigError, SyncerError
from syncer.input_text import unwrapped
from syncer.progress import say

#: The variables that a config of ours names.
KEY, URL = "AMBERFLO_API_KEY", "PROFILES_SYNC_URL"
#: How often a wrong answer is asked for again.
TRIES = 3
#: How many keys a table shows.
SHOWN = 30

Answer = TypeVar("Answer")
FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class Secret:
    """A secret and where it came from: a variable, a file, or neither (it was typed)."""

    text: str
    variable: str | None = None
    file: Path | None = None

    @property
    def is_typed(self) -> bool:
        return self.variable is None and self.file is None

    @property
    def is_open(self) -> bool:
        """Whether it is a URL that was typed and that has no password."""
        url = make_url(self.text)
        return self.is_typed and url.password is None and not url.query

    def setting(self, key: str, own_file: Path) -> Setting:
        """Return the setting that says where it is; one that was typed goes to its own file."""
        if self.variable is not None:
            return Setting(key, f"${{{self.variable}}}", refers=True)
        return Setting(f"{key}_file", str((self.file or own_file).absolute()))


@dataclass
class _Making:
    """A config in the making."""

    path: Path
    schema: str = ""
    audiences: tuple[str, ...] = ("*",)
    computed_traits: tuple[str, ...] = ()
    #: the two secrets, by the variable that they usually have
    secrets: dict[str, Secret] = field(default_factory=dict)

    def app(self, **secrets: Secret) -> App:
        """Return the service with what is chosen so far, and with these secrets."""
        texts = {name: secret.text for name, secret in (self.secrets | secrets).items()}
        draft = self._draft(
            Setting("api_key", f"${{{KEY}}}", refers=True),
            Setting("url", f"${{{URL}}}", refers=True),
        )
        environ = {**os.environ, KEY: "not known yet", **texts}
        return App(load_text(self.path, environ, draft.text()), progress())

    def write(self, *, in_config: bool, replace: bool) -> list[Path]:
        """Write the config, and a file for each secret that was typed; return the files."""
        files: dict[Path, str] = {}
        settings = []
        for variable, key, name in _SECRETS:
            secret, own_file = self.secrets[variable], self.path.with_name(name)
            if in_config or (variable == URL and secret.is_open):
                settings.append(Setting(key, secret.text))
            else:
                settings.append(secret.setting(key, own_file))
                if secret.is_typed:
                    files[own_file] = secret.text
        files[self.path] = self._draft(*settings).text()
        for file in files:
            check_new(file, replace=replace)
        for file, text in files.items():
            write_new(file, text, replace=replace)
        return list(files)

    def _draft(self, api_key: Setting, url: Setting) -> Draft:
        return Draft(api_key, url, self.schema, self.audiences, self.computed_traits)


#: The secrets: the variable, the setting, and the name of a file for one that was typed.
_SECRETS = ((KEY, "api_key", "amberflo-api-key"), (URL, "url", "profiles-sync-url"))


@click.command()
@config_option
@click.option(
    "--warehouse",
    metavar="URL",
    help="The database with the Profiles Sync tables, such as postgresql://reader@host/segment "
    f"[default: ${URL}].",
)
@click.option("--warehouse-file", type=FILE, help="A file that holds this URL.")
@click.option("--schema", help="The schema of the Profiles Sync space, if there are several.")
@click.option(
    "--api-key-file", type=FILE, help=f"A file with Amberflo's API key [default: ${KEY}]."
)
@click.option(
    "--audience",
    "audiences",
    metavar="KEY",
    multiple=True,
    help="An audience, or a glob of keys; may be repeated [default: all].",
)
@click.option(
    "--computed-trait",
    "computed_traits",
    metavar="KEY",
    multiple=True,
    help="A computed trait, or a glob of keys; may be repeated [default: none].",
)
@click.option("--secrets-in-config", is_flag=True, help="Write the secrets into the config itself.")
@click.option("--force", is_flag=True, help="Replace a config that exists.")
def init(
    config: Path | None,
    warehouse: str | None,
    warehouse_file: Path | None,
    schema: str | None,
    api_key_file: Path | None,
    audiences: tuple[str, ...],
    computed_traits: tuple[str, ...],
    secrets_in_config: bool,
    force: bool,
) -> None:
    """Write a config: asks for what it needs, and tests it.

    A secret stays where it is: the config names the variable or the file that holds it. A secret
    that you type goes into a file of its own beside the config, which you alone may read.
    """
    if warehouse and warehouse_file:
        raise click.UsageError("name the warehouse by --warehouse or by --warehouse-file, not both")
    making = _Making(config_path(config))
    check_new(making.path, replace=force)
    url = Secret(warehouse) if warehouse else _given(URL, warehouse_file)
    key = _given(KEY, api_key_file)
    _check_that_nothing_is_missing(url, key)
    for secret, (_, _, name) in zip((key, url), _SECRETS, strict=True):
        if secret is None and not secrets_in_config:  # before it is asked for, and typed in vain
            check_new(making.path.with_name(name), replace=force)
    spaces = _until_good(url, _ask_url, lambda url: _spaces(making, url))
    making.schema = _chosen_schema(spaces, schema)
    survey = making.app().source().survey()
    making.audiences, making.computed_traits = audiences or ("*",), computed_traits
    _show_audiences(making, survey)
    if not computed_traits:
        making.computed_traits = _ask_computed_traits(making, survey)
    _until_good(key, _ask_key, lambda key: _check_key(making, key))
    files = making.write(in_config=secrets_in_config, replace=force)
    _check_and_say_what_is_next(making.path, files, survey)


def _given(variable: str, file: Path | None) -> Secret | None:
    """Return a secret of a file or of the environment; None if it is in neither."""
    if file is not None:
        try:
            text = unwrapped(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: cannot be read: it is not text in UTF-8") from None
        if not text:
            what = "the URL of the warehouse" if variable == URL else "Amberflo's API key"
            raise ConfigError(f"{file} is empty; it must hold {what}")
        return Secret(text, file=file)
    text = unwrapped(os.environ.get(variable, ""))
    return Secret(text, variable=variable) if text else None


def _check_that_nothing_is_missing(url: Secret | None, key: Secret | None) -> None:
    """Raise `NobodyToAsk` if something is missing and there is no terminal."""
    missing = [
        *(["--warehouse URL (or the variable PROFILES_SYNC_URL)"] if url is None else []),
        *(["--api-key-file FILE (or the variable AMBERFLO_API_KEY)"] if key is None else []),
    ]
    if missing and not can_ask():
        raise NobodyToAsk(f"There is no terminal to ask on: add {' and '.join(missing)}")


def _until_good(
    given: Secret | None, ask: Callable[[], Secret], test: Callable[[Secret], Answer]
) -> Answer:
    """Return what the test makes of a secret; one that is typed is asked for again if it fails."""
    if given is not None:
        return test(given)
    for _ in range(TRIES - 1):
        try:
            return test(ask())
        except SyncerError as error:
            say(f"error: {error}")
    return test(ask())


def _ask_url() -> Secret:
    text = click.prompt("Warehouse URL (postgresql://reader@host/segment)", err=True)
    with suppress(ArgumentError):  # the config says what is wrong with it
        url = make_url(text)
        if url.username and url.password is None and url.get_backend_name() != "sqlite":
            password = _ask_hidden(f"Password of {url.username} (empty if it needs none)")
            text = url.set(password=password or None).render_as_string(hide_password=False)
    return Secret(text)


def _ask_key() -> Secret:
    return Secret(_ask_hidden("Amberflo API key"))


def _ask_hidden(question: str) -> str:
    return str(click.prompt(question, hide_input=True, default="", show_default=False, err=True))


def _spaces(making: _Making, url: Secret) -> list[str]:
    """Return the schemas of the warehouse with the tables; keep the URL if there are any."""
    source = making.app(**{URL: url}).source()
    assert isinstance(source, ProfilesSync)  # the draft names no other source
    spaces = source.spaces()
    making.secrets[URL] = url
    return spaces


def _chosen_schema(spaces: list[str], schema: str | None) -> str:
    """Return the one schema, the one that was named, or the one that the user names."""
    listed = ", ".join(spaces)
    if schema and spaces == [""]:
        raise ConfigError(f"--schema {schema}: this database has no schemas; leave --schema out")
    if schema is not None:
        if schema not in spaces:
            raise ConfigError(f"--schema {schema}: Profiles Sync tables are in: {listed}")
        return schema
    if len(spaces) == 1:
        if spaces[0]:
            say(f"the tables of Profiles Sync are in the schema {spaces[0]}")
        return spaces[0]
    if not can_ask():
        raise NobodyToAsk(
            f"Several schemas hold Profiles Sync tables: add --schema, one of {listed}"
        )
    say(f"{len(spaces)} schemas hold Profiles Sync tables: {listed}")
    return str(click.prompt("Schema", type=click.Choice(spaces), show_choices=False, err=True))


def _show_audiences(making: _Making, survey: Survey) -> None:
    say(survey.message)
    for line in survey.advice:
        say(line)
    catalog = making.app().catalog(survey, None)
    rows = [
        (trait["key"], trait["trait"], trait["kind"].replace("_", " "), trait["count"])
        for trait in taken(survey, catalog)
    ]
    rows.sort(key=lambda row: (row[2], -row[3]))
    columns = ("key", "name at Amberflo", "kind", "members or values")
    title = f"{len(rows):,} keys that a sync would take" + (", about" if survey.share < 1 else "")
    console.print_table(columns, rows[:SHOWN], title)
    for line in (*catalog.messages, *catalog.notices):
        say(line)


def _ask_computed_traits(making: _Making, survey: Survey) -> tuple[str, ...]:
    """Show the keys that are no audiences, and ask which of them are computed traits."""
    catalog = making.app().catalog(survey, None)
    others = [key for key in survey.keys if key.key not in catalog.by_key and key.values]
    others = [key for key in others if key.key not in PROFILE_KEYS]
    if not others:
        return ()
    others.sort(key=lambda key: -key.values)
    rows = [(key.key, key.values) for key in others[:SHOWN]]
    console.print_table(("key", "values"), rows, f"{len(others):,} keys that are no audiences")
    if not can_ask():
        say("none of them is taken; --computed-trait names those that are computed traits")
        return ()
    answer = click.prompt(
        "Computed traits among them: keys or globs, with commas (empty: none)",
        default="",
        show_default=False,
        err=True,
    )
    return tuple(key for part in str(answer).split(",") if (key := part.strip()))


def _check_key(making: _Making, key: Secret) -> None:
    making.app(**{KEY: key}).check_amberflo()
    making.secrets[KEY] = key


def _check_and_say_what_is_next(path: Path, files: list[Path], survey: Survey) -> None:
    for file in files:
        say(f"wrote {file}")
    results = list(checked(App(settings(path), progress()), survey))
    print_results(results, brief=True)
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(EXIT_FAILED)
    more = "" if path == Path("config.toml") else f" --config {shlex.quote(str(path))}"
    output.print_line("next:")
    output.print_line(f"  syncer diff{more}: what the first run would send; it sends nothing")
    output.print_line(
        f"  syncer sync{more}: the first run sends everybody, later runs what changed"
    )
    output.print_line(f"  syncer daemon{more}: runs on schedule, and receives calls")
