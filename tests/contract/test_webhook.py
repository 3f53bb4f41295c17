"""The webhook of alerts: whatever it answers costs a retry, and holds nobody up for long."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from state.db.database import Database
from state.errors import StateError
from syncer.config import AlertsConfig
from syncer.daemon import alerts as module
from syncer.daemon import channels
from syncer.daemon.alerts import Alerts
from tests.support.webhook import webhook


def send(alerts: Alerts) -> bool:
    """Send a text to the only channel; return whether it took it."""
    channels = alerts._channels
    return bool(list(channels.send("text", channels.marks)))


@pytest.fixture
def alerts(tmp_path: Path) -> Iterator[Callable[[str], Alerts]]:
    """Alerts that go to a webhook."""
    url = f"sqlite:///{tmp_path / 'syncer.db'}"
    with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as calls:
        yield lambda hook: Alerts(state, calls, AlertsConfig(webhook=SecretStr(hook)))


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: \xff\r\n\r\n" + bytes(100_000),
        b"",
    ],
)
def test_a_webhook_that_answers_no_http_breaks_nothing(
    alerts: Callable[[str], Alerts], answer: bytes
) -> None:
    with webhook() as hook:
        hook.answer = lambda connection: connection.sendall(answer)
        send(alerts(hook.url))
        assert hook.requests == 1


def drip(connection: socket.socket, begin: bytes, piece: bytes) -> None:
    """Send for ever, a little at a time, or nothing more; until the other end is closed."""
    connection.sendall(begin)
    while piece or connection.recv(1):
        connection.sendall(piece)
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        (b"HT", b""),
    ],
    ids=["body", "head", "silence"],
)
def test_a_webhook_that_drips_is_cut_off(
    alerts: Callable[[str], Alerts], monkeypatch: pytest.MonkeyPatch, begin: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(channels, "TIMEOUT", 0.5)
    with webhook() as hook:
        hook.answer = lambda connection: drip(connection, begin, piece)
        began = time.monotonic()
        assert not send(alerts(hook.url))
        assert time.monotonic() - began < 5


def test_a_redirect_of_the_webhook_is_not_followed(alerts: Callable[[str], Alerts]) -> None:
    with webhook() as hook, webhook() as other:
        moved = f"HTTP/1.1 302 Found\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n"
        hook.answer = lambda connection: connection.sendall(moved.encode())
        assert not send(alerts(hook.url))
        assert (hook.requests, other.requests) == (1, 0)


def test_a_webhook_that_no_name_leads_to(alerts: Callable[[str], Alerts]) -> None:
    assert not send(alerts("http://no-such-host.invalid/hook"))


def test_a_state_that_cannot_be_used_is_told_without_it(
    alerts: Callable[[str], Alerts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once when it lasts, and once when it is over; however often it shows."""
    monkeypatch.setattr(module, "STATE_GONE_AFTER", 0.3)
    with webhook() as hook:
        watch = alerts(hook.url)
        watch.state_gone(StateError("the disk is full"))
        assert hook.texts == []
        time.sleep(0.4)
        hook.answer = lambda connection: connection.sendall(b"nonsense")
        watch.state_gone(StateError("the disk is full"))
        hook.answer = None
        watch.state_gone(StateError("the disk is full"))
        watch.state_gone(StateError("the disk is full"))
        text = "no alert can be recorded: the disk is full"
        assert hook.texts == [f"syncer: {text}"]
        watch.check()
        watch.check()
        assert hook.texts == [f"syncer: {text}", f"syncer: over: {text}"]


@pytest.mark.parametrize(("status", "sent"), [(400, ["syncer: b: ended"]), (500, [])])
def test_a_text_that_is_refused_keeps_no_other_one_back(
    tmp_path: Path, status: int, sent: list[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'syncer.db'}"
    parts = {"a": "ended", "b": "ended"}
    with (
        webhook() as hook,
        closing(Database.open(url)) as state,
        closing(Database.open(url, "queue")) as calls,
    ):

        def refuse(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status)
            hook.answer = None

        hook.answer = refuse
        watch = Alerts(state, calls, AlertsConfig(webhook=SecretStr(hook.url)), lambda: parts)
        watch.check()
        assert hook.texts == sent
        watch.check()  # it is tried again
        assert sorted(hook.texts) == ["syncer: a: ended", "syncer: b: ended"]
