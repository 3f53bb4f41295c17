"""The config contract (docs/design.md §4): what is read, from where, and what an error says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr
from sqlalchemy.engine import URL, make_url

from syncer.config import AlertsConfig, Config, changes, duration, load
from syncer.errors import EXIT_USAGE, ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
#: What the example takes from the environment.
EXAMPLE_ENVIRON = {
    "AMBERFLO_API_KEY": "hush-amberflo",
    "PROFILES_SYNC_URL": "postgresql+psycopg://reader:hush-database@host/db",
    "SEGMENT_WRITE_KEY": "hush-write",
    "SEGMENT_WEBHOOK_SECRET": "hush-webhook",
}
#: Sections that may be left out; the example has them as comments.
OPTIONAL = {"engage.public_api", "web"}
#: Keys that the example shows as a comment: without them something else holds, or nothing.
COMMENTED = {"amberflo.api_key_file", "alerts.webhook"}
#: Keys that the example shows with a value of one's own.
OWN_VALUES = {
    "amberflo.api_key",
    "engage.computed_traits",
    "engage.profiles_sync.url",
    "engage.profiles_sync.schema",
    "passthrough.write_keys",
    "passthrough.webhook_secret",
    "passthrough.public_url",
}
LEAST = """
[amberflo]
api_key = "hush"
[engage.profiles_sync]
url = "sqlite:///profiles.db"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config file with the least that it needs."""
    path = tmp_path / "config.toml"
    path.write_text(LEAST, encoding="utf-8")
    return path


def with_lines(file: Path, *lines: str) -> Path:
    file.write_text(LEAST + "\n".join(lines), encoding="utf-8")
    return file


def refused(path: Path, environ: dict[str, str] | None = None) -> str:
    """The one line of an error, without the path of the file."""
    with pytest.raises(ConfigError) as error:
        load(path, environ or {})
    line = str(error.value)
    assert "\n" not in line
    assert "hush" not in line
    assert error.value.exit_code == EXIT_USAGE == 2
    return line.replace(str(path), "FILE")


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its name in the file."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + (field.alias or name)
        if isinstance(value, BaseModel):
            yield from leaves(value, key + ".")
        elif key not in OPTIONAL:
            yield key, value


# The example


def test_the_example_loads() -> None:
    config = load(EXAMPLE, EXAMPLE_ENVIRON)
    assert config.amberflo.api_key.get_secret_value() == "hush-amberflo"
    assert config.engage.profiles_sync.url.password == "hush-database"
    assert [one.key for one in config.passthrough.callers] == ["hush-write"]
    assert config.passthrough.webhook_secret == SecretStr("hush-webhook")
    assert config.engage.computed_traits == ("total_revenue_*",)
    assert config.engage.profiles_sync.schema_ == "my_space"


def test_the_example_shows_every_key() -> None:
    config = load(EXAMPLE, EXAMPLE_ENVIRON)

    def keys(section: dict[str, Any], prefix: str = "") -> set[str]:
        return {
            found
            for key, value in section.items()
            for found in (
                keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
            )
        }

    text = EXAMPLE.read_text(encoding="utf-8")
    assert keys(tomllib.loads(text)) == {key for key, _ in leaves(config)} - COMMENTED
    for key in COMMENTED:
        assert re.search(rf"^# {key.rpartition('.')[2]} = ", text, re.MULTILINE), key
    # They load too where somebody takes the mark away.
    bare = re.sub(r"^# (webhook = )", r"\1", text, flags=re.MULTILINE)
    found = tomllib.loads(bare)["alerts"]
    assert AlertsConfig.model_validate(found | {"webhook": "https://x/y"}).webhook is not None


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
        "amberflo.concurrency": 16,
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
        "passthrough.deletes_per_day": 100,
        "passthrough.queue_limit": 1_000_000,
        "passthrough.queue_share": 0.5,
        "ops.listen": "127.0.0.1:8402",
        "alerts.webhook": None,
        "alerts.lag": 30 * 60,
        "alerts.silent": 24 * 3600,
        "log.format": "text",
        "log.level": "info",
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
    keys = [one.key for one in config.passthrough.callers]
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


# Errors: file or variable, key, what is wrong, what would be right


def test_no_file(tmp_path: Path) -> None:
    line = refused(tmp_path / "none.toml")
    assert line == (
        "FILE: there is no such file; copy config.example.toml there or name another with --config"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith("FILE: cannot be read: ")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert refused(binary).startswith("FILE: cannot be read: ")


def test_a_file_that_is_not_toml(file: Path) -> None:
    line = refused(with_lines(file, "overlap == '1h'"))
    assert line.startswith("FILE: this is not TOML: ")
    assert "at line 6, column" in line
    file.write_text('[amberflo]\napi_key = "hush\n', encoding="utf-8")
    assert refused(file).startswith("FILE: this is not TOML: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[amberflow]\napi_key = "x"', "FILE: amberflow: unknown key; known here: amberflo, "),
        ('[amberflo]\napikey = "${NO_KEY}"', "FILE: amberflo.apikey: unknown key; known here: "),
        ('[amberflo]\napi_key = "${NO_KEY}"\n[gard]', "FILE: gard: unknown key; known here: "),
    ],
)
def test_a_misspelt_name_is_told_before_what_is_missing_for_it(
    file: Path, text: str, line: str
) -> None:
    file.write_text(text, encoding="utf-8")
    assert refused(file).startswith(line)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (
            ["[gard]", "max_exits = 1"],
            "FILE: gard: unknown key; known here: amberflo, engage, schedule, guard, state, "
            "passthrough, ops, web, alerts, log",
        ),
        (
            ["[guard]", "max_exit = 1"],
            "FILE: guard.max_exit: unknown key; known here: max_exits, min_exits",
        ),
        (
            ["shema = 'x'"],
            "FILE: engage.profiles_sync.shema: unknown key; known here: url, url_file, schema, "
            "overlap",
        ),
        (["schema_ = 'x'"], "FILE: engage.profiles_sync.schema_: unknown key; known here: url, "),
        (["[schedule]", "every = 'often'"], "FILE: schedule.every: this is not a duration; write"),
        (
            ["[schedule]", "reconcile = 'often'"],
            "FILE: schedule.reconcile: this is not a cron line",
        ),
        (
            ["[schedule]", "reconcile = '0 3 * * 8'"],
            "FILE: schedule.reconcile: this is not a cron line (bad day-of-week); write "
            'for example "0 3 * * *" for 3:00 UTC daily',
        ),
        (
            ["[schedule]", "reconcile = '0 0 30 2 *'"],
            "FILE: schedule.reconcile: this is not a cron line (bad day-of-month); write ",
        ),
        (
            ["[schedule]", "every = '20m'"],
            "FILE: schedule: jitter must be less than every; write for example 20m for 2h30m",
        ),
        (["[alerts]", "lag = '0s'"], "FILE: alerts.lag: Input should be greater than 0"),
        (["[alerts]", "silent = 'ever'"], "FILE: alerts.silent: this is not a duration; write"),
        (
            ["[alerts]", "webhook = 'hush'"],
            "FILE: alerts.webhook: this is not a URL; write for example https://hooks.slack.com/",
        ),
        (["[alerts]", "webhook = ' '"], "FILE: alerts.webhook: the secret is empty; set it"),
        (["[alerts]", "webhooks = 'x'"], "FILE: alerts.webhooks: unknown key; known here: webhook"),
        (["[log]", "format = 'xml'"], "FILE: log.format: Input should be 'text' or 'json'"),
        (["[log]", "level = 'loud'"], "FILE: log.level: Input should be 'debug', 'info', "),
        (["[schedule]", "every = '0s'"], "FILE: schedule.every: Input should be greater than 0"),
        (["overlap = nan"], "FILE: engage.profiles_sync.overlap: Input should be "),
        (["[guard]", "max_exits = 1.5"], "FILE: guard.max_exits: Input should be less than or eq"),
        (["[guard]", "max_exits = -0.1"], "FILE: guard.max_exits: Input should be greater than o"),
        (["[guard]", "max_exits = nan"], "FILE: guard.max_exits: "),
        (
            ["[retention]", "history = '12h'"],
            'FILE: retention.history: write at least "1d", or "0" to keep it for ever',
        ),
        (["[guard]", "min_exits = -1"], "FILE: guard.min_exits: Input should be greater than or"),
        (["[guard]", "min_exits = 'many'"], "FILE: guard.min_exits: Input should be a valid int"),
        (["[guard]", "small_max_exits = 2"], "FILE: guard.small_max_exits: Input should be less"),
        (["[guard]", "small_min_exits = -1"], "FILE: guard.small_min_exits: Input should be gre"),
        (["[guard]", "max_deleted = 1.01"], "FILE: guard.max_deleted: Input should be less than"),
        (["[engage]", "deleted = 'keep'"], "FILE: engage.deleted: Input should be 'exit' or 'for"),
        (["[engage]", "first_contact = 'no'"], "FILE: engage.first_contact: Input should be 'ta"),
        (
            ["[state]", "url = 'syncer.db'"],
            "FILE: state.url: this is not a database URL; write ",
        ),
        (
            ["[passthrough]", "listen = 'nowhere'"],
            "FILE: passthrough.listen: 'nowhere' is not an addre",
        ),
        (
            ["[passthrough]", "listen = ':8400'"],
            "FILE: passthrough.listen: ':8400' is not an address; ",
        ),
        *(
            (
                ["[passthrough]", f"public_url = {wrong!r}"],
                "FILE: passthrough.public_url: this is not a URL; write for example https://calls.ex",
            )
            for wrong in ("calls.example.com", "https://", "https://a/b?c=d", "https://u:p@host")
        ),
        (["[ops]", "listen = '8402'"], "FILE: ops.listen: '8402' is not an address; "),
        (["[passthrough]", "listen = 'h:65536'"], "FILE: passthrough.listen: 'h:65536' is not an"),
        (["[passthrough]", "queue_limit = 0"], "FILE: passthrough.queue_limit: Input should be gr"),
        (
            ["[passthrough]", "write_keys = [' ']"],
            "FILE: passthrough.write_keys.key: the secret is ",
        ),
        *(
            (
                ["[passthrough]", f"write_keys = {wrong}"],
                'FILE: passthrough.write_keys: this is not a list; write for example ["a", "b"]',
            )
            for wrong in ("'hush'", "true", "{ key = 'hush' }")
        ),
        (
            ["[passthrough]", "write_keys = [{ key = 'hush', may = 'track' }]"],
            'FILE: passthrough.write_keys.may: this is not a list; write for example ["a", "b"]',
        ),
        (
            ["[passthrough]", "write_keys = [{ key = 'hush', may = [] }]"],
            "FILE: passthrough.write_keys.may: the list is empty; name its entries, or",
        ),
        (
            ["[passthrough]", "write_keys = [{ key = 'hush', may = ['delete'] }]"],
            "FILE: passthrough.write_keys.may: Input should be 'page', 'screen', 'track', ",
        ),
        (["[passthrough]", "webhook_secret = ''"], "FILE: passthrough.webhook_secret: the secret"),
        (
            ["[passthrough]", "write_keys = ['hush', '${NO_KEY}']"],
            "FILE: passthrough.write_keys: the environment variable NO_KEY is not set or empty; "
            "set it, or write the value here",
        ),
        (
            ["[passthrough]", "webhook_secret = '${BLANK}'"],
            "FILE: passthrough.webhook_secret: the environment variable BLANK is not set or empty",
        ),
    ],
)
def test_a_line_of_the_file_that_is_wrong(file: Path, lines: list[str], line: str) -> None:
    found = refused(with_lines(file, *lines), {"BLANK": " "})
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("SYNCER_AMBERFLO__RATE", "-1", "Input should be greater than or equal to 0"),
        ("SYNCER_AMBERFLO__RATE", "fast", "Input should be a valid number"),
        ("SYNCER_AMBERFLO__RATE", "nan", "Input should be a finite number"),
        ("SYNCER_AMBERFLO__RATE", "inf", "Input should be a finite number"),
        ("SYNCER_AMBERFLO__CONCURRENCY", "0", "Input should be greater than or equal to 1"),
        ("SYNCER_AMBERFLO__CONCURRENCY", "1001", "Input should be less than or equal to 1000"),
        ("SYNCER_AMBERFLO__TRAIT_VALUES", "json", "Input should be 'native' or 'string'"),
        ("SYNCER_SCHEDULE__JITTER", "3h", "jitter must be less than every; write for example 20m"),
        (
            "SYNCER_ENGAGE__AUDIENCES",
            '["!internal_*"]',
            'so nothing is selected; write for example ["*", "!internal_*"]',
        ),
        (
            "SYNCER_SCHEDULE__RECONCILE",
            "@daily",
            "this is not a cron line (1 fields, not 5); ",
        ),
        ("SYNCER_ALERTS__WEBHOOK", "hush", "this is not a URL; write for example https://hooks"),
        ("SYNCER_LOG__LEVEL", "INFO", "Input should be 'debug', 'info', 'warning' or 'error'"),
        ("SYNCER_AMBERFLO__TIMEOUT", "30 s.", "this is not a duration; write for example 90s"),
        (
            "SYNCER_AMBERFLO__CUSTOMERS_URL",
            "app.amberflo.io",
            "is not a URL; write for example https://",
        ),
        ("SYNCER_AMBERFLO__INGEST_URL", "ftp://x", "is not a URL; write for example https://"),
        ("SYNCER_AMBERFLO__API_KEY", " ", "the secret is empty; set it, or name a file"),
        ("SYNCER_AMBERFLO__API_KEY", "x${NO_KEY}", "the environment variable NO_KEY is not set"),
        ("SYNCER_ENGAGE__SOURCE", "csv", "Input should be 'profiles_sync'"),
        ("SYNCER_ENGAGE__CUSTOMER_ID", "", "String should have at least 1 character"),
        ("SYNCER_ENGAGE__AUDIENCES", '["a"', 'write a list as JSON, for example ["a", "b"]'),
        ("SYNCER_ENGAGE__AUDIENCES", "vip", 'write a list as JSON, for example ["a", "b"]'),
        ("SYNCER_ENGAGE__AUDIENCES", "[1]", "Input should be a valid string"),
        ("SYNCER_PASSTHROUGH__WRITE_KEYS", '["hush"', "write a list as JSON, for example"),
        ("SYNCER_PASSTHROUGH__WRITE_KEYS", '[{"key": "k", "may": []}]', "the list is empty; name "),
        ("SYNCER_PASSTHROUGH__WRITE_KEYS", '[{"may": ["track"]}]', "missing; set key, or key_file"),
        (
            "SYNCER_PASSTHROUGH__WRITE_KEYS",
            '[{"key": "k", "a": 1}]',
            "unknown key; known here: key",
        ),
        (
            "SYNCER_ENGAGE__PROFILES_SYNC__URL",
            "postgresql://u:hush@h:x/d",
            "this is not a database",
        ),
        (
            "SYNCER_STATE__URL",
            "",
            "this is not a database URL; write for example sqlite:///syncer.db",
        ),
        ("SYNCER_GARD__MIN_EXITS", "5", "unknown key; known here: amberflo, engage, schedule"),
        ("SYNCER_GUARD__MIN", "5", "unknown key; known here: max_exits, min_exits"),
        ("SYNCER_AMBERFLO", "hush", "this is a section; write [amberflo] and its keys below"),
        ("SYNCER_RATE", "5", "unknown key; known here: amberflo, "),
        ("SYNCER_AMBERFLO__API_KEY__X", "5", "api_key is a value, not a section"),
    ],
)
def test_a_variable_that_is_wrong_is_named(
    file: Path, variable: str, text: str, problem: str
) -> None:
    line = refused(file, {variable: text})
    assert line.startswith(f"{variable}: ")
    assert problem in line


def test_the_keys_that_are_known_are_all_told(file: Path) -> None:
    line = refused(file, {"SYNCER_AMBERFLO__KEY": "hush"})
    assert line == (
        "SYNCER_AMBERFLO__KEY: unknown key; known here: api_key, api_key_file, customers_url, "
        "ingest_url, rate, concurrency, trait_values, protected, timeout, patience"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "FILE: amberflo: missing; config.example.toml shows it"),
        (
            "[amberflo]\n[engage.profiles_sync]\nurl = 'sqlite:///p.db'",
            "FILE: amberflo.api_key: missing; set api_key, or api_key_file with the path of a file",
        ),
        (
            "[amberflo]\napi_key = 'hush'",
            "FILE: engage: missing; config.example.toml shows it",
        ),
        (
            "[amberflo]\napi_key = 'hush'\n[engage]",
            "FILE: engage.profiles_sync: missing; config.example.toml shows it",
        ),
        (
            "[amberflo]\napi_key = 'hush'\n[engage.profiles_sync]\nschema = 'x'",
            "FILE: engage.profiles_sync.url: missing; set url, or url_file with the path of a file",
        ),
        ("[amberflo]\napi_key = '${NO_KEY}'", "FILE: amberflo.api_key: the environment variable "),
        (
            "[amberflo]\napi_key = ''\n[engage.profiles_sync]\nurl = 'a://'",
            "FILE: amberflo.api_key",
        ),
        ("amberflo = 5\n[engage.profiles_sync]\nurl = 'sqlite://'", "FILE: amberflo: this is a"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    assert refused(file).startswith(line)


# api_key_file


def with_key_file(file: Path, key_file: Path) -> Path:
    text = LEAST.replace('api_key = "hush"', f"api_key_file = {str(key_file)!r}")
    file.write_text(text, encoding="utf-8")
    return file


def test_the_key_may_be_in_a_file(file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(" hush-in-file\n", encoding="utf-8")
    config = load(with_key_file(file, key_file), {})
    assert config.amberflo.api_key.get_secret_value() == "hush-in-file"
    file.write_text(LEAST.replace('api_key = "hush"', ""), encoding="utf-8")
    config = load(file, {"SYNCER_AMBERFLO__API_KEY_FILE": str(key_file)})
    assert config.amberflo.api_key.get_secret_value() == "hush-in-file"


def test_a_key_file_that_is_not_there_is_blank_or_no_text(file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    where = f"FILE: amberflo.api_key_file: {key_file} "
    with_key_file(file, key_file)
    assert refused(file) == (
        where + "cannot be read (No such file or directory); it must hold the key"
    )
    key_file.write_text(" \n", encoding="utf-8")
    assert refused(file) == where + "is empty; it must hold the key"
    key_file.write_bytes(b"hush\xff")
    assert refused(file) == where + "cannot be read (it is not text); it must hold the key"


def test_the_key_and_its_file_are_one_too_many(file: Path, tmp_path: Path) -> None:
    line = refused(file, {"SYNCER_AMBERFLO__API_KEY_FILE": str(tmp_path / "key")})
    assert line.endswith(": set api_key or api_key_file, not both")


def test_a_variable_that_names_no_key_file_is_named(file: Path, tmp_path: Path) -> None:
    file.write_text(LEAST.replace('api_key = "hush"', ""), encoding="utf-8")
    line = refused(file, {"SYNCER_AMBERFLO__API_KEY_FILE": str(tmp_path / "key")})
    assert line.startswith("SYNCER_AMBERFLO__API_KEY_FILE: ")


# web, which may be left out


def test_the_page_may_come_from_the_environment(file: Path, tmp_path: Path) -> None:
    assert load(file, {}).web is None
    token_file = tmp_path / "token"
    token_file.write_text("hush-in-a-file-16\n", encoding="utf-8")
    environ = {
        "SYNCER_WEB__TOKEN_FILE": str(token_file),
        "SYNCER_WEB__HOSTS": '["syncer.example.com"]',
        "SYNCER_WEB__LISTEN": "[::1]:9000",
    }
    settings = load(file, environ).web
    assert settings is not None
    assert settings.token.get_secret_value() == "hush-in-a-file-16"
    assert settings.hosts == ("syncer.example.com",)
    assert settings.address == ("::1", 9000)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], "token: missing; set token, or token_file with the path of a file"),
        (["token = ' '"], "token: the secret is empty; "),
        (["token = 'hush-hush-hush!'"], "token: less than 16 characters; make one with: openssl"),
        (["token_file = '/no/such'"], "token_file: /no/such cannot be read (No such file or dire"),
        (["token = 'hush-hush-hush-hush'", "listen = '8401'"], "listen: '8401' is not an addr"),
        (["tokn = 'hush'"], "tokn: unknown key; known here: listen, token, token_file, hosts"),
    ],
)
def test_what_is_wrong_with_the_page_is_named(file: Path, lines: list[str], line: str) -> None:
    assert refused(with_lines(file, "[web]", *lines)).startswith("FILE: web." + line)


# engage.public_api, which may be left out


def test_the_public_api_may_come_from_the_environment(file: Path, tmp_path: Path) -> None:
    assert load(file, {}).engage.public_api is None
    token_file = tmp_path / "token"
    token_file.write_text("hush-in-file\n", encoding="utf-8")
    environ = {
        "SYNCER_ENGAGE__PUBLIC_API__TOKEN_FILE": str(token_file),
        "SYNCER_ENGAGE__PUBLIC_API__SPACE_ID": "space",
        "SYNCER_ENGAGE__PUBLIC_API__SIZE_TOLERANCE": "0.5",
    }
    settings = load(file, environ).engage.public_api
    assert settings is not None
    assert settings.token.get_secret_value() == "hush-in-file"
    assert (settings.space_id, settings.size_tolerance) == ("space", 0.5)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], "token: missing; set token, or token_file with the path of a file"),
        (["token = 'hush'"], "space_id: missing; config.example.toml shows it"),
        (["token = ' '", "space_id = 'x'"], "token: the secret is empty; "),
        (["token = 'hush'", "space_id = ''"], "space_id: String should have at least 1 char"),
        (["token_file = '/no/such'"], "token_file: /no/such cannot be read (No such file or dire"),
        (
            ["tokn = 'hush'", "token = 'hush'", "space_id = 'x'"],
            "tokn: unknown key; known here: token, token_file, space_id, url, size_tolerance",
        ),
        (
            ["token = 'hush'", "space_id = 'x'", "size_tolerance = -1"],
            "size_tolerance: Input should be greater than or equal to 0",
        ),
    ],
)
def test_what_is_wrong_with_the_public_api_is_named(
    file: Path, lines: list[str], line: str
) -> None:
    found = refused(with_lines(file, "[engage.public_api]", *lines))
    assert found.startswith("FILE: engage.public_api." + line)
    assert "hush" not in found


def test_the_token_and_its_file_are_one_too_many(file: Path) -> None:
    lines = ["[engage.public_api]", "token = 'hush'", "token_file = 'token'"]
    line = refused(with_lines(file, *lines))
    assert line == "FILE: engage.public_api: set token or token_file, not both"


# Secrets


def test_a_secret_in_the_wrong_place_does_not_show(file: Path) -> None:
    line = refused(file, {"SYNCER_AMBERFLO__CUSTOMERS_URL": "${KEY}", "KEY": "hush"})
    assert line.startswith("SYNCER_AMBERFLO__CUSTOMERS_URL: ")


def test_secrets_never_show() -> None:
    """docs/design.md §3.22: never printed, logged or stored."""
    config = load(EXAMPLE, EXAMPLE_ENVIRON | {"SYNCER_ALERTS__WEBHOOK": "https://x/hush"})
    assert config.alerts.webhook is not None
    shown = [config, *(getattr(config, name) for name in Config.model_fields)]
    shown += [value for _, value in leaves(config)]
    for one in shown:
        assert "hush" not in f"{one} {one!r}"


@pytest.mark.parametrize("variable", sorted(EXAMPLE_ENVIRON))
def test_secrets_do_not_show_in_errors(variable: str) -> None:
    """Each is missing in turn, while the others are set."""
    environ = {key: value for key, value in EXAMPLE_ENVIRON.items() if key != variable}
    line = refused(EXAMPLE, environ)
    assert f"the environment variable {variable} is not set or empty" in line


def test_settings_cannot_be_changed(file: Path) -> None:
    config = load(file, {})
    with pytest.raises(ValueError, match="frozen"):
        config.amberflo.rate = 5  # type: ignore[misc]


# What changed


def test_what_did_not_change_is_no_change(file: Path) -> None:
    assert changes(load(file, {}), load(file, {})) == []
    assert changes(load(EXAMPLE, EXAMPLE_ENVIRON), load(EXAMPLE, EXAMPLE_ENVIRON)) == []


#: Another value for each setting.
OTHER_VALUES = {
    "AMBERFLO__API_KEY": "hush 2",
    "AMBERFLO__CUSTOMERS_URL": "http://h/c",
    "AMBERFLO__INGEST_URL": "http://h/i",
    "AMBERFLO__RATE": "50",
    "AMBERFLO__CONCURRENCY": "4",
    "AMBERFLO__TRAIT_VALUES": "string",
    "AMBERFLO__PROTECTED": '["x"]',
    "AMBERFLO__TIMEOUT": "7s",
    "AMBERFLO__PATIENCE": "7s",
    "RETENTION__HISTORY": "400d",
    "PASSTHROUGH__PUBLIC_URL": "https://calls.example.org",
    "OPS__LISTEN": "h:4",
    "ENGAGE__CUSTOMER_ID": "email",
    "ENGAGE__AUDIENCES": '["vip"]',
    "ENGAGE__COMPUTED_TRAITS": '["x"]',
    "ENGAGE__FILTER": "NOT _fivetran_deleted",
    "ENGAGE__FIRST_CONTACT": "hold",
    "ENGAGE__DELETED": "forget",
    "ENGAGE__PROFILES_SYNC__URL": "postgresql+psycopg://reader:hush-2@host/db",
    "ENGAGE__PROFILES_SYNC__SCHEMA": "other",
    "ENGAGE__PROFILES_SYNC__OVERLAP": "7s",
    "SCHEDULE__EVERY": "3h",
    "SCHEDULE__JITTER": "7s",
    "SCHEDULE__RECONCILE": "0 4 * * *",
    "GUARD__MAX_EXITS": "0.5",
    "GUARD__MIN_EXITS": "7",
    "GUARD__SMALL_MAX_EXITS": "0.5",
    "GUARD__SMALL_MIN_EXITS": "7",
    "GUARD__MAX_DELETED": "0.5",
    "STATE__URL": "sqlite:///other.db",
    "PASSTHROUGH__LISTEN": "127.0.0.1:1",
    "PASSTHROUGH__WRITE_KEYS": '["hush 2"]',
    "PASSTHROUGH__WEBHOOK_SECRET": "hush 2",
    "PASSTHROUGH__DELETES_PER_DAY": "7",
    "PASSTHROUGH__QUEUE_LIMIT": "7",
    "PASSTHROUGH__QUEUE_SHARE": "0.7",
    "ALERTS__WEBHOOK": "https://h/hush",
    "ALERTS__LAG": "7s",
    "ALERTS__SILENT": "7s",
    "LOG__FORMAT": "json",
    "LOG__LEVEL": "error",
}


def test_every_change_is_told_by_its_key_and_not_by_its_value() -> None:
    before = load(EXAMPLE, EXAMPLE_ENVIRON)
    for variable, value in OTHER_VALUES.items():
        after = load(EXAMPLE, {**EXAMPLE_ENVIRON, f"SYNCER_{variable}": value})
        key = variable.lower().replace("__", ".")
        assert changes(before, after) == changes(after, before) == [key]
    every = {f"SYNCER_{variable}": value for variable, value in OTHER_VALUES.items()}
    found = changes(before, load(EXAMPLE, EXAMPLE_ENVIRON | every))
    assert set(found) == {key for key, _ in leaves(before)} - {"engage.source"}
    assert len(found) == len(OTHER_VALUES)


# What people and systems leave round a value

LEFT = ["{}\n", "{}\r\n", "\ufeff{}", "{}\u00a0", "\u200b{} ", '"{}"', "'{}'\n", "\u201c{}\u201d"]


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_round_a_secret_is_no_part_of_it(file: Path, left: str) -> None:
    given = left.format("hush-1")
    (secret := file.with_name("secret")).write_text(given, encoding="utf-8")
    by_file = LEAST.replace('api_key = "hush"', f"api_key_file = {str(secret)!r}")
    by_variable = LEAST.replace('"hush"', '"${KEY}"')
    for text, environ in (
        (by_file, {}),
        (by_variable, {"KEY": given}),
        (LEAST, {"SYNCER_AMBERFLO__API_KEY": given}),
    ):
        file.write_text(text, encoding="utf-8")
        assert load(file, environ).amberflo.api_key.get_secret_value() == "hush-1"


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_round_a_url_is_no_part_of_it(file: Path, left: str) -> None:
    file.write_text(LEAST.replace("sqlite:///profiles.db", "${URL}"), encoding="utf-8")
    url = "postgresql+psycopg://reader:p%40ss@host/db"
    ours = {"SYNCER_AMBERFLO__CUSTOMERS_URL": left.format("https://eu.example.com/customers")}
    config = load(file, {"URL": left.format(url)} | ours)
    assert config.engage.profiles_sync.url.render_as_string(hide_password=False) == url
    assert config.amberflo.customers_url == "https://eu.example.com/customers"


def test_a_password_in_the_middle_of_a_url_is_taken_as_it_is_meant(file: Path) -> None:
    file.write_text(
        LEAST.replace("sqlite:///profiles.db", "postgresql://reader:${PW}@host/db"),
        encoding="utf-8",
    )
    assert load(file, {"PW": "hush\n"}).engage.profiles_sync.url.password == "hush"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("hush-k\u00e9y", "character 7 is LATIN SMALL LETTER E WITH ACUTE"),
        ("hush\nhush", "character 5 is U+000A"),
        ("hush\u2014hush", "character 5 is EM DASH"),
    ],
)
def test_a_key_that_no_header_can_hold_is_said_in_a_line(file: Path, key: str, what: str) -> None:
    line = refused(file, {"SYNCER_AMBERFLO__API_KEY": key})
    said = f"no key has such a character: {what}; copy the key anew"
    assert line == f"SYNCER_AMBERFLO__API_KEY: {said}"
    api = {"SYNCER_ENGAGE__PUBLIC_API__TOKEN": key, "SYNCER_ENGAGE__PUBLIC_API__SPACE_ID": "s"}
    assert refused(file, api) == f"SYNCER_ENGAGE__PUBLIC_API__TOKEN: {said}"


def test_a_config_with_a_byte_order_mark(file: Path) -> None:
    file.write_text(LEAST, encoding="utf-8-sig")
    assert load(file, {}).amberflo.api_key.get_secret_value() == "hush"


# Database URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://reader:Tr0ub@hushdor7@host/db",
        "postgresql://reader:p@hush/x@host/db",
        "snowflake://reader:p@hush?x@account/db",
        "postgres://u@hush:p@host/db",
    ],
)
@pytest.mark.parametrize("key", ["STATE__URL", "ENGAGE__PROFILES_SYNC__URL"])
def test_a_password_with_a_bare_at_sign_is_never_shown(file: Path, key: str, url: str) -> None:
    line = refused(file, {f"SYNCER_{key}": url})
    assert line.startswith(f"SYNCER_{key}: it has more than one @; write an @ of the password as")


def test_postgres_is_postgresql(file: Path) -> None:
    url = load(file, {"SYNCER_STATE__URL": "postgres://u:p@h:5/d?sslmode=require"}).state.url
    whole = url.render_as_string(hide_password=False)
    assert whole == "postgresql+psycopg://u:p@h:5/d?sslmode=require"


def test_a_file_with_an_at_sign_is_a_file(file: Path) -> None:
    url = "sqlite:////home/@a/b@c.db"
    assert load(file, {"SYNCER_STATE__URL": url}).state.url.database == "/home/@a/b@c.db"


def test_a_url_of_amberflo_has_no_password(file: Path) -> None:
    for url in ("https://u:hush@host/customers", "https://host/customers?key=hush"):
        line = refused(file, {"SYNCER_AMBERFLO__CUSTOMERS_URL": url})
        assert "without a user, a password or a query" in line


# Where the state is


def test_a_relative_path_is_beside_the_config(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load(Path("..") / file.name, {"SYNCER_STATE__URL": "sqlite:///data/x.db?timeout=3"})
    assert config.state.url == URL.create(
        "sqlite", database=str(tmp_path / "data/x.db"), query={"timeout": "3"}
    )
    assert config.engage.profiles_sync.url.database == str(tmp_path / "profiles.db")
    for text in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true"):
        config = load(file, {"SYNCER_ENGAGE__PROFILES_SYNC__URL": text})
        assert config.engage.profiles_sync.url == make_url(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sqlite://", "the state needs a file of its own"),
        ("sqlite:///:memory:", "the state needs a file of its own"),
        ("sqlite:///file:x.db?uri=true", "the state needs a file of its own"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite cannot keep the state"),
        (f"sqlite:///{'x' * 256}.db", "no file has such a path"),
        (f"sqlite:///{'é' * 128}/x.db", "no file has such a path"),
    ],
)
def test_the_state_is_a_file_that_there_can_be(file: Path, text: str, said: str) -> None:
    assert f"SYNCER_STATE__URL: {said}" in refused(file, {"SYNCER_STATE__URL": text})


@pytest.mark.parametrize("variable", ["AMBERFLO__CUSTOMERS_URL", "PASSTHROUGH__PUBLIC_URL"])
@pytest.mark.parametrize(
    "address",
    ["host:port", "[::1", "a..b", f"{'a' * 64}.com", "host:99999", "host:0", "host:", "[x]", ""],
)
def test_a_url_has_an_address_that_there_can_be(file: Path, variable: str, address: str) -> None:
    line = refused(file, {f"SYNCER_{variable}": f"http://{address}/x"})
    assert "this is not a URL; write for example https://" in line


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "host", "bücher.example", "a_b.c"])
def test_a_host_may_be_a_name_or_a_number(file: Path, address: str) -> None:
    config = load(file, {"SYNCER_AMBERFLO__CUSTOMERS_URL": f"http://{address}/customers"})
    assert config.amberflo.customers_url == f"http://{address}/customers"


def test_a_state_that_was_made_in_the_working_folder_is_not_left_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "syncer.db").touch()
    line = refused(file)
    assert line.startswith("FILE: state.url: syncer.db is looked for beside the config file, ")
    assert f"it exists at {elsewhere}/syncer.db: move it to {tmp_path}/syncer.db" in line
    assert line.endswith(f"or write its whole path: sqlite:///{elsewhere}/syncer.db")
    (tmp_path / "syncer.db").touch()
    assert load(file, {}).state.url.database == str(tmp_path / "syncer.db")


# What else is in the environment


@pytest.mark.parametrize("service", ["", "_WEB", "_AMBERFLO", "_DB__X"])
def test_what_kubernetes_tells_of_a_service_is_no_setting(file: Path, service: str) -> None:
    ends = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8400",
        "SERVICE_PORT_HTTP_2": "8400",
        "PORT": "tcp://10.0.0.1:8400",
        "PORT_8400_TCP": "tcp://10.0.0.1:8400",
        "PORT_8400_TCP_ADDR": "10.0.0.1",
        "PORT_53_UDP_PROTO": "udp",
    }
    environ = {f"SYNCER{service}_{end}": value for end, value in ends.items()}
    assert load(file, environ) == load(file, {})


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_cannot_be_read_are_said_at_once(file: Path, variable: str) -> None:
    for path, why in (("/none.pem", "No such file or directory"), (str(file), "it has no cert")):
        with pytest.raises(ConfigError) as error:
            load(file, {variable: path})
        assert str(error.value).startswith(f"{variable}: {path} cannot be used ({why}")


@pytest.mark.parametrize(
    "url",
    [
        "socks5://u:hush@host:1080",
        "http://u:hush",  # the host is forgotten
        "u:hush@host:http",
        "http://u:hush@host:99999",
        "http://u:hush@[::1:9",
        "http://u:hush@",
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_at_once(file: Path, url: str) -> None:
    line = refused(file, {"https_proxy": url})
    assert line.startswith("https_proxy: this is not the URL of a proxy; write for example http")
