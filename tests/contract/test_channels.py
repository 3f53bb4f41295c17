"""Alerts to services by apprise, against one on loopback that refuses and then takes."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from state import problems
from state.db.database import Database
from syncer.config import AlertsConfig
from syncer.daemon import channels
from syncer.daemon.alerts import Alerts
from syncer.errors import ConfigError
from tests.support.webhook import Webhook, webhook


def of_the_worker(hook: Webhook) -> list[str]:
    return [text for text in hook.texts if "worker: ended" in text]


def test_each_channel_gets_what_it_has_not_taken_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url, parts = f"sqlite:///{tmp_path / 'syncer.db'}", {"worker": "ended"}
    with (
        webhook() as slack,
        webhook() as service,
        closing(Database.open(url)) as state,
        closing(Database.open(url, "queue")) as calls,
    ):
        address = service.url.replace("http://", "json://").replace("/hook", "/hush-token")
        urls = (SecretStr(f"{address}?:text=x"),)
        config = AlertsConfig(webhook=SecretStr(slack.url), urls=urls)
        service.key = "message"
        service.answer = lambda connection: connection.sendall(
            b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
        )
        watch = Alerts(state, calls, config, lambda: parts)
        watch.check()
        watch.check()
        # That a service does not take alerts is an alert too, once it lasts.
        assert of_the_worker(slack) == ["syncer: worker: ended"]
        assert service.texts == []
        assert service.requests >= 2
        with state.read() as connection:
            (problem,) = problems.recent(connection, 0)
        assert (problem.part, problem.ended_at) == ("alerts.urls 1", None)
        service.answer = None
        watch.check()
        watch.check()
        parts.clear()
        watch.check()
        assert of_the_worker(slack) == ["syncer: worker: ended", "syncer: over: worker: ended"]
        assert of_the_worker(service) == ["worker: ended", "over: worker: ended"]
    assert "alerts.urls 1: it works again" in caplog.text
    assert "hush" not in caplog.text
    assert "hush" not in problem.text


def test_what_cannot_work_is_one_line_without_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    good, wrong = SecretStr("json://127.0.0.1:1/hush"), SecretStr("nonsense://hush")
    channels.check(AlertsConfig(urls=(good,)))
    with pytest.raises(ConfigError) as error:
        channels.check(AlertsConfig(urls=(good, wrong)))
    assert str(error.value).startswith("alerts.urls: entry 2 is no URL that apprise knows")
    assert "hush" not in str(error.value)
    monkeypatch.setattr(channels, "find_spec", lambda name: None)
    channels.check(AlertsConfig())
    with pytest.raises(ConfigError) as error:
        channels.check(AlertsConfig(urls=(good,)))
    assert str(error.value).endswith("pip install 'engage-amberflo-sync[alerts]'")
