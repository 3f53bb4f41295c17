"""The sections of the settings, their keys, their defaults and their bounds.

The types of single values are in `values`; `loading` reads a file into a `Config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from sqlalchemy.engine import make_url

from syncer.config.values import (
    Address,
    Count,
    Cron,
    DatabaseUrl,
    Duration,
    DurationOrNone,
    Fraction,
    Globs,
    HeaderSecret,
    HttpUrl,
    KeyName,
    LoginToken,
    Number,
    PublicUrl,
    Retention,
    Secret,
    SecretUrl,
    StateUrl,
    Text,
    Whole,
    host_and_port,
)
from syncer.passthrough.scopes import Caller, short_name

#: Traits that Amberflo's payment providers and marketplaces live by (docs/facts/amberflo.md §1.4).
PROTECTED = ("stripeId", "stripe_id", "paymentProviderName", "awsm.*")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class _Listener(_Section):
    """A section whose server listens on an address; each section names its own default."""

    listen: Address

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return host_and_port(self.listen)


class AmberfloConfig(_Section):
    api_key: HeaderSecret
    customers_url: HttpUrl = "https://app.amberflo.io/customers"
    ingest_url: HttpUrl = "https://app.amberflo.io/ingest"
    rate: Annotated[Number, Field(ge=0)] = 10.0
    concurrency: Annotated[Whole, Field(ge=1, le=1000)] = 16
    trait_values: Literal["native", "string"] = "native"
    protected: tuple[Text, ...] = PROTECTED
    timeout: Duration = 30.0
    patience: Duration = 300.0


class ProfilesSyncConfig(_Section):
    url: DatabaseUrl
    schema_: Annotated[str, Field(alias="schema")] = ""
    overlap: DurationOrNone = 3 * 3600.0


class PublicApiConfig(_Section):
    token: HeaderSecret
    space_id: Text
    url: HttpUrl = "https://api.segmentapis.com"
    size_tolerance: Annotated[Number, Field(ge=0)] = 0.05


class EngageConfig(_Section):
    source: Literal["profiles_sync"] = "profiles_sync"
    customer_id: Text = "user_id"
    audiences: Globs = ("*",)
    computed_traits: Globs = ()
    filter: Annotated[str, AfterValidator(str.strip)] = ""
    first_contact: Literal["take", "hold"] = "take"
    deleted: Literal["exit", "forget"] = "exit"
    profiles_sync: ProfilesSyncConfig
    public_api: PublicApiConfig | None = None


class ScheduleConfig(_Section):
    every: Duration = 2.5 * 3600
    jitter: DurationOrNone = 20 * 60.0
    reconcile: Cron = "0 3 * * *"

    @model_validator(mode="after")
    def _jitter_is_less(self) -> ScheduleConfig:
        if self.jitter >= self.every:
            raise ValueError("jitter must be less than every; write for example 20m for 2h30m")
        return self


class GuardConfig(_Section):
    max_exits: Fraction = 0.2
    min_exits: Count = 100
    small_max_exits: Fraction = 0.3
    small_min_exits: Count = 10
    max_deleted: Fraction = 0.05


class StateConfig(_Section):
    url: StateUrl = make_url("sqlite:///syncer.db")


class RetentionConfig(_Section):
    history: Retention = 0.0


Scope = Literal["page", "screen", "track", "identify", "memberships"]


class WriteKey(_Section):
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
    queue_limit: Annotated[Whole, Field(ge=1)] = 1_000_000
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


class AlertsConfig(_Section):
    webhook: SecretUrl | None = None
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
