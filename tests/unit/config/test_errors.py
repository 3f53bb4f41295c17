"""What is wrong in a config is said in one line: file or variable, key, what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.config import load
from syncer.errors import ConfigError
from tests.unit.config.helpers import LEAST, refused, with_lines


def test_no_file(tmp_path: Path) -> None:
    line = refused(tmp_path / "none.toml")
    assert line == (
        "FILE: there is no such file; make it with `syncer init`, or name another with --config"
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


def test_all_that_is_wrong_is_said_at_once(file: Path) -> None:
    """And nothing that only follows from it."""
    file.write_text(
        """
[amberflo]
api_key = "${NO_KEY}"
rte = 5
[engage]
audiences = "vip"
[engage.profiles_sync]
url_file = "none"
[guard]
max_exits = 2
""",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as error:
        load(file, {"SYNCER_LOG__LEVEL": "loud", "SYNCER_LOG__FORMAT": "json"})
    lines = [line.replace(str(file), "FILE") for line in error.value.lines]
    lines = [line.replace(f"{file.parent}/", "") for line in lines]
    assert [line.partition("; ")[0] for line in lines] == [
        "FILE: amberflo.rte: unknown key",
        "FILE: amberflo.api_key: the environment variable NO_KEY is not set or empty",
        "FILE: engage.profiles_sync.url_file: none cannot be read (No such file or directory)",
        "FILE: engage.audiences: this is not a list",
        "FILE: guard.max_exits: write 1 or less",
        "SYNCER_LOG__LEVEL: write 'debug', 'info', 'warning' or 'error'",
    ]


def test_each_entry_of_a_list_is_told(file: Path) -> None:
    file.write_text(
        """
[amberflo]
api_key_file = "${NO_FILE}"
[engage.profiles_sync]
url = "sqlite:///x.db"
[passthrough]
write_keys = ["${NO_KEY}", { key_file = "a\\u0000b" }, { key = "x", may = ["dance"] }, "${NONE}"]
""",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as error:
        load(file, {})
    lines = [line.replace(f"{file}: ", "") for line in error.value.lines]
    assert [line.replace(f"{file.parent}/", "") for line in lines] == [
        "passthrough.write_keys, entry 1: the environment variable NO_KEY is not set or empty; set "
        "it, or write the value here",
        "passthrough.write_keys, entry 4: the environment variable NONE is not set or empty; set "
        "it, or write the value here",
        "amberflo.api_key_file: the environment variable NO_FILE is not set or empty; set it, or "
        "write the value here",
        "passthrough.write_keys.key_file, entry 2: a\0b cannot be read (embedded null byte); it "
        "must hold the key",
        "passthrough.write_keys.may, entry 3: write 'page', 'screen', 'track', 'identify' or "
        "'memberships'",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "[guard]\nmax_exits = true",
        "[guard]\nmin_exits = false",
        "[amberflo]\nrate = true",
        "[schedule]\nevery = true",
        f"[schedule]\nevery = 1{'0' * 400}",
        f"[guard]\nmin_exits = {'9' * 5000}",
        f"[guard]\nmax_exits = {'[' * 5000}",
        f"[state]\nurl = 'sqlite:///{'a/' * 5000}b'",
    ],
    ids=range(8),
)
def test_a_value_that_is_no_such_thing_is_one_line(file: Path, lines: str) -> None:
    if lines.startswith("[amberflo]"):
        file.write_text(LEAST.replace("[amberflo]", lines), encoding="utf-8")
    else:
        with_lines(file, lines)
    assert refused(file).startswith("FILE: ")


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
        (["[alerts]", "lag = '0s'"], "FILE: alerts.lag: write more than 0"),
        (["[alerts]", "silent = 'ever'"], "FILE: alerts.silent: this is not a duration; write"),
        (
            ["[alerts]", "webhook = 'hush'"],
            "FILE: alerts.webhook: this is not a URL; write for example https://hooks.slack.com/",
        ),
        (["[alerts]", "webhook = ' '"], "FILE: alerts.webhook: the secret is empty; set it"),
        (["[alerts]", "webhooks = 'x'"], "FILE: alerts.webhooks: unknown key; known here: webhook"),
        (["[log]", "format = 'xml'"], "FILE: log.format: write 'text' or 'json'"),
        (["[log]", "level = 'loud'"], "FILE: log.level: write 'debug', 'info', "),
        (["[schedule]", "every = '0s'"], "FILE: schedule.every: write more than 0"),
        (["overlap = nan"], "FILE: engage.profiles_sync.overlap: write 0 or more"),
        (["[guard]", "max_exits = 1.5"], "FILE: guard.max_exits: write 1 or less"),
        (["[guard]", "max_exits = -0.1"], "FILE: guard.max_exits: write 0 or more"),
        (["[guard]", "max_exits = nan"], "FILE: guard.max_exits: "),
        (
            ["[retention]", "history = '12h'"],
            'FILE: retention.history: write at least "1d", or "0" to keep it for ever',
        ),
        (["[guard]", "min_exits = -1"], "FILE: guard.min_exits: write 0 or more"),
        # What no number in a database holds, and what no stack does.
        (
            ["[passthrough]", f"queue_limit = {'9' * 400}"],
            "FILE: passthrough.queue_limit: write 1,000,000,000 or less",
        ),
        (["[guard]", f"min_exits = {'9' * 400}"], "FILE: guard.min_exits: write 1,000,000,000 or "),
        (["[schedule]", f"every = '{'9' * 300}d'"], "FILE: schedule.every: this is more than 100 "),
        (
            ["[ops]", f"listen = '127.0.0.1:{'9' * 5000}'"],
            "FILE: ops.listen: this is not an address; write for example ",
        ),
        (["[log]", f"{'.'.join('a' * 900)} = 1"], "FILE: log.a: unknown key; known here: format"),
        ([f"[{'.'.join('a' * 5000)}]"], "FILE: a: unknown key; known here: amberflo, "),
        (
            ["[passthrough]", f"write_keys = [{{ key.{'.'.join('a' * 900)} = 1 }}]"],
            "FILE: passthrough.write_keys.key: this is not a text; write it in quotes",
        ),
        (["[log]", f"level = {'[' * 400}{']' * 400}"], "FILE: log.level: write 'debug', 'info', "),
        (["[guard]", "min_exits = 'many'"], "FILE: guard.min_exits: this is not a whole number"),
        (["[guard]", "small_max_exits = 2"], "FILE: guard.small_max_exits: write 1 or less"),
        (["[guard]", "small_min_exits = -1"], "FILE: guard.small_min_exits: write 0 or more"),
        (["[guard]", "max_deleted = 1.01"], "FILE: guard.max_deleted: write 1 or less"),
        (["[engage]", "deleted = 'keep'"], "FILE: engage.deleted: write 'exit' or 'for"),
        (["[engage]", "first_contact = 'no'"], "FILE: engage.first_contact: write 'ta"),
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
        (["[passthrough]", "queue_limit = 0"], "FILE: passthrough.queue_limit: write 1 or more"),
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
            "FILE: passthrough.write_keys.may: write 'page', 'screen', 'track', ",
        ),
        (["[passthrough]", "webhook_secret = ''"], "FILE: passthrough.webhook_secret: the secret"),
        (
            ["[passthrough]", "write_keys = ['hush', '${NO_KEY}']"],
            "FILE: passthrough.write_keys, entry 2: the environment variable NO_KEY is not set or "
            "empty; set it, or write the value here",
        ),
        (
            ["[passthrough]", "webhook_secret = '${BLANK}'"],
            "FILE: passthrough.webhook_secret: the environment variable BLANK is not set or empty",
        ),
    ],
)
def test_a_line_of_the_file_that_is_wrong(file: Path, lines: list[str], line: str) -> None:
    message = refused(with_lines(file, *lines), {"BLANK": " "})
    assert message.startswith(line)


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("SYNCER_AMBERFLO__RATE", "-1", "write 0 or more"),
        ("SYNCER_AMBERFLO__RATE", "fast", "this is not a number"),
        ("SYNCER_AMBERFLO__RATE", "nan", "this is not a number"),
        ("SYNCER_AMBERFLO__RATE", "inf", "this is not a number"),
        ("SYNCER_AMBERFLO__CONCURRENCY", "0", "write 1 or more"),
        ("SYNCER_AMBERFLO__CONCURRENCY", "1001", "write 1,000 or less"),
        ("SYNCER_AMBERFLO__TRAIT_VALUES", "json", "write 'native' or 'string'"),
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
        ("SYNCER_LOG__LEVEL", "INFO", "write 'debug', 'info', 'warning' or 'error'"),
        ("SYNCER_AMBERFLO__TIMEOUT", "30 s.", "this is not a duration; write for example 90s"),
        (
            "SYNCER_AMBERFLO__CUSTOMERS_URL",
            "app.amberflo.io",
            "is not a URL; write for example https://",
        ),
        ("SYNCER_AMBERFLO__INGEST_URL", "ftp://x", "is not a URL; write for example https://"),
        ("SYNCER_AMBERFLO__API_KEY", " ", "the secret is empty; set it, or name a file"),
        ("SYNCER_AMBERFLO__API_KEY", "x${NO_KEY}", "the environment variable NO_KEY is not set"),
        ("SYNCER_ENGAGE__SOURCE", "csv", "write 'profiles_sync'"),
        ("SYNCER_ENGAGE__CUSTOMER_ID", "", "String should have at least 1 character"),
        ("SYNCER_ENGAGE__AUDIENCES", '["a"', 'write a list as JSON, for example ["a", "b"]'),
        ("SYNCER_ENGAGE__AUDIENCES", "vip", 'write a list as JSON, for example ["a", "b"]'),
        ("SYNCER_ENGAGE__AUDIENCES", "[1]", "this is not a text; write it in quotes"),
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
            "FILE: engage.profiles_sync.url: missing; set url, or url_file with the path of a file",
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
