"""From a TOML file and the environment to a `Config`, or to lines that say what is wrong."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.engine import URL

from syncer import egress
from syncer.config import secret_files
from syncer.config.origins import REFERENCE, Origins
from syncer.config.secret_files import SECRET_FILES, Keys, Place, file_key, names, tables
from syncer.config.settings import Config
from syncer.engage.sources import SOURCES
from syncer.errors import ConfigError
from syncer.input_text import unwrapped
from syncer.setting_types import kind_of_file

ENV_PREFIX = "SYNCER_"
#: Variables with the prefix that are not settings: the path of the config file itself.
NOT_SETTINGS = {"SYNCER_CONFIG"}
#: Kubernetes sets variables for each service in every container; those of a service with the name
#: `syncer` have our prefix and end like this. No setting ends like this.
_OF_A_SERVICE = re.compile(
    r"_(service_host|service_port(_[a-z0-9_]+)?|port(_\d+_(tcp|udp|sctp)(_[a-z]+)?)?)$"
)
#: What is wrong, by pydantic's types of errors.
_WORDS = {
    "missing": "missing; config.example.toml shows it",
    "tuple_type": 'this is not a list; write for example ["a", "b"]',
    "too_short": "the list is empty; name its entries, or leave {key} out",
    "model_type": "this is a section; write [{section}] and its keys below",
    "dict_type": "this is a section; write [{section}] and its keys below",
    "string_type": "this is not a text; write it in quotes",
    "int_type": "this is not a whole number",
    "int_parsing": "this is not a whole number",
    "int_from_float": "this is not a whole number",
    "float_type": "this is not a number",
    "float_parsing": "this is not a number",
    "finite_number": "this is not a number",
    "greater_than": "write more than {gt:g}",
    "greater_than_equal": "write {ge:g} or more",
    "less_than_equal": "write {le:,} or less",
    "literal_error": "write {expected}",
}
#: No setting lies deeper than so many keys and list entries.
DEEPEST = 16


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Return the settings of the TOML file at `path`, overridden by `SYNCER_…` of `environ`.

    A relative path in a database URL starts at the folder of the file.
    """
    return load_text(path, environ, _text(path))


def load_text(path: Path, environ: Mapping[str, str], text: str) -> Config:
    """Return the settings of a text of TOML, as if it stood in the file at `path`."""
    return _loaded(path, environ, text)[0]


def load_with_origins(path: Path, environ: Mapping[str, str]) -> tuple[Config, Origins]:
    """Return the settings as `load` does, and where each value comes from."""
    text = _text(path)
    config, loading = _loaded(path, environ, text)
    return config, Origins(path, text, loading.origins, loading.secret_places)


def _loaded(path: Path, environ: Mapping[str, str], text: str) -> tuple[Config, _Loading]:
    loading = _Loading(path, environ, _parsed(path, text))
    loading.override()
    loading.leave_out_unused_sources()
    loading.find_unknown_keys()
    loading.substitute()
    loading.read_secret_files()
    config = loading.validated()
    egress.check(environ)
    return loading.with_absolute_paths(config), loading


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; make it with `syncer init`, or name another with "
            "--config"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot be read: it is not text in UTF-8") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ConfigError(f"{path}: this is not TOML: {error}") from None


@dataclass
class _Loading:
    """The settings on their way: `raw` is the parsed file, which the steps change in place.

    The steps report all that is wrong, and `validated` raises it.
    """

    path: Path
    environ: Mapping[str, str]
    raw: dict[str, Any]
    #: the variable that set a key, for the keys that a variable set
    origins: dict[Keys, str] = field(default_factory=dict)
    #: what is wrong, a line each, by the value that it is about; and the keys that do not exist
    problems: dict[Place, str] = field(default_factory=dict)
    #: the file that a secret was read from
    secret_places: dict[Place, str] = field(default_factory=dict)
    unknown: set[Place] = field(default_factory=set)

    def report(self, place: Place, line: str) -> None:
        """Keep the first problem of a value."""
        self.problems.setdefault(place, " ".join(line.split()))

    def where(self, place: Place) -> str:
        """Return the place that an error names: the variable, or the file and the key."""
        keys, entry = names(place), secret_files.entry_of(self.raw, place)
        for set_keys, variable in self.origins.items():
            # The variable may have set a part of this key, or the section that the key is in.
            both = min(len(set_keys), len(keys))
            if set_keys[:both] == keys[:both]:
                return f"{variable}{entry}"
        return f"{self.path}: {'.'.join(keys)}{entry}"

    def override(self) -> None:
        """Put each variable `SYNCER_A__B=value` at raw["a"]["b"]."""
        for variable in sorted(self.environ):
            if not variable.startswith(ENV_PREFIX) or variable in NOT_SETTINGS:
                continue
            if _OF_A_SERVICE.search(variable.lower()):
                continue
            keys = tuple(variable[len(ENV_PREFIX) :].lower().split("__"))
            section: dict[str, Any] = self.raw
            self.origins[keys] = variable
            for key in keys[:-1]:
                below = section.setdefault(key, {})
                if not isinstance(below, dict):
                    self.report(keys, f"{variable}: {key} is a value, not a section")
                    break
                section = below
            else:
                section[keys[-1]] = self._value(keys, unwrapped(self.environ[variable]))
                twin = secret_files.twin(keys)
                if twin is not None and twin not in self.origins:
                    section.pop(twin[-1], None)  # the file's: a variable counts before it

    def _value(self, keys: Keys, text: str) -> Any:
        """Return the value of a variable: a text, or a list in JSON."""
        if not _is_list(keys):
            return text
        try:
            entries = orjson.loads(text)
        except orjson.JSONDecodeError:
            entries = None
        if not isinstance(entries, list):
            line = f'{self.origins[keys]}: write a list as JSON, for example ["a", "b"]'
            self.report(keys, line)
        return entries

    def leave_out_unused_sources(self) -> None:
        """Take out the sections of sources that `engage.source` does not name.

        They may stay in the file, for the day on which they are used again; until then neither
        their variables nor their files need to be there.
        """
        engage = self.raw.get("engage")
        if not isinstance(engage, dict):
            return
        used = engage.get("source", "profiles_sync")
        if not isinstance(used, str) or used not in SOURCES:
            return
        unused = [name for name in SOURCES if name in engage and name != used]
        if used not in engage and unused and "source" not in engage:
            raise ConfigError(
                f'{self.path}: engage.source: missing; write source = "{unused[0]}", whose section '
                "is here"
            )
        for name in unused:
            del engage[name]

    def find_unknown_keys(self) -> None:
        """Report the keys that do not exist.

        This comes before all other checks: a misspelt name is the error, not the setting that is
        missing because of it, nor a variable that nobody set yet.
        """
        secret_files = {file_key(keys) for keys in SECRET_FILES}
        try:
            Config.model_validate(self.raw)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                place, keys = problem["loc"], names(problem["loc"])
                if problem["type"] == "extra_forbidden" and keys not in secret_files:
                    self.report(place, f"{self.where(place)}: unknown key; {_known_keys(keys)}")
                    self.unknown.add(place)

    def substitute(self) -> None:
        """Replace `${NAME}` in every text; report a variable that is unset or empty."""
        for key in list(self.raw):
            self.raw[key] = self._substituted(self.raw[key], (key,))

    def _substituted(self, value: Any, place: Place) -> Any:
        if len(place) > DEEPEST:
            return value  # it is refused, whatever it is
        if isinstance(value, dict):
            return {key: self._substituted(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._substituted(inner, (*place, at)) for at, inner in enumerate(value)]
        if not isinstance(value, str):
            return value

        def lookup(match: re.Match[str]) -> str:
            text = unwrapped(self.environ.get(match[1], ""))
            if not text and not self._is_unknown(place):
                self.report(
                    place,
                    f"{self.where(place)}: the environment variable {match[1]} is not "
                    "set or empty; set it, or write the value here",
                )
            return text

        return REFERENCE.sub(lookup, value)

    def read_secret_files(self) -> None:
        """Put secrets where they belong: from the file that a `…_file` key names, or the folder."""
        folder = self._secrets_folder()
        for keys in SECRET_FILES:
            if folder is not None:
                self._begin_section(keys)
            for place, section in tables(self.raw, keys[:-1]):
                self._read_secret_file(section, place, keys[-1])
                if folder is not None and keys[-1] not in section:
                    self._read_from_folder(folder, section, place, keys[-1])

    def _read_secret_file(self, section: dict[str, Any], place: Place, secret: str) -> None:
        key = f"{secret}_file"
        if key not in section:
            return
        file, where = section.pop(key), self.where((*place, key))
        if secret in section:
            line = f"{self.where((*place, secret))}: set {secret} or {key}, not both"
            self.report((*place, secret), line)
            return
        file = self._beside(str(file), (*names(place), key))
        text, problem = secret_files.read(Path(file), secret)
        section[secret] = _entries(text, (*names(place), secret))
        self.secret_places[(*place, secret)] = file
        if problem:  # a variable in the file's name that is not set is the problem then
            line = self.problems.pop((*place, key), f"{where}: {problem}")
            self.report((*place, secret), line)

    def _secrets_folder(self) -> Path | None:
        """Return `secrets_dir`, if it is set; report one that is no folder."""
        text = self.raw.get("secrets_dir")
        if not isinstance(text, str) or not text or ("secrets_dir",) in self.problems:
            return None
        folder = Path(self._beside(text, ("secrets_dir",)))
        problem = secret_files.problem_of_folder(folder)
        if problem:
            self.report(("secrets_dir",), f"{self.where(('secrets_dir',))}: {problem}")
            return None
        return folder

    def _begin_section(self, keys: Keys) -> None:
        """Add the section of a secret that may be in the folder, unless it may be left out."""
        engage = self.raw.get("engage", {})
        used = engage.get("source", "profiles_sync") if isinstance(engage, dict) else None
        if keys[:-1] not in (*secret_files.ALWAYS, ("engage", used)):
            return
        section = self.raw
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                return

    def _read_from_folder(
        self, folder: Path, section: dict[str, Any], place: Place, secret: str
    ) -> None:
        """Take a secret from its file in the folder of secrets, where it has one there."""
        name = secret_files.name_in_folder(section, place, secret)
        if name is None or not os.path.lexists(file := folder / name):
            return
        text, problem = secret_files.read(file, secret)
        section[secret] = _entries(text, (*names(place), secret))
        self.secret_places[(*place, secret)] = str(file)
        if problem:
            self.report((*place, secret), f"{self.where(('secrets_dir',))}: {problem}")

    def validated(self) -> Config:
        """Return the settings, or raise `ConfigError` with all that is wrong."""
        config = None
        try:
            config = Config.model_validate(self.raw)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                place = problem["loc"]
                if not self._follows(place, problem["type"]):
                    self.report(place, self._line(place, problem))
        if config is None or self.problems:
            raise ConfigError(*self.problems.values())
        return config

    def _is_unknown(self, place: Place) -> bool:
        return any(place[: len(unknown)] == unknown for unknown in self.unknown)

    def _follows(self, place: Place, kind: str) -> bool:
        """Return whether an error only follows from a problem that is reported already."""
        if kind == "missing":
            keys = names(place)
            in_folder = any(secret[: len(keys)] == keys for secret in SECRET_FILES)
            if in_folder and ("secrets_dir",) in self.problems:
                return True
            return any(unknown[:-1] == place[:-1] for unknown in self.unknown)
        return self._is_unknown(place) or any(
            all(name == other for name, other in zip(reported, place, strict=False))
            for reported in self.problems
        )

    def _line(self, place: Place, problem: ErrorDetails) -> str:
        """Return one line for an error of pydantic, without the value, which may be secret."""
        keys = names(place)
        kind, words = problem["type"], problem["msg"].removeprefix("Value error, ")
        if kind == "missing" and keys in SECRET_FILES:
            words = f"missing; set {keys[-1]}, or {keys[-1]}_file with the path of a file"
            if self.raw.get("secrets_dir"):
                name = ".".join(keys).replace("write_keys.key", "write_keys.NAME")
                words += f", or put it into {name} of secrets_dir"
        elif kind in _WORDS:
            limits = problem.get("ctx", {})
            words = _WORDS[kind].format(key=keys[-1], section=".".join(keys), **limits)
        return f"{self.where(place)}: {words}"

    def with_absolute_paths(self, config: Config) -> Config:
        """Return the settings with the paths of files made absolute, from the file's folder.

        So the databases are the same ones in whatever folder the command runs.
        """
        engage, state = config.engage, config.state
        settings, section = engage.settings, ("engage", engage.source)
        paths = {
            name: self._beside(value, (*section, name))
            for name in settings.PATHS
            if (value := getattr(settings, name))
        }
        state_url = self._absolute(state.url, ("state", "url"))
        folder = config.secrets_dir
        return config.model_copy(
            update={
                "secrets_dir": self._beside(folder, ("secrets_dir",)) if folder else "",
                "engage": engage.model_copy(
                    update={engage.source: settings.model_copy(update=paths)}
                ),
                "state": state.model_copy(update={"url": state_url}),
            }
        )

    def _beside(self, value: Any, keys: Keys) -> Any:
        """Return a URL, a path, or several, from the config's folder; what is remote stays."""
        if isinstance(value, URL):  # before tuples: it is one
            return self._absolute(value, keys)
        if isinstance(value, tuple):
            return tuple(self._beside(each, keys) for each in value)
        if isinstance(value, BaseModel):  # an entry of a list of tables
            relative = getattr(value, "PATHS", ())
            paths = {name: self._beside(getattr(value, name), (*keys, name)) for name in relative}
            return value.model_copy(update=paths)
        if "://" in value:
            return value
        return str(Path(os.path.abspath(self.path)).parent / value)

    def _absolute(self, url: URL, keys: Keys) -> URL:
        """Return the URL of a file with its absolute path.

        Raise `ConfigError` if the file exists in the working folder only: earlier versions looked
        for it there, and to begin with an empty database would go unseen.
        """
        name = str(url.database or "")
        if kind_of_file(url) is None or name in ("", ":memory:"):
            return url
        if name.startswith("file:"):
            return url
        here = Path(name).absolute()
        beside = Path(os.path.abspath(self.path)).parent / name
        if here.exists() and not beside.exists():
            whole = url.set(database=str(here), query={})
            raise ConfigError(
                f"{self.where(keys)}: {name} is looked for beside the config file, where it is "
                f"missing, but it exists at {here}: move it to {beside}, with all files whose "
                f"names begin alike, or write its whole path: {whole}"
            )
        return url.set(database=str(beside))


def _entries(text: str, keys: Keys) -> str | list[str]:
    """Return the text of a secret's file; that of a list has an entry a line."""
    return text.split() if _is_list(keys) else text


def _is_list(keys: Keys) -> bool:
    section = section_of(keys)
    info = section.model_fields.get(keys[-1]) if section else None
    return info is not None and get_origin(info.annotation) is tuple


def section_of(keys: Keys) -> type[BaseModel] | None:
    """Return the model with the last of `keys`; None if there is no such section."""
    section: type[BaseModel] = Config
    for key in keys[:-1]:
        info = section.model_fields.get(key)
        inner: Any = info.annotation if info else None
        if isinstance(inner, UnionType):  # a section that may be left out
            inner = get_args(inner)[0]
        if get_origin(inner) is tuple:  # a list of tables
            inner = get_args(get_args(inner)[0] if get_args(inner) else inner)[:1]
            inner = inner[0] if inner else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        section = inner
    return section


def _known_keys(keys: Keys) -> str:
    section = section_of(keys) or Config
    known = [info.alias or name for name, info in section.model_fields.items()]
    for secret in SECRET_FILES:
        if secret[:-1] == keys[:-1]:
            known.insert(known.index(secret[-1]) + 1, f"{secret[-1]}_file")
    return f"known here: {', '.join(known)}"
