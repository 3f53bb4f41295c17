"""Serve an ASGI app over HTTP in this process until told to stop, within limits.py."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from syncer.errors import ConfigError
from syncer.process import limits
from syncer.process.pool import Pool
from syncer.process.protocol import LimitedProtocol


def bind(host: str, port: int, setting: str = "passthrough.listen") -> socket.socket:
    """Return a listening socket; raises `ConfigError` if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, the event loop turns Nagle's algorithm off: it delays by 40 ms.
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


def allowed(connections: int) -> int:
    """Raise the limit of open files as far as allowed; return how many connections it permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + limits.OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(min(connections, soft - limits.OTHER_FILES), 1)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its process: a child of the daemon ignores them."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(
    app: Any,
    listener: socket.socket,
    stop: Callable[[], bool],
    *,
    connections: int | None = None,
    on_refused: Callable[[str], None] = lambda code: None,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Serve until `stop` returns true, then let requests under way end.

    `on_refused` gets the code of each request that is refused before the app sees it. `on_stop` is
    called when requests under way begin to end, and may be called again.
    """
    pool = Pool(allowed(connections or limits.CONNECTIONS), on_refused)
    server = _Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(LimitedProtocol, pool=pool)),
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            timeout_graceful_shutdown=limits.DRAIN_TIMEOUT,
        )
    )
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not serving.done():
            server.should_exit = server.should_exit or stop()
            if server.should_exit:
                on_stop()
            pool.enforce_timeouts(loop.time())
            await asyncio.wait([serving], timeout=0.1)
        serving.result()
    finally:  # also where `stop` fails: its connections end with it
        server.should_exit = server.force_exit = True
        await asyncio.wait([serving])
