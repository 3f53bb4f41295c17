"""The sections of the settings, their keys, their defaults and their bounds.

The types of single values are in `syncer/setting_types.py`; `loading` reads a file into a `Config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    create_model,
    model_validator,
)
from sqlalchemy.engine import make_url

from syncer.engage.source_settings import SourceSettings
from syncer.engage.sources import SOURCES
from syncer.passthrough.scopes import SIGNED, Caller, short_name
from syncer.setting_types import (
    MOST,
    Address,
    Count,
    Cron,
    Duration,
    DurationOrNone,
    Fraction,
    Globs,
    HeaderSecret,
    HttpUrl,
    LoginToken,
    Number,
    PublicUrl,
    Retention,
    Secret,
    SecretUrl,
    Section,
    ServiceUrl,
    StateUrl,
    Text,
    Whole,
    host_and_port,
)

#: Traits that Amberflo's payment providers and marketplaces live by (docs/facts/amberflo.md §1.4).
PROTECTED = ("stripeId", "stripe_id", "paymentProviderName", "awsm.*")


class _Listener(Section):
    """A section whose server listens on an address; each section names its own default."""

    listen: Address

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return host_and_port(self.listen)


class AmberfloConfig(Section):
    api_key: HeaderSecret
    customers_url: HttpUrl = "https://app.amberflo.io/customers"
    ingest_url: HttpUrl = "https://app.amberflo.io/ingest"
    rate: Annotated[Number, Field(ge=0)] = 10.0
    concurrency: Annotated[Whole, Field(ge=1, le=1000)] = 64
    trait_values: Literal["native", "string"] = "native"
    protected: tuple[Text, ...] = PROTECTED
    timeout: Duration = 30.0
    patience: Duration = 300.0


class PublicApiConfig(Section):
    token: HeaderSecret
    space_id: Text
    url: HttpUrl = "https://api.segmentapis.com"
    size_tolerance: Annotated[Number, Field(ge=0)] = 0.05


def _known_source(name: str) -> str:
    if name not in SOURCES:
        *names, last = map(repr, SOURCES)
        raise ValueError(f"write {', '.join(names)} or {last}" if names else f"write {last}")
    return name


class EngageSection(Section):
    """What is asked of Engage, whatever the source; `EngageConfig` adds a section a source."""

    source: Annotated[
        str, AfterValidator(_known_source), Field(json_schema_extra={"enum": [*SOURCES]})
    ] = "profiles_sync"
    customer_id: Text = "user_id"
    audiences: Globs = ("*",)
    computed_traits: Globs = ()
    filter: Annotated[str, AfterValidator(str.strip)] = ""
    first_contact: Literal["take", "hold"] = "take"
    deleted: Literal["exit", "forget"] = "exit"
    public_api: PublicApiConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_the_source(cls, raw: Any) -> Any:
        """Ask for the settings of the source that is used, and of no other."""
        if not isinstance(raw, dict):
            return raw
        name = raw.get("source", "profiles_sync")
        return {name: {}, **raw} if isinstance(name, str) and name in SOURCES else raw

    @property
    def settings(self) -> SourceSettings:
        """The settings of the source that is used."""
        settings: SourceSettings = getattr(self, self.source)
        return settings


if TYPE_CHECKING:

    class EngageConfig(EngageSection): ...

else:
    EngageConfig = create_model(
        "EngageConfig",
        __base__=EngageSection,
        __module__=__name__,
        **{name: (settings | None, None) for name, settings in SOURCES.items()},
    )


class ScheduleConfig(Section):
    every: Duration = 2.5 * 3600
    jitter: DurationOrNone = 20 * 60.0
    reconcile: Cron = "0 3 * * *"

    @model_validator(mode="after")
    def _jitter_is_less(self) -> ScheduleConfig:
        if self.jitter >= self.every:
            raise ValueError("jitter must be less than every; write for example 20m for 2h30m")
        return self


class GuardConfig(Section):
    max_exits: Fraction = 0.2
    min_exits: Count = 100
    small_max_exits: Fraction = 0.3
    small_min_exits: Count = 10
    max_deleted: Fraction = 0.05


class StateConfig(Section):
    url: StateUrl = make_url("sqlite:///syncer.db")


class RetentionConfig(Section):
    history: Retention = 0.0


def _key_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name) or name == SIGNED.name:
        raise ValueError(
            "this is not a name for a key; write up to 32 of a-z, 0-9, - and _, for example "
            '"browser" ("webhook" is Segment\'s)'
        )
    return name


KeyName = Annotated[str, AfterValidator(_key_name)]
Scope = Literal["page", "screen", "track", "identify", "memberships"]


class WriteKey(Section):
    """A write key: its text, the scopes of its callers, and its short name."""

    key: Secret
    may: Annotated[tuple[Scope, ...], Field(min_length=1)] = ("page", "screen", "track", "identify")
    name: KeyName | None = None

    @property
    def caller(self) -> Caller:
        """The caller that sends this key."""
        key = self.key.get_secret_value()
        return Caller(self.name or short_name(key), frozenset(self.may), key)


def _as_table(entry: object) -> object:
    """Return an entry of `write_keys` as a table; a bare text is the key."""
    if isinstance(entry, str | SecretStr):
        return {"key": entry}
    if isinstance(entry, dict | WriteKey):
        return entry
    raise ValueError(
        'this is neither a key nor a table; write for example { key = "${SEGMENT_WRITE_KEY}", '
        'may = ["track", "memberships"] }'
    )


class PassthroughConfig(_Listener):
    listen: Address = "127.0.0.1:8400"
    write_keys: tuple[Annotated[WriteKey, BeforeValidator(_as_table)], ...] = ()
    webhook_secret: Secret | None = None
    public_url: PublicUrl | None = None
    deletes_per_day: Count = 100
    queue_limit: Annotated[Whole, Field(ge=1, le=MOST)] = 1_000_000
    queue_share: Annotated[Number, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _keys_and_names_differ(self) -> PassthroughConfig:
        keys = [entry.key.get_secret_value() for entry in self.write_keys]
        if len(set(keys)) < len(keys):
            raise ValueError("write_keys has one key twice; write each once, with all it may")
        names = [caller.name for caller in self.callers]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"two of write_keys have the name {repeated[0]!r}; give each a name of its own"
            )
        return self

    @property
    def callers(self) -> tuple[Caller, ...]:
        """The callers that may send, one a write key."""
        return tuple(entry.caller for entry in self.write_keys)

    @property
    def share(self) -> float:
        """The part of the queue that one key may fill: all of it when only one caller may send."""
        alone = len(self.write_keys) <= 1 and self.webhook_secret is None
        return 1.0 if alone else self.queue_share


class OpsConfig(_Listener):
    """Where the daemon serves health and metrics, apart from the address that callers reach."""

    listen: Address = "127.0.0.1:8402"


class WebConfig(_Listener):
    """The operator's page; without the section the daemon serves none."""

    listen: Address = "127.0.0.1:8401"
    token: LoginToken
    hosts: tuple[str, ...] = ()


class AlertsConfig(Section):
    webhook: SecretUrl | None = None
    urls: tuple[ServiceUrl, ...] = ()
    lag: Duration = 30 * 60.0
    silent: Duration = 24 * 3600.0


class LogConfig(Section):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section):
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
    #: a folder whose files hold secrets, each with the name of its setting; "" is none
    secrets_dir: str = ""


def changes(before: Config, after: Config) -> list[str]:
    """Return the keys that differ, such as "schedule.every"; no values, which may be secret."""
    return list(_changes(before, after, ""))


def _changes(before: BaseModel, after: BaseModel, path: str) -> Iterator[str]:
    for name, field in type(before).model_fields.items():
        old, new = getattr(before, name), getattr(after, name)
        key = f"{path}{field.alias or name}"
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _changes(old, new, f"{key}.")
        elif old != new:
            yield key
