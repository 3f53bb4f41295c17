"""How settings are read: the example, the environment, durations."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.engine import URL

from syncer.config import AlertsConfig, duration, load
from tests.unit.config.helpers import EXAMPLE, EXAMPLE_ENVIRON, LEAST, leaves, refused, with_lines

#: Keys that the example shows as a comment: without them something else holds, or nothing.
COMMENTED = {
    "secrets_dir",
    "amberflo.api_key_file",
    "alerts.webhook",
    "alerts.urls",
    "passthrough.write_keys",
    "passthrough.webhook_secret",
    "passthrough.public_url",
}


#: Keys that the example shows with a value of one's own.
OWN_VALUES = {
    "amberflo.api_key",
    "engage.computed_traits",
    "engage.profiles_sync.url",
    "engage.profiles_sync.schema",
}


# The example


def test_the_example_loads() -> None:
    config = load(EXAMPLE, EXAMPLE_ENVIRON)
    assert config.amberflo.api_key.get_secret_value() == "hush-amberflo"
    assert config.engage.profiles_sync.url.password == "hush-database"
    assert config.passthrough.callers == ()  # whoever receives no calls needs no key
    assert config.engage.computed_traits == ("total_revenue_*",)
    assert config.engage.profiles_sync.schema_ == "my_space"


def test_the_example_shows_every_key() -> None:
    config = load(EXAMPLE, EXAMPLE_ENVIRON)

    def keys(section: dict[str, Any], prefix: str = "") -> set[str]:
        return {
            name
            for key, value in section.items()
            for name in (
                keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
            )
        }

    text = EXAMPLE.read_text(encoding="utf-8")
    assert keys(tomllib.loads(text)) == {key for key, _ in leaves(config)} - COMMENTED
    for key in COMMENTED:
        assert re.search(rf"^# {key.rpartition('.')[2]} = ", text, re.MULTILINE), key
    # They load too where somebody takes the mark away.
    bare = re.sub(r"^# (webhook = )", r"\1", text, flags=re.MULTILINE)
    alerts = tomllib.loads(bare)["alerts"]
    assert AlertsConfig.model_validate(alerts | {"webhook": "https://x/y"}).webhook is not None


def test_the_example_with_calls_loads(tmp_path: Path) -> None:
    names = "|".join(key.rpartition(".")[2] for key in COMMENTED if key.startswith("passthrough."))
    text = EXAMPLE.read_text(encoding="utf-8")
    path = tmp_path / "config.toml"
    path.write_text(re.sub(rf"^# ({names}) = ", r"\1 = ", text, flags=re.MULTILINE), "utf-8")
    secrets = {"SEGMENT_WRITE_KEY": "hush-write", "SEGMENT_WEBHOOK_SECRET": "hush-webhook"}
    settings = load(path, EXAMPLE_ENVIRON | secrets).passthrough
    assert [caller.key for caller in settings.callers] == ["hush-write"]
    assert settings.webhook_secret == SecretStr("hush-webhook")
    assert settings.public_url == "https://calls.example.com"
    assert "hush" not in repr(settings)


def uncommented(section: str) -> str:
    """The example with an optional section as it is meant to be used."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"# [{section}]"))
    end = lines.index("", start)
    for n in range(start, end):
        if "_file = " not in lines[n]:
            lines[n] = lines[n].removeprefix("# ")
    return "\n".join(lines)


def test_the_example_with_the_public_api_loads(tmp_path: Path) -> None:
    text = uncommented("engage.public_api")
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    environ = EXAMPLE_ENVIRON | {"SEGMENT_PUBLIC_API_TOKEN": "hush-token"}
    settings = load(path, environ).engage.public_api
    assert settings is not None
    assert "hush" not in repr(settings)
    assert settings.token.get_secret_value() == "hush-token"
    shown = tomllib.loads(text)["engage"]["public_api"]
    assert shown.keys() == type(settings).model_fields.keys()
    assert re.search(r"^# token_file = ", text, re.MULTILINE)
    del shown["url"], shown["size_tolerance"]
    assert type(settings).model_validate(shown | {"token": "hush-token"}) == settings
    assert (settings.url, settings.size_tolerance) == ("https://api.segmentapis.com", 0.05)
    assert refused(path, EXAMPLE_ENVIRON).startswith(
        "FILE: engage.public_api.token: the environment variable SEGMENT_PUBLIC_API_TOKEN is not"
    )


def test_the_example_with_the_page_loads(tmp_path: Path) -> None:
    text = uncommented("web")
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    settings = load(path, EXAMPLE_ENVIRON | {"PAGE_TOKEN": "hush-hush-hush-hush"}).web
    assert settings is not None
    assert "hush" not in repr(settings)
    assert settings.token.get_secret_value() == "hush-hush-hush-hush"
    assert tomllib.loads(text)["web"].keys() == type(settings).model_fields.keys()
    assert re.search(r"^# token_file = ", text, re.MULTILINE)
    assert (settings.listen, settings.hosts) == ("127.0.0.1:8401", ())
    assert settings == type(settings)(token=SecretStr("hush-hush-hush-hush"))


def test_the_example_says_what_every_key_is() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if re.match(r"(# )?[a-z_]+ = ", line)]
    plain = {"customers_url", "ingest_url"}
    assert len(settings) > 20
    for line in settings:
        assert re.search(r"[\"\d\]]\s+# \S", line) or line.split(" ")[0] in plain, line


def test_the_values_of_the_example_are_the_defaults(file: Path) -> None:
    shown = dict(leaves(load(EXAMPLE, EXAMPLE_ENVIRON)))
    default = dict(leaves(load(file, {})))
    # A relative path is beside its config file.
    places = {"state.url"}
    assert {key for key in shown if shown[key] != default[key]} == OWN_VALUES | places
    assert Path(str(shown["state.url"].database)) == EXAMPLE.with_name("syncer.db")


def test_the_defaults_of_the_contract(file: Path) -> None:
    """docs/design.md §4."""
    config = load(file, {})
    assert {key: value for key, value in leaves(config) if key not in OWN_VALUES} == {
        "amberflo.customers_url": "https://app.amberflo.io/customers",
        "amberflo.ingest_url": "https://app.amberflo.io/ingest",
        "amberflo.rate": 10,
        "amberflo.concurrency": 64,
        "amberflo.trait_values": "native",
        "amberflo.protected": ("stripeId", "stripe_id", "paymentProviderName", "awsm.*"),
        "amberflo.timeout": 30,
        "amberflo.patience": 300,
        "engage.source": "profiles_sync",
        "engage.customer_id": "user_id",
        "engage.audiences": ("*",),
        "engage.filter": "",
        "engage.first_contact": "take",
        "engage.deleted": "exit",
        "engage.profiles_sync.overlap": 3 * 3600,
        "engage.profiles_sync.compare": "full",
        "engage.profiles_sync.scratch": "",
        "schedule.every": 2.5 * 3600,
        "schedule.jitter": 20 * 60,
        "schedule.reconcile": "0 3 * * *",
        "guard.max_exits": 0.2,
        "guard.min_exits": 100,
        "guard.small_max_exits": 0.3,
        "guard.small_min_exits": 10,
        "guard.max_deleted": 0.05,
        "state.url": URL.create("sqlite", database=str(file.with_name("syncer.db"))),
        "retention.history": 0,
        "passthrough.listen": "127.0.0.1:8400",
        "passthrough.write_keys": (),
        "passthrough.webhook_secret": None,
        "passthrough.public_url": None,
        "passthrough.deletes_per_day": 100,
        "passthrough.queue_limit": 1_000_000,
        "passthrough.queue_share": 0.5,
        "ops.listen": "127.0.0.1:8402",
        "alerts.webhook": None,
        "alerts.urls": (),
        "alerts.lag": 30 * 60,
        "alerts.silent": 24 * 3600,
        "log.format": "text",
        "log.level": "info",
        "secrets_dir": "",
    }
    assert config.engage.computed_traits == ()
    # an empty list refuses all
    assert config.passthrough.write_keys == ()
    assert config.passthrough.webhook_secret is None
    assert config.engage.profiles_sync.schema_ == ""


# The environment


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("SYNCER_AMBERFLO__RATE", "50", "amberflo.rate", 50.0),
        ("SYNCER_AMBERFLO__RATE", "0", "amberflo.rate", 0.0),
        ("SYNCER_AMBERFLO__RATE", "2.5", "amberflo.rate", 2.5),
        ("SYNCER_AMBERFLO__CONCURRENCY", "4", "amberflo.concurrency", 4),
        ("SYNCER_AMBERFLO__TRAIT_VALUES", "string", "amberflo.trait_values", "string"),
        ("SYNCER_AMBERFLO__TIMEOUT", "1m30s", "amberflo.timeout", 90.0),
        (
            "SYNCER_AMBERFLO__CUSTOMERS_URL",
            "http://h:1/c/",
            "amberflo.customers_url",
            "http://h:1/c",
        ),
        ("SYNCER_AMBERFLO__PROTECTED", '["crm_*"]', "amberflo.protected", ("crm_*",)),
        ("SYNCER_ENGAGE__FIRST_CONTACT", "hold", "engage.first_contact", "hold"),
        ("SYNCER_ENGAGE__FILTER", " NOT gone\n", "engage.filter", "NOT gone"),
        ("SYNCER_ENGAGE__DELETED", "forget", "engage.deleted", "forget"),
        ("SYNCER_GUARD__SMALL_MAX_EXITS", "0.5", "guard.small_max_exits", 0.5),
        ("SYNCER_GUARD__SMALL_MIN_EXITS", "3", "guard.small_min_exits", 3),
        ("SYNCER_GUARD__MAX_DELETED", "0", "guard.max_deleted", 0.0),
        ("syncer_amberflo__rate", "50", "amberflo.rate", 10.0),
        ("SYNCER_amberflo__Rate", "50", "amberflo.rate", 50.0),
        ("SYNCER_ENGAGE__AUDIENCES", '["vip_*", "b"]', "engage.audiences", ("vip_*", "b")),
        ("SYNCER_ENGAGE__AUDIENCES", " []", "engage.audiences", ()),
        ("SYNCER_ENGAGE__PROFILES_SYNC__SCHEMA", "s", "engage.profiles_sync.schema", "s"),
        ("SYNCER_ENGAGE__PROFILES_SYNC__SCHEMA", "", "engage.profiles_sync.schema", ""),
        # a section that the file does not have
        ("SYNCER_GUARD__MIN_EXITS", "7", "guard.min_exits", 7),
        ("SYNCER_GUARD__MAX_EXITS", "1", "guard.max_exits", 1.0),
        ("SYNCER_SCHEDULE__EVERY", "3h", "schedule.every", 10800.0),
        ("SYNCER_SCHEDULE__RECONCILE", "30 2 * * SUN", "schedule.reconcile", "30 2 * * SUN"),
        ("SYNCER_ALERTS__WEBHOOK", "http://h/x", "alerts.webhook", SecretStr("http://h/x")),
        ("SYNCER_ALERTS__LAG", "5m", "alerts.lag", 300.0),
        ("SYNCER_LOG__FORMAT", "json", "log.format", "json"),
        ("SYNCER_LOG__LEVEL", "debug", "log.level", "debug"),
        ("SYNCER_RETENTION__HISTORY", "400d", "retention.history", 400 * 86400.0),
        (
            "SYNCER_STATE__URL",
            "sqlite:////s/x.db",
            "state.url",
            URL.create("sqlite", database="/s/x.db"),
        ),
        # no settings
        ("SYNCER_CONFIG", "elsewhere.toml", "amberflo.rate", 10.0),
        ("OTHER_AMBERFLO__RATE", "50", "amberflo.rate", 10.0),
    ],
)
def test_any_key_can_be_set_by_environment(
    file: Path, variable: str, text: str, key: str, value: object
) -> None:
    assert dict(leaves(load(file, {variable: text})))[key] == value


def test_the_environment_wins_over_the_file(file: Path) -> None:
    with_lines(file, "overlap = '1h'", "[guard]", "min_exits = 5", "max_exits = 0.5")
    config = load(file, {"SYNCER_GUARD__MIN_EXITS": "7", "SYNCER_AMBERFLO__API_KEY": "hush 2"})
    assert (config.guard.min_exits, config.guard.max_exits) == (7, 0.5)
    assert config.engage.profiles_sync.overlap == 3600
    assert config.amberflo.api_key.get_secret_value() == "hush 2"


def test_all_can_come_from_the_environment(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("", encoding="utf-8")
    config = load(
        empty,
        {
            "SYNCER_AMBERFLO__API_KEY": "hush",
            "SYNCER_ENGAGE__PROFILES_SYNC__URL": "sqlite:///p.db",
            "SYNCER_PASSTHROUGH__WRITE_KEYS": '["hush-1", "${KEY}"]',
            "KEY": "hush-2",
        },
    )
    keys = [caller.key for caller in config.passthrough.callers]
    assert keys == ["hush-1", "hush-2"]


def test_a_variable_stands_for_its_value_anywhere_in_a_string(file: Path) -> None:
    with_lines(file, "[state]", 'url = "postgresql://u:${PASS}@${HOST}/db"')
    url = load(file, {"PASS": "hu$h ${HOST}", "HOST": "h"}).state.url
    # what a variable holds is not looked at again
    assert (url.password, url.host) == ("hu$h ${HOST}", "h")


def test_what_is_no_variable_is_left_alone(file: Path) -> None:
    with_lines(file, "schema = '$X ${} ${1} {X} $ {X}'")
    assert load(file, {"X": "x", "1": "y"}).engage.profiles_sync.schema_ == (
        "$X ${} ${1} {X} $ {X}"
    )


def test_a_value_that_the_environment_sets_needs_no_variable_of_the_file(file: Path) -> None:
    file.write_text(LEAST.replace('"hush"', '"${AMBERFLO_API_KEY}"'), encoding="utf-8")
    assert load(file, {"SYNCER_AMBERFLO__API_KEY": "hush"})


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8400", ("127.0.0.1", 8400)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_host_and_port(file: Path, listen: str, address: tuple[str, int]) -> None:
    with_lines(file, *(f"[{part}]\nlisten = {listen!r}" for part in ("passthrough", "ops")))
    config = load(file, {})
    assert config.passthrough.address == config.ops.address == address


@pytest.mark.parametrize("given", ["", "/", "/v1", "/v1/"])
def test_the_public_url_is_where_the_paths_begin(file: Path, given: str) -> None:
    with_lines(file, "[passthrough]", f'public_url = "https://calls.example.com:8443/a{given}"')
    assert load(file, {}).passthrough.public_url == "https://calls.example.com:8443/a"


@pytest.mark.parametrize(
    ("variable", "text"),
    [("SYNCER_PASSTHROUGH__LISTEN", "[::1]:8400"), ("SYNCER_AMBERFLO__API_KEY", "[hush")],
)
def test_text_may_begin_with_a_bracket(file: Path, variable: str, text: str) -> None:
    load(file, {variable: text})


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("3h", 10800),
        ("1d", 86400),
        ("2h30m", 9000),
        ("1d 2h 3m 4s", 93784),
        ("1.5h", 5400),
        ("0.25s", 0.25),
        (" 2H30M ", 9000),
        ("0s", 0),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_durations_take_s_m_h_and_d(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "h",
        "2h30",
        "1w",
        "-5m",
        "2h-30m",
        "5 minutes",
        "1:30",
        "1.h",
        "2,5h",
        "1hour",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 90s, 20m, 2h30m or 1d"):
        duration(text)


@pytest.mark.parametrize("value", [None, True, [], {}])
def test_what_is_no_text_or_number_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(value)


@given(*[st.integers(0, 1000)] * 4)
def test_the_parts_of_a_duration_add_up(d: int, h: int, m: int, s: int) -> None:
    assert duration(f"{d}d{h}h{m}m{s}s") == ((d * 24 + h) * 60 + m) * 60 + s


def test_there_may_be_no_jitter_and_no_overlap(file: Path) -> None:
    with_lines(file, "overlap = '0s'", "[schedule]", "jitter = '0s'")
    config = load(file, {})
    assert (config.schedule.jitter, config.engage.profiles_sync.overlap) == (0, 0)


def test_a_duration_is_a_finite_number(file: Path) -> None:
    line = refused(with_lines(file, "overlap = inf"))
    assert line.startswith("FILE: engage.profiles_sync.overlap: ")
