"""Settings: one TOML file, `SYNCER_…` environment variables over it, secrets from the environment.

`load(path, environ)` gives a frozen `Config` or raises `ConfigError` with one line that names the
file (or variable), the key, what is wrong and what would be right. Contract: docs/design.md §4.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from syncer import egress
from syncer.daemon.schedule import cron
from syncer.errors import ConfigError
from syncer.input_text import bare, has_address, strange
from syncer.passthrough import scopes
from syncer.passthrough.scopes import Caller

ENV_PREFIX = "SYNCER_"
#: Variables with the prefix that are no settings: the config file's own path.
NOT_SETTINGS = {"SYNCER_CONFIG"}
#: Secrets that a file may hold, named by the key with `_file` at its end.
SECRET_FILES = (
    ("amberflo", "api_key"),
    ("engage", "profiles_sync", "url"),
    ("engage", "public_api", "token"),
    ("state", "url"),
    ("passthrough", "write_keys", "key"),
    ("passthrough", "webhook_secret"),
    ("web", "token"),
    ("alerts", "webhook"),
)

#: Traits that Amberflo's payment providers and marketplaces live by (docs/facts/amberflo.md §1.4).
PROTECTED = ("stripeId", "stripe_id", "paymentProviderName", "awsm.*")

#: How the variables end by which Kubernetes tells every container of a service: one that is called
#: `syncer` has our prefix. No setting ends so.
_OF_A_SERVICE = re.compile(
    r"_(service_host|service_port(_[a-z0-9_]+)?|port(_\d+_(tcp|udp|sctp)(_[a-z]+)?)?)$"
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: object) -> float:
    """Seconds of `"2h30m"`, `"20m"`, `"90s"`, `"1.5d"`; a bare number is seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    if isinstance(text, str):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip()):
            return float(text)
        compact = text.replace(" ", "").lower()
        parts = _DURATION.findall(compact)
        if parts and "".join(number + unit for number, unit in parts) == compact:
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise ValueError("this is no duration; write for example 90s, 20m, 2h30m or 1d")


def _bare(value: object) -> object:
    return bare(value) if isinstance(value, str) else value


def _database_url(given: object) -> URL:
    text = bare(str(given))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(
            "this is no database URL; write for example sqlite:///syncer.db or "
            "postgresql+psycopg://user:password@host/database"
        ) from None
    if url.get_backend_name() != "sqlite" and text.partition("://")[2].count("@") > 1:
        # What comes after the first one counts as the host, and hosts are shown.
        raise ValueError(
            "it has more than one @; write an @ of the password as %40, or percent-encode the "
            "whole password"
        )
    if url.drivername == "postgres":  # as Heroku and others still write it
        return url.set(drivername="postgresql+psycopg")
    return url


def _sound_path(url: URL) -> URL:
    """The URL of a SQLite file that there can be."""
    name = str(url.database or "")
    if url.get_backend_name() == "sqlite" and (
        "\0" in name or any(len(os.fsencode(part)) > 255 for part in name.split("/"))
    ):
        raise ValueError("no file has such a path: a name has at most 255 bytes, and no NUL")
    return url


def _lasting(url: URL) -> URL:
    """The URL of a state that is there after a command, too."""
    if url.get_backend_name() != "sqlite":
        return url
    name = str(url.database or "")
    if name in ("", ":memory:") or name.startswith("file:"):
        raise ValueError("the state needs a file of its own; write for example sqlite:///syncer.db")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(
            f"the state is not kept by {url.drivername}; write for example sqlite:///syncer.db"
        )
    return url


def _http_url(text: str) -> str:
    if not (re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", text) and has_address(text)):
        raise ValueError(
            "this is no URL; write for example https://app.amberflo.io/customers, without a "
            "user, a password or a query"
        )
    return text.rstrip("/")


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write for example 127.0.0.1:8400")
    return text


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _public_url(text: str) -> str:
    if not (re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", text) and has_address(text)):
        raise ValueError("this is no URL; write for example https://calls.example.com")
    return text.rstrip("/").removesuffix("/v1")


def _cron(text: str) -> str:
    try:
        cron(text)
    except ValueError as error:
        raise ValueError(
            f'this is no cron line ({error}); write for example "0 3 * * *" for 3:00 UTC daily'
        ) from None
    return text


def _globs(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Keys and globs, of which those with "!" leave keys out."""
    if entries and all(entry.startswith("!") for entry in entries):
        raise ValueError(
            'entries with "!" only leave keys out, so nothing is selected; write for example '
            f'["*", "{entries[0]}"]'
        )
    return entries


def _secret_http_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not (re.fullmatch(r"https?://[^/\s]+\S*", text) and has_address(text)):
        raise ValueError("this is no URL; write for example https://hooks.slack.com/services/…")
    return secret


def _hard_to_guess(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < 16:
        raise ValueError("less than 16 characters; make one with: openssl rand -hex 16")
    return secret


def _key_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name) or name == scopes.SIGNED.name:
        raise ValueError(
            "this is no name for a key; write up to 32 of a-z, 0-9, - and _, for example "
            '"browser" ("webhook" is Segment\'s)'
        )
    return name


def _with_scopes(entry: object) -> object:
    """A write key as a table: a bare one is its text."""
    if isinstance(entry, str | SecretStr):
        return {"key": entry}
    if isinstance(entry, dict | WriteKey):
        return entry
    raise ValueError(
        'this is neither a key nor a table; write for example { key = "${SEGMENT_WRITE_KEY}", '
        'may = ["track", "memberships"] }'
    )


def _not_blank(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value():
        raise ValueError("the secret is empty; set it, or name a file that holds it")
    return secret


def _fits_a_header(secret: SecretStr) -> SecretStr:
    if (what := strange(secret.get_secret_value())) is not None:
        raise ValueError(f"no key has what this one has: {what}; copy the key anew")
    return secret


Duration = Annotated[float, BeforeValidator(duration), Field(gt=0, allow_inf_nan=False)]
DurationOrNone = Annotated[float, BeforeValidator(duration), Field(ge=0, allow_inf_nan=False)]
#: SQLAlchemy's URL: its text hides the password.
DatabaseUrl = Annotated[URL, BeforeValidator(_database_url), AfterValidator(_sound_path)]
HttpUrl = Annotated[str, BeforeValidator(_bare), AfterValidator(_http_url)]
Secret = Annotated[SecretStr, BeforeValidator(_bare), AfterValidator(_not_blank)]
HeaderSecret = Annotated[Secret, AfterValidator(_fits_a_header)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class AmberfloConfig(_Section):
    api_key: HeaderSecret
    customers_url: HttpUrl = "https://app.amberflo.io/customers"
    ingest_url: HttpUrl = "https://app.amberflo.io/ingest"
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 16
    trait_values: Literal["native", "string"] = "native"
    protected: tuple[Annotated[str, Field(min_length=1)], ...] = PROTECTED
    timeout: Duration = 30.0
    patience: Duration = 300.0


class ProfilesSyncConfig(_Section):
    url: DatabaseUrl
    schema_: Annotated[str, Field(alias="schema")] = ""
    overlap: DurationOrNone = 3 * 3600.0


class PublicApiConfig(_Section):
    token: HeaderSecret
    space_id: Annotated[str, Field(min_length=1)]
    url: HttpUrl = "https://api.segmentapis.com"
    size_tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05


class EngageConfig(_Section):
    source: Literal["profiles_sync"] = "profiles_sync"
    customer_id: Annotated[str, Field(min_length=1)] = "user_id"
    audiences: Annotated[tuple[str, ...], AfterValidator(_globs)] = ("*",)
    computed_traits: Annotated[tuple[str, ...], AfterValidator(_globs)] = ()
    filter: Annotated[str, AfterValidator(str.strip)] = ""
    first_contact: Literal["take", "hold"] = "take"
    deleted: Literal["exit", "forget"] = "exit"
    profiles_sync: ProfilesSyncConfig
    public_api: PublicApiConfig | None = None


class ScheduleConfig(_Section):
    every: Duration = 2.5 * 3600
    jitter: DurationOrNone = 20 * 60.0
    reconcile: Annotated[str, AfterValidator(_cron)] = "0 3 * * *"

    @model_validator(mode="after")
    def _jitter_is_less(self) -> ScheduleConfig:
        if self.jitter >= self.every:
            raise ValueError("jitter must be less than every; write for example 20m for 2h30m")
        return self


class GuardConfig(_Section):
    max_exits: Annotated[float, Field(ge=0, le=1)] = 0.2
    min_exits: Annotated[int, Field(ge=0)] = 100
    small_max_exits: Annotated[float, Field(ge=0, le=1)] = 0.3
    small_min_exits: Annotated[int, Field(ge=0)] = 10
    max_deleted: Annotated[float, Field(ge=0, le=1)] = 0.05


class StateConfig(_Section):
    url: Annotated[DatabaseUrl, AfterValidator(_lasting)] = make_url("sqlite:///syncer.db")


def _for_ever_or_a_day(seconds: float) -> float:
    if 0 < seconds < 86400:
        raise ValueError('write at least "1d", or "0" to keep it for ever')
    return seconds


class RetentionConfig(_Section):
    history: Annotated[DurationOrNone, AfterValidator(_for_ever_or_a_day)] = 0.0


Scope = Literal["page", "screen", "track", "identify", "memberships"]


class WriteKey(_Section):
    """A key that callers may use, what they may with it, and its short name."""

    key: Secret
    may: Annotated[tuple[Scope, ...], Field(min_length=1)] = ("page", "screen", "track", "identify")
    name: Annotated[str, AfterValidator(_key_name)] | None = None

    @property
    def caller(self) -> Caller:
        """Who calls with it."""
        key = self.key.get_secret_value()
        return Caller(self.name or scopes.short_name(key), frozenset(self.may), key)


class PassthroughConfig(_Section):
    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8400"
    write_keys: tuple[Annotated[WriteKey, BeforeValidator(_with_scopes)], ...] = ()
    webhook_secret: Secret | None = None
    public_url: Annotated[str, BeforeValidator(_bare), AfterValidator(_public_url)] | None = None
    deletes_per_day: Annotated[int, Field(ge=0)] = 100
    queue_limit: Annotated[int, Field(ge=1)] = 1_000_000
    queue_share: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _keys_are_told_apart(self) -> PassthroughConfig:
        keys = [one.key.get_secret_value() for one in self.write_keys]
        if len(set(keys)) < len(keys):
            raise ValueError("write_keys has one key twice; write each once, with all it may")
        names = [one.name for one in self.callers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two of write_keys have the name {twice[0]!r}; give each a name of its own"
            )
        return self

    @property
    def callers(self) -> tuple[Caller, ...]:
        """Who may call, by the write keys."""
        return tuple(one.caller for one in self.write_keys)

    @property
    def share(self) -> float:
        """The part of the queue that one key may fill: all of it where nobody else may call."""
        alone = len(self.write_keys) <= 1 and self.webhook_secret is None
        return 1.0 if alone else self.queue_share

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return _host_and_port(self.listen)


class OpsConfig(_Section):
    """Where health and metrics are served, apart from what callers reach."""

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8402"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return _host_and_port(self.listen)


class WebConfig(_Section):
    """The operator's page; there is none without the section."""

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8401"
    token: Annotated[Secret, AfterValidator(_hard_to_guess)]
    hosts: tuple[str, ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return _host_and_port(self.listen)


class AlertsConfig(_Section):
    webhook: Annotated[Secret, AfterValidator(_secret_http_url)] | None = None
    lag: Duration = 30 * 60.0
    silent: Duration = 24 * 3600.0


class LogConfig(_Section):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """All settings. Secrets are `SecretStr`: their text never shows in a repr, log or error."""

    amberflo: AmberfloConfig
    engage: EngageConfig
    schedule: ScheduleConfig = ScheduleConfig()
    guard: GuardConfig = GuardConfig()
    state: StateConfig = StateConfig()
    passthrough: PassthroughConfig = PassthroughConfig()
    ops: OpsConfig = OpsConfig()
    web: WebConfig | None = None
    alerts: AlertsConfig = AlertsConfig()
    log: LogConfig = LogConfig()
    retention: RetentionConfig = RetentionConfig()


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The settings of the TOML file at `path`, overridden by `SYNCER_…` of `environ`. A relative
    path in a database URL is beside the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; copy config.example.toml there or name another "
            "with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: this is not TOML: {error}") from None

    origins = _override(raw, environ)
    _refuse_unknown_keys(raw, path, origins)
    _substitute(raw, environ, path, origins)
    _read_secret_files(raw, path, origins)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, path, origins)) from None
    egress.check(environ)
    return _placed(config, path, origins)


def _placed(config: Config, path: Path, origins: Mapping[tuple[str, ...], str]) -> Config:
    """The settings with the databases where they are meant to be: beside the config file,
    wherever the command was called."""
    engage, state = config.engage, config.state
    state_url = _beside(state.url, path, _where(path, ("state", "url"), origins))
    keys = ("engage", "profiles_sync", "url")
    source_url = _beside(engage.profiles_sync.url, path, _where(path, keys, origins))
    source = engage.profiles_sync.model_copy(update={"url": source_url})
    return config.model_copy(
        update={
            "engage": engage.model_copy(update={"profiles_sync": source}),
            "state": state.model_copy(update={"url": state_url}),
        }
    )


def _beside(url: URL, path: Path, where: str) -> URL:
    """The URL of a SQLite file with its path from the top. `ConfigError` where there is another
    file of that name in the working folder only, as there was before the paths were beside the
    config: to begin with an empty one would go unseen."""
    name = str(url.database or "")
    if url.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return url
    here, beside = Path(name).absolute(), Path(os.path.abspath(path)).parent / name
    if here.exists() and not beside.exists():
        raise ConfigError(
            f"{where}: {name} is meant beside the config file, where there is none, but there is "
            f"one at {here}: move it to {beside}, with all files whose names begin alike, or "
            f"write its whole path: sqlite:///{here}"
        )
    return url.set(database=str(beside))


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put `SYNCER_A__B=value` at raw["a"]["b"]; returns which variable set which key."""
    origins: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in NOT_SETTINGS:
            continue
        if _OF_A_SERVICE.search(variable.lower()):
            continue
        keys = tuple(variable[len(ENV_PREFIX) :].lower().split("__"))
        section: dict[str, Any] = raw
        for key in keys[:-1]:
            below = section.setdefault(key, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{variable}: {key} is a value, not a section")
            section = below
        text = bare(environ[variable])
        section[keys[-1]] = _listed(variable, text) if _is_list(keys) else text
        origins[keys] = variable
    return origins


def _is_list(keys: tuple[str, ...]) -> bool:
    section = _section_of(keys)
    field = section.model_fields.get(keys[-1]) if section else None
    return field is not None and get_origin(field.annotation) is tuple


def _section_of(keys: tuple[str, ...]) -> type[BaseModel] | None:
    """The model that has the last of `keys`; None when there is no such section."""
    section: type[BaseModel] = Config
    for key in keys[:-1]:
        field = section.model_fields.get(key)
        inner: Any = field.annotation if field else None
        if isinstance(inner, UnionType):  # a section that may be left out
            inner = get_args(inner)[0]
        if get_origin(inner) is tuple:  # a list of tables
            inner = get_args(get_args(inner)[0] if get_args(inner) else inner)[:1]
            inner = inner[0] if inner else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        section = inner
    return section


def _listed(variable: str, text: str) -> object:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        raise ConfigError(f'{variable}: write a list as JSON, for example ["a", "b"]')
    return found


def _substitute(
    raw: dict[str, Any],
    environ: Mapping[str, str],
    path: Path,
    origins: Mapping[tuple[str, ...], str],
) -> None:
    """Replace `${NAME}` in every string; a variable that is unset or empty is an error."""

    def replace(value: Any, keys: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: replace(inner, (*keys, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [replace(inner, keys) for inner in value]
        if not isinstance(value, str):
            return value

        def lookup(match: re.Match[str]) -> str:
            found = bare(environ.get(match[1], ""))
            if not found:
                raise ConfigError(
                    f"{_where(path, keys, origins)}: the environment variable {match[1]} is not "
                    "set or empty; set it, or write the value here"
                )
            return found

        return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lookup, value)

    for key in list(raw):
        raw[key] = replace(raw[key], (key,))


def _read_secret_files(
    raw: dict[str, Any], path: Path, origins: Mapping[tuple[str, ...], str]
) -> None:
    """Beside each secret of SECRET_FILES, `…_file` may name a file that holds it."""
    for keys in SECRET_FILES:
        for section in _tables(raw, keys[:-1]):
            _read_secret_file(section, keys, path, origins)


def _tables(raw: object, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The tables that stand at a place of the settings: one, or those of a list."""
    found = raw if isinstance(raw, list) else [raw]
    if keys:
        return [
            table
            for one in found
            if isinstance(one, dict) and keys[0] in one
            for table in _tables(one[keys[0]], keys[1:])
        ]
    return [one for one in found if isinstance(one, dict)]


def _read_secret_file(
    section: dict[str, Any],
    keys: tuple[str, ...],
    path: Path,
    origins: Mapping[tuple[str, ...], str],
) -> None:
    secret, from_file = keys[-1], f"{keys[-1]}_file"
    if from_file not in section:
        return
    if secret in section:
        name = ".".join(keys[:-1])
        raise ConfigError(f"{path}: {name}: set {secret} or {from_file}, not both")
    file = section.pop(from_file)
    where = _where(path, (*keys[:-1], from_file), origins)
    what = f"it must hold the {secret.removeprefix('api_')}"
    try:
        section[secret] = bare(Path(str(file)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{where}: {file} cannot be read ({reason}); {what}") from None
    if not section[secret]:
        raise ConfigError(f"{where}: {file} is empty; {what}")


def _where(path: Path, keys: tuple[str, ...], origins: Mapping[tuple[str, ...], str]) -> str:
    for set_keys, variable in origins.items():
        both = min(len(set_keys), len(keys))  # it may have set a part, or what this is a part of
        if set_keys[:both] == keys[:both]:
            return variable
    return f"{path}: {'.'.join(keys)}"


def changes(before: Config, after: Config) -> list[str]:
    """The keys of the settings that differ, such as "schedule.every"; no values, they may be
    secret."""

    def walk(one: BaseModel, other: BaseModel, path: str) -> Iterator[str]:
        for name, field in type(one).model_fields.items():
            mine, theirs = getattr(one, name), getattr(other, name)
            if isinstance(mine, BaseModel) and isinstance(theirs, BaseModel):
                yield from walk(mine, theirs, f"{path}{field.alias or name}.")
            elif mine != theirs:
                yield f"{path}{field.alias or name}"

    return list(walk(before, after, ""))


def _refuse_unknown_keys(
    raw: dict[str, Any], path: Path, origins: Mapping[tuple[str, ...], str]
) -> None:
    """A misspelt name is what is wrong, not the setting that is missing for it, nor a variable that
    nobody set yet."""
    files = {(*keys[:-1], f"{keys[-1]}_file") for keys in SECRET_FILES}
    try:
        Config.model_validate(raw)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            keys = _keys_of(found["loc"])
            if found["type"] == "extra_forbidden" and keys not in files:
                line = f"{_where(path, keys, origins)}: unknown key; {_known_keys(keys)}"
                raise ConfigError(" ".join(line.split())) from None


def _keys_of(place: tuple[str | int, ...]) -> tuple[str, ...]:
    return tuple(part for part in place if isinstance(part, str))


def _first_problem(
    error: ValidationError, path: Path, origins: Mapping[tuple[str, ...], str]
) -> str:
    """One line for the first thing pydantic found; input values stay out, they may be secret."""
    found = error.errors(include_url=False)[0]
    keys = _keys_of(found["loc"])
    where = _where(path, keys, origins)
    if found["type"] == "missing":
        if keys in SECRET_FILES:
            secret = keys[-1]
            return f"{where}: missing; set {secret}, or {secret}_file with the path of a file"
        return f"{where}: missing; config.example.toml shows it"
    if found["type"] == "tuple_type":
        return f'{where}: this is no list; write for example ["a", "b"]'
    if found["type"] == "too_short":
        return f"{where}: the list is empty; name what shall be in it, or leave {keys[-1]} out"
    if found["type"] == "model_type":
        return f"{where}: this is a section; write [{'.'.join(keys)}] and its keys below"
    return " ".join(f"{where}: {found['msg'].removeprefix('Value error, ')}".split())


def _known_keys(keys: tuple[str, ...]) -> str:
    section = _section_of(keys) or Config
    names = [field.alias or name for name, field in section.model_fields.items()]
    for secret in SECRET_FILES:
        if secret[:-1] == keys[:-1]:
            names.insert(names.index(secret[-1]) + 1, f"{secret[-1]}_file")
    return f"known here: {', '.join(names)}"
