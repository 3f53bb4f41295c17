"""Notify systemd (sd_notify): ready, reloading, stopping, and alive.

A notification is a datagram to the socket that NOTIFY_SOCKET names; without it nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def notify(*lines: str) -> None:
    """Send lines such as READY=1."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with to, suppress(OSError):  # systemd may have closed it: no reason for us to end
        to.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """Notify that a reload begins; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Watchdog:
    """Notifies that we live, twice as often as systemd requires (WATCHDOG_USEC)."""

    def __init__(self) -> None:
        self._every = int(os.environ.get("WATCHDOG_USEC") or 0) / 2e6
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if self._every and now >= self._next:
            self._next = now + self._every
            notify("WATCHDOG=1")
