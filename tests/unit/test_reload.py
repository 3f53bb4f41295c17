"""Which parts a reload of the config restarts, and which keys it cannot change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syncer.config import SECRET_FILES, Config, changes, load
from syncer.daemon import service
from syncer.daemon.reload import RESTARTS, Part, applicable, parts_to_restart, restarts
from syncer.engage.sources import SOURCES
from syncer.errors import ConfigError
from syncer.process.supervisor import Supervisor
from syncer.stop import Stop
from syncer.wakeup import Wakeup
from tests.support.processes import wait_until

TOKEN = "t" * 32


def config(**settings: Any) -> Config:
    required: dict[str, Any] = {
        "amberflo": {"api_key": "x"},
        "engage": {"profiles_sync": {"url": "sqlite:///x.db"}},
        "web": {"token": TOKEN},
    }
    return Config.model_validate(required | settings)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("amberflo.rate", {Part.WORKER, Part.PAGE}),
        ("engage.public_api.token", {Part.WORKER, Part.PAGE}),
        ("guard.max_exits", {Part.PAGE}),
        ("passthrough.deletes_per_day", {Part.WORKER}),
        ("passthrough.write_keys", set()),
        ("alerts.webhook", set()),
        ("schedule.every", {Part.SCHEDULE}),
        ("web", {Part.DAEMON}),
        ("web.token", {Part.PAGE}),
        ("web.listen", {Part.DAEMON}),
        ("state.url", {Part.DAEMON}),
    ],
)
def test_a_key_restarts_the_parts_that_read_it(key: str, parts: set[Part]) -> None:
    assert restarts(key) == parts
    assert parts_to_restart([key, "alerts.lag"]) == parts


def test_the_table_names_sections_and_keys_that_exist() -> None:
    fields = Config.model_fields
    for key in RESTARTS:
        section, _, name = key.partition(".")
        assert section in fields
        if name not in ("", "*"):
            assert hasattr(getattr(config(), section), name)


def test_a_reload_keeps_what_needs_a_restart_of_the_daemon() -> None:
    old = config()
    new = config(
        state={"url": "sqlite:///other.db"},
        ops={"listen": "127.0.0.1:1"},
        passthrough={"listen": "127.0.0.1:2", "deletes_per_day": 7},
        web={"token": "u" * 32, "listen": "127.0.0.1:3"},
    )
    kept = [key for key in changes(old, new) if Part.DAEMON in restarts(key)]
    assert kept == ["state.url", "passthrough.listen", "ops.listen", "web.listen"]
    assert changes(old, applicable(old, new)) == ["passthrough.deletes_per_day", "web.token"]


@pytest.mark.parametrize("page", ["appears", "goes"])
def test_a_page_neither_appears_nor_goes_with_a_reload(page: str) -> None:
    old, new = config(), config(web=None)
    if page == "appears":
        old, new = new, old
    assert changes(old, new) == ["web"]
    assert applicable(old, new) == old


#: A config whose every secret is in a file, and what is in the files.
ROTATED = """
[amberflo]
api_key_file = "{folder}/api_key"
[engage.profiles_sync]
url_file = "{folder}/warehouse"
[engage.public_api]
token_file = "{folder}/public_api"
space_id = "space"
[state]
url_file = "{folder}/state"
[passthrough]
write_keys = [{{ key_file = "{folder}/write_key", name = "server" }}]
webhook_secret_file = "{folder}/webhook_secret"
[web]
token_file = "{folder}/page"
[alerts]
webhook_file = "{folder}/alerts"
urls_file = "{folder}/urls"
"""
#: The same with all of them in one folder, under the names of their settings.
IN_A_FOLDER = """
secrets_dir = "{folder}"
[engage.public_api]
space_id = "space"
[passthrough]
write_keys = [{{ name = "server" }}]
[web]
"""
NAMES = {
    "api_key": "amberflo.api_key",
    "warehouse": "engage.profiles_sync.url",
    "public_api": "engage.public_api.token",
    "state": "state.url",
    "write_key": "passthrough.write_keys.server",
    "webhook_secret": "passthrough.webhook_secret",
    "page": "web.token",
    "alerts": "alerts.webhook",
    "urls": "alerts.urls",
}
WRITTEN = {
    "api_key": "key-{0}",
    "warehouse": "postgresql://reader:word-{0}@h/d",
    "public_api": "token-{0}",
    "state": "postgresql://syncer:word-{0}@h/d",
    "write_key": "write-{0}",
    "webhook_secret": "secret-{0}",
    "page": "a-long-page-token-{0}",
    "alerts": "https://hooks.example.com/{0}",
    "urls": "json://a.example.com/{0}\njson://b.example.com",
}


@pytest.mark.parametrize(("text", "names"), [(ROTATED, {}), (IN_A_FOLDER, NAMES)])
def test_a_reload_takes_every_secret_from_its_file_but_that_of_the_state(
    tmp_path: Path, text: str, names: dict[str, str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text.format(folder=tmp_path))

    def loaded(number: int) -> Config:
        for name, secret in WRITTEN.items():
            (tmp_path / names.get(name, name)).write_text(secret.format(number) + "\n")
        return load(path, {})

    old, new = loaded(1), loaded(2)
    changed = changes(old, new)
    of_others = {("engage", name) for name in SOURCES if name != new.engage.source}
    settings = {
        ".".join(part for part in keys if part != "key")
        for keys in SECRET_FILES
        if keys[:2] not in of_others
    }
    assert set(changed) == settings
    assert len(settings) == len(WRITTEN)
    assert changes(applicable(old, new), new) == ["state.url"]
    needs_start = [key for key in changed if Part.DAEMON in restarts(key)]
    assert needs_start == ["state.url"]


def test_a_request_to_reload_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BEAT", 600.0)
    stop, reload, answers = Stop(), Wakeup(), [config(), ConfigError("wrong"), config()]

    def read() -> Config:
        answer = answers.pop()
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    daemon = service.Service(config(), stop, reload, read)
    part = Supervisor(stop).start("reload", daemon._watch)
    for rest in (2, 1, 0):
        reload.set()
        wait_until(lambda rest=rest: len(answers) == rest, 5)
    stop.set()
    part.join(5)
    assert part.thread is not None
    assert not part.thread.is_alive()
