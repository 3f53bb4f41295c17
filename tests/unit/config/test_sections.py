"""Settings with rules of their own: secrets, sections that may be left out, URLs, places."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from syncer.config import Config, changes, load
from syncer.errors import ConfigError
from tests.unit.config.helpers import EXAMPLE, EXAMPLE_ENVIRON, LEAST, leaves, refused, with_lines

# api_key_file


def with_key_file(file: Path, key_file: Path) -> Path:
    text = LEAST.replace('api_key = "hush"', f"api_key_file = {str(key_file)!r}")
    file.write_text(text, encoding="utf-8")
    return file


def test_the_key_may_be_in_a_file(file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(" hush-in-file\n", encoding="utf-8")
    config = load(with_key_file(file, Path("key")), {})  # beside the config, wherever we are
    assert config.amberflo.api_key.get_secret_value() == "hush-in-file"
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
    with_key_file(file, tmp_path / "key")
    both = file.read_text(encoding="utf-8").replace("[amberflo]", '[amberflo]\napi_key = "hush"')
    file.write_text(both, encoding="utf-8")
    assert refused(file) == "FILE: amberflo.api_key: set api_key or api_key_file, not both"


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
            "size_tolerance: write 0 or more",
        ),
    ],
)
def test_what_is_wrong_with_the_public_api_is_named(
    file: Path, lines: list[str], line: str
) -> None:
    message = refused(with_lines(file, "[engage.public_api]", *lines))
    assert message.startswith("FILE: engage.public_api." + line)
    assert "hush" not in message


def test_the_token_and_its_file_are_one_too_many(file: Path) -> None:
    lines = ["[engage.public_api]", "space_id = 'x'", "token = 'hush'", "token_file = 'token'"]
    line = refused(with_lines(file, *lines))
    assert line == "FILE: engage.public_api.token: set token or token_file, not both"


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
    for part in shown:
        assert "hush" not in f"{part} {part!r}"


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
    "SECRETS_DIR": "docs",
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
    "ENGAGE__PROFILES_SYNC__COMPARE": "pushdown",
    "ENGAGE__PROFILES_SYNC__SCRATCH": "scratch",
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
    "ALERTS__URLS": '["json://hush"]',
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
    differences = changes(before, load(EXAMPLE, EXAMPLE_ENVIRON | every))
    assert set(differences) == {key for key, _ in leaves(before)} - {"engage.source"}
    assert len(differences) == len(OTHER_VALUES)


# What people and systems leave round a value


LEFT = ["{}\n", "{}\r\n", "\ufeff{}", "{}\u00a0", "\u200b{} ", '"{}"', "'{}'\n", "\u201c{}\u201d"]


@pytest.mark.parametrize("padding", LEFT)
def test_what_is_left_round_a_secret_is_no_part_of_it(file: Path, padding: str) -> None:
    given = padding.format("hush-1")
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


@pytest.mark.parametrize("padding", LEFT)
def test_what_is_left_round_a_url_is_no_part_of_it(file: Path, padding: str) -> None:
    file.write_text(LEAST.replace("sqlite:///profiles.db", "${URL}"), encoding="utf-8")
    url = "postgresql+psycopg://reader:p%40ss@host/db"
    ours = {"SYNCER_AMBERFLO__CUSTOMERS_URL": padding.format("https://eu.example.com/customers")}
    config = load(file, {"URL": padding.format(url)} | ours)
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
    config = load(file, {"SYNCER_ENGAGE__PROFILES_SYNC__URL": "duckdb:///x@y@z.db?threads=1"})
    assert config.engage.profiles_sync.url.database == str(tmp_path / "x@y@z.db")
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
