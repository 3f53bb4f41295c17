"""The types of single settings: durations, URLs, addresses, secrets.

Each type checks the value as it is read and raises `ValueError` with what is wrong and what would
be right; `loading` puts the name of the setting before it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from syncer.cron import CronLine
from syncer.input_text import has_valid_host, unprintable, unwrapped

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DAY = _SECONDS["d"]
_LONGEST = 36525 * _DAY


def duration(text: object) -> float:
    """Return the seconds of `"2h30m"`, `"20m"`, `"90s"` or `"1.5d"`; a bare number is seconds."""
    seconds = _seconds(text)
    if seconds > _LONGEST:
        raise ValueError("this is more than 100 years; write for example 90s, 20m, 2h30m or 1d")
    return seconds


def _seconds(text: object) -> float:
    if isinstance(text, int | float) and not isinstance(text, bool):
        with suppress(OverflowError):
            return float(text)
    if isinstance(text, str):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip()):
            return float(text)
        compact = text.replace(" ", "").lower()
        parts = _DURATION.findall(compact)
        if parts and "".join(number + unit for number, unit in parts) == compact:
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise ValueError("this is not a duration; write for example 90s, 20m, 2h30m or 1d")


def as_duration(seconds: float) -> str:
    """Return seconds as a config has them: "2h30m"; `duration` reads it."""
    parts, rest = [], round(seconds, 3)
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _SECONDS[unit])
        parts += [f"{count:g}{unit}"] if count else []
    return "".join([*parts, f"{rest:g}s"] if rest or not parts else parts)


def is_duration(info: FieldInfo) -> bool:
    """Return whether a setting is a duration."""
    return any(
        isinstance(validator, BeforeValidator) and validator.func is duration
        for validator in info.metadata
    )


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("this is not a number")
    return value


def _for_ever_or_a_day(seconds: float) -> float:
    if 0 < seconds < _DAY:
        raise ValueError('write at least "1d", or "0" to keep it for ever')
    return seconds


def _unwrapped(value: object) -> object:
    return unwrapped(value) if isinstance(value, str) else value


def _database_url(value: object) -> URL:
    text = unwrapped(str(value))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(
            "this is not a database URL; write for example sqlite:///syncer.db or "
            "postgresql+psycopg://user:password@host/database"
        ) from None
    if kind_of_file(url) is None and text.partition("://")[2].count("@") > 1:
        # What follows the first @ counts as the host, and messages show hosts.
        raise ValueError(
            "it has more than one @; write an @ of the password as %40, or percent-encode the "
            "whole password"
        )
    if url.drivername == "postgres":  # as Heroku and others still write it
        return url.set(drivername="postgresql+psycopg")
    return url


def kind_of_file(url: URL) -> str | None:
    """Return whose file a URL names, "SQLite" or "DuckDB"; None if it names no file."""
    return {"sqlite": "SQLite", "duckdb": "DuckDB"}.get(url.get_backend_name())


def _possible_path(url: URL) -> URL:
    """Refuse the URL of a file whose path no file can have."""
    name = str(url.database or "")
    if kind_of_file(url) and (
        "\0" in name
        or any(len(os.fsencode(part)) > 255 for part in name.split("/"))
        or len(os.fsencode(name)) > 3000
    ):
        raise ValueError("no file has such a path: a name has at most 255 bytes, and no NUL")
    return url


def _lasting(url: URL) -> URL:
    """Refuse the URL of a database that ends with the command, such as `:memory:`."""
    if url.get_backend_name() != "sqlite":
        return url
    name = str(url.database or "")
    if name in ("", ":memory:") or name.startswith("file:"):
        raise ValueError("the state needs a file of its own; write for example sqlite:///syncer.db")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ValueError(
            f"{url.drivername} cannot keep the state; write for example sqlite:///syncer.db"
        )
    return url


_BASE_URL = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


def _http_url(text: str) -> str:
    if not (_BASE_URL.fullmatch(text) and has_valid_host(text)):
        raise ValueError(
            "this is not a URL; write for example https://app.amberflo.io/customers, without a "
            "user, a password or a query"
        )
    return text.rstrip("/")


def _public_url(text: str) -> str:
    if not (_BASE_URL.fullmatch(text) and has_valid_host(text)):
        raise ValueError("this is not a URL; write for example https://calls.example.com")
    return text.rstrip("/").removesuffix("/v1")


def _secret_http_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not (re.fullmatch(r"https?://[^/\s]+\S*", text) and has_valid_host(text)):
        raise ValueError("this is not a URL; write for example https://hooks.slack.com/services/…")
    return secret


def _service_url(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", secret.get_secret_value()):
        raise ValueError(
            "this is not a URL of apprise; write for example mailtos://user:password@example.com"
        )
    return secret


def _without_secret(text: str) -> str:
    """Refuse a pattern of files with a password or a signature: logs and the state have patterns.

    A `?` stands for a character, and an @ may follow a container: only of HTTP is it a query.
    """
    if re.match(r"[^:/]+://[^/]*:[^/]*@|https?://[^?]*\?", text):
        raise ValueError(
            "it has a password or a query; leave the login to the environment, or write it below "
            "[engage.files.storage]"
        )
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        shown = repr(text) if len(text) < 100 else "this"
        raise ValueError(f"{shown} is not an address; write for example 127.0.0.1:8400")
    return text


def shown(url: URL) -> str:
    """Return a URL for messages: without its password and its query, which may hold secrets."""
    return str(url.set(query={}))


def host_and_port(address: str) -> tuple[str, int]:
    """Return the host and the port of an `Address`; an IPv6 host has no brackets then."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _cron(text: str) -> str:
    try:
        CronLine(text)
    except ValueError as error:
        raise ValueError(
            f'this is not a cron line ({error}); write for example "0 3 * * *" for 3:00 UTC daily'
        ) from None
    return text


def _globs(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list of which every entry excludes keys ("!…")."""
    if entries and all(entry.startswith("!") for entry in entries):
        raise ValueError(
            'entries with "!" only leave keys out, so nothing is selected; write for example '
            f'["*", "{entries[0]}"]'
        )
    return entries


def _hard_to_guess(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < 16:
        raise ValueError("less than 16 characters; make one with: openssl rand -hex 16")
    return secret


def _not_blank(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value():
        raise ValueError("the secret is empty; set it, or name a file that holds it")
    return secret


def _fits_a_header(secret: SecretStr) -> SecretStr:
    if (problem := unprintable(secret.get_secret_value())) is not None:
        raise ValueError(f"no key has such a character: {problem}; copy the key anew")
    return secret


#: What the JSON Schema of the config says of a duration.
_DURATION_SCHEMA = WithJsonSchema(
    {"type": ["string", "number"], "pattern": r"^\s*(\d+(\.\d+)?\s*([smhdSMHD]\s*|$))+$"}
)
#: Seconds: more than none, and none or more.
Duration = Annotated[
    float, BeforeValidator(duration), Field(gt=0, allow_inf_nan=False), _DURATION_SCHEMA
]
DurationOrNone = Annotated[
    float, BeforeValidator(duration), Field(ge=0, allow_inf_nan=False), _DURATION_SCHEMA
]
#: How long to keep something: a day or more, or 0 for ever.
Retention = Annotated[DurationOrNone, AfterValidator(_for_ever_or_a_day)]
#: SQLAlchemy's URL: its text hides the password.
DatabaseUrl = Annotated[
    URL,
    BeforeValidator(_database_url),
    AfterValidator(_possible_path),
    WithJsonSchema({"type": "string"}),
]
StateUrl = Annotated[DatabaseUrl, AfterValidator(_lasting)]
HttpUrl = Annotated[str, BeforeValidator(_unwrapped), AfterValidator(_http_url)]
PublicUrl = Annotated[str, BeforeValidator(_unwrapped), AfterValidator(_public_url)]
#: A host and a port: "127.0.0.1:8400".
Address = Annotated[
    str, AfterValidator(_address), Field(json_schema_extra={"pattern": r"^.+:\d{1,5}$"})
]
Cron = Annotated[str, AfterValidator(_cron)]
#: Trait keys and globs of them; those that begin with "!" leave keys out.
Globs = Annotated[tuple[str, ...], AfterValidator(_globs)]
Secret = Annotated[SecretStr, BeforeValidator(_unwrapped), AfterValidator(_not_blank)]
HeaderSecret = Annotated[Secret, AfterValidator(_fits_a_header)]
LoginToken = Annotated[Secret, AfterValidator(_hard_to_guess)]
SecretUrl = Annotated[Secret, AfterValidator(_secret_http_url)]
#: A service that apprise sends to: "pagerduty://…".
ServiceUrl = Annotated[Secret, AfterValidator(_service_url)]
#: A text with at least one character.
Text = Annotated[str, Field(min_length=1)]
#: A pattern of files: a path, or a URL without a login.
FilePattern = Annotated[Text, AfterValidator(_without_secret)]
#: A number; TOML's `true` is none.
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
#: The highest number that counts something.
MOST = 1_000_000_000
Count = Annotated[Whole, Field(ge=0, le=MOST)]


class Section(BaseModel):
    """A table of the config: its keys are known, and nothing changes it once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
