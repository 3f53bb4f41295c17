"""Serves the receiver: one HTTP server in this process, until told to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from syncer.errors import ConfigError

#: Connections at a time; more are answered 503.
CONNECTIONS = 2000
#: Seconds that a request has from its first byte (the first one from its connection) to its last.
REQUEST_TIME = 20.0
#: Seconds that requests under way get to end after a stop.
DRAIN = 10


class _Protocol(HttpToolsProtocol):
    """Closes connections whose request does not come to its end, which uvicorn leaves open."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._await_request()

    def on_message_complete(self) -> None:
        self._request_is_there()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_there()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_TIME, self.transport.close)

    def _request_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bind(host: str, port: int, setting: str = "passthrough.listen") -> socket.socket:
    """The listening socket; `ConfigError` where the address of the setting is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or the event loop leaves Nagle's algorithm on and every answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror}; free it or name another"
        ) from None
    return listener


async def serve(app: Any, listener: socket.socket, stop: Callable[[], bool]) -> None:
    """Serve until `stop` says so, then let requests under way end."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN,
        )
    )
    # It takes SIGINT and SIGTERM itself while it serves, and raises them again for us at its end.
    serving = asyncio.create_task(server.serve([listener]))
    while not serving.done():
        server.should_exit = server.should_exit or stop()
        await asyncio.wait([serving], timeout=0.1)
    serving.result()
