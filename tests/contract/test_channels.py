"""Alerts to services by apprise, against one on loopback that refuses and then takes."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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


@contextmanager
def databases(folder: Path) -> Iterator[tuple[Database, Database]]:
    """A new state and its queue."""
    url = f"sqlite:///{folder / 'syncer.db'}"
    with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as calls:
        yield state, calls


def of_the_worker(hook: Webhook) -> list[str]:
    return [text for text in hook.texts if "worker: ended" in text]


def test_each_channel_gets_what_it_has_not_taken_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    parts = {"worker": "ended"}
    with webhook() as slack, webhook() as service, databases(tmp_path) as (state, calls):
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
    several = SecretStr("json://127.0.0.1:1/hush,json://127.0.0.1:2/hush")
    with pytest.raises(ConfigError, match="entry 1 is several URLs"):
        channels.check(AlertsConfig(urls=(several,)))
    monkeypatch.setattr(channels, "find_spec", lambda name: None)
    channels.check(AlertsConfig())
    with pytest.raises(ConfigError) as error:
        channels.check(AlertsConfig(urls=(good,)))
    assert str(error.value).endswith("pip install 'engage-amberflo-sync[alerts]'")


def answers(head: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(b"HTTP/1.1 " + head + b"\r\n\r\n")


REFUSES = answers(b"500 No\r\ncontent-length: 0")


def test_each_channel_knows_what_it_was_told_over_reload_and_restart(tmp_path: Path) -> None:
    parts = {"worker": "ended"}
    with webhook() as good, webhook() as bad, databases(tmp_path) as (state, calls):
        good.key = bad.key = "message"
        first, second = (SecretStr(hook.url.replace("http", "json", 1)) for hook in (good, bad))
        config = AlertsConfig(urls=(second, first))

        def started() -> Alerts:
            return Alerts(state, calls, config, lambda: parts)

        bad.answer = REFUSES
        started().check()
        watch = started()
        watch.check()
        watch.configure(AlertsConfig(urls=(first, second)))  # it is in another place now
        watch.check()
        assert of_the_worker(good) == ["worker: ended"]
        # It is over before the other heard of it; and begins again before it hears anything.
        parts.clear()
        watch.check()
        started().check()
        assert of_the_worker(good) == ["worker: ended", "over: worker: ended"]
        parts["worker"] = "ended"
        watch.check()
        bad.answer = None
        watch.check()
        watch.check()
        assert of_the_worker(bad) == ["worker: ended"]
        # One that knows that it is over is told that it began again, and no other.
        bad.answer = REFUSES
        parts.clear()
        watch.check()
        parts["worker"] = "ended"
        watch.check()
        bad.answer = None
        watch.check()
        assert of_the_worker(bad) == ["worker: ended"]
        assert of_the_worker(good) == ["worker: ended", "over: worker: ended"] * 2 + [
            "worker: ended"
        ]


def test_a_text_that_a_service_never_takes_keeps_no_other_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, taken = {"a": "ended", "b": "ended"}, []

    def send(_channel: object, text: str, *, over: bool) -> None:
        if text.startswith("a"):
            raise channels.NotTaken("it does not take alerts")
        taken.append(text)

    monkeypatch.setattr(channels.AppriseUrl, "send", send)
    with databases(tmp_path) as (state, calls):
        config = AlertsConfig(urls=(SecretStr("json://127.0.0.1:1/"),))
        watch = Alerts(state, calls, config, lambda: parts)
        watch.check()
        watch.check()
        watch.check()
    assert taken == ["b: ended"]


def test_a_service_that_redirects_or_drips_has_not_taken_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = threading.Event()

    def drip(connection: socket.socket) -> None:
        answers(b"200 OK\r\ncontent-length: 2")(connection)
        free.wait(60)
        connection.sendall(b"ok")

    with webhook() as hook, webhook() as other:
        hook.key = other.key = "message"
        (service,) = channels.channels(
            AlertsConfig(urls=(SecretStr(hook.url.replace("http", "json", 1)),))
        )
        hook.answer = answers(b"302 Found\r\ncontent-length: 0\r\nlocation: " + other.url.encode())
        with pytest.raises(channels.NotTaken):
            service.send("a", over=False)
        assert (hook.requests, other.requests) == (1, 0)
        monkeypatch.setattr(channels, "TIMEOUT", 0.5)
        hook.answer = drip
        for text in ("a", "b", "a"):
            with pytest.raises(channels.NotTaken, match="does not answer"):
                service.send(text, over=False)
        monkeypatch.setattr(channels, "TIMEOUT", 60.0)
        free.set()
        service.send("a", over=False)  # it took the one that was under way
        assert hook.requests == 2
