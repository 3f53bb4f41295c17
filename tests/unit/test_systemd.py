"""What systemd gets to hear, at a real socket."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncer.process.systemd import Watchdog, notify, reloading


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket where systemd listens; its address is in the environment as systemd puts it."""
    name = f"@syncer-test-{uuid.uuid4().hex}" if request.param == "abstract" else "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "abstract":
            listening.bind("\0" + name[1:])
        else:
            name = str(tmp_path / name)
            listening.bind(name)
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        yield listening


def heard(listening: socket.socket) -> list[str]:
    """All that was said since the last time."""
    messages = []
    while True:
        try:
            messages.append(listening.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_what_is_said_is_heard(systemd: socket.socket) -> None:
    notify("READY=1")
    notify("STOPPING=1", "STATUS=draining é")
    assert heard(systemd) == ["READY=1", "STOPPING=1\nSTATUS=draining é"]


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    """systemd wants the monotonic clock's microseconds with it (Type=notify-reload)."""
    before = time.monotonic_ns() // 1000
    reloading()
    (said,) = heard(systemd)
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", said)
    assert match is not None
    assert before <= int(match[1]) <= time.monotonic_ns() // 1000


def test_the_watchdog_is_fed_twice_as_often_as_it_wants(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    watchdog = Watchdog()
    watchdog()
    watchdog()
    assert heard(systemd) == ["WATCHDOG=1"]
    until, began = time.monotonic() + 0.45, time.monotonic()
    while time.monotonic() < until:
        watchdog()
        time.sleep(0.005)
    said, took = heard(systemd), time.monotonic() - began
    assert set(said) == {"WATCHDOG=1"}
    assert 2 <= len(said) <= took / 0.1 + 1


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_without_a_watchdog_nothing_is_said(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    if setting is not None:
        monkeypatch.setenv("WATCHDOG_USEC", setting)
    watchdog = Watchdog()
    for _ in range(3):
        watchdog()
    assert heard(systemd) == []


def test_where_nobody_listens_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    open_files = len(os.listdir("/proc/self/fd"))
    gone = str(tmp_path / "gone")
    for address in ("", gone, "@syncer-test-nobody", "/" + "x" * 200, None):
        if address is None:
            monkeypatch.delenv("NOTIFY_SOCKET")
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
        reloading()
        Watchdog()()
    assert not os.path.exists(gone)
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_who_listened_may_go_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(path))
            notify("READY=1")
            assert listening.recv(100) == b"READY=1"
        notify("READY=1")
        path.unlink()
